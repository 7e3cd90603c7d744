package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// report writes swarm.md and its pictures into a folder.
func (s *crowded) report(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // documents for everybody
		return err
	}
	var at, rss, there series
	for _, p := range s.samples {
		at, rss, there = append(at, p.at.Seconds()), append(rss, p.rss), append(there, float64(p.connected))
	}
	value := make(map[string]float64)
	for _, f := range s.figures {
		value[f.name] = f.value
	}
	bars := []figure{
		{name: "idle: RSS", value: value["gateway_kib_per_idle_device"]},
		{name: "of it, the heap in use", value: value["gateway_heap_kib_per_device"]},
		{name: "of it, stacks of goroutines", value: value["gateway_stack_kib_per_device"]},
		{name: "highest RSS, all handshakes at once", value: value["gateway_kib_per_device_at_peak"]},
		{name: "kernel: buffers of both ends", value: value["kernel_buffers_kib_per_device"]},
		{name: "kernel: sockets of both ends", value: value["kernel_sockets_kib_per_device"]},
	}
	title := fmt.Sprintf("%d devices at one gateway", s.n)
	return errors.Join(
		writeFile(filepath.Join(dir, "swarm-time.svg"), func(f *os.File) error {
			return plotTime(f, title, at, curve{"RSS of the gateway, MiB", rss}, curve{"devices connected", there}, s.phases)
		}),
		writeFile(filepath.Join(dir, "swarm-memory.svg"), func(f *os.File) error {
			return plotBars(f, title+": KiB for each", "KiB", bars, 20)
		}),
		writeFile(filepath.Join(dir, "swarm.md"), func(f *os.File) error {
			_, err := f.WriteString(s.text(title))
			return err
		}),
	)
}

func (s *crowded) text(title string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n", title)
	from := "They come from one address, of which the gateway lets 1024 do handshakes at a time, and turns the others away until later."
	if manyAddresses {
		from = fmt.Sprintf("%d come from each address.", accountSize)
	}
	fmt.Fprintf(&b, "Made by `make swarm` on %s. %s. All processes run on this machine: the gateway with its database on the disk, and the agents, which are the real ones, %d in each process. %s\n\n",
		time.Now().UTC().Format(time.DateOnly), machine(), agentsPerProcess, from)
	b.WriteString("![memory and devices over time](swarm-time.svg)\n\n![memory for each device](swarm-memory.svg)\n\n| figure | value | what it is |\n|---|---:|---|\n")
	for _, f := range s.figures {
		fmt.Fprintf(&b, "| `%s` | %.2f | %s |\n", f.name, f.value, f.about)
	}
	b.WriteString("\nThe kernel's memory is not in the RSS; it is that of both ends of the connections, which are on one machine here.\n")
	return b.String()
}

// machine says on what a figure was measured.
func machine() string {
	model, memory, kernel := "unknown CPU", "", "unknown kernel"
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(v)
			break
		}
	}
	text, _ = os.ReadFile("/proc/meminfo")
	var kib int64
	if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kib); err == nil {
		memory = fmt.Sprintf(", %d GiB", (kib+1<<19)>>20)
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		release, _, _ := strings.Cut(strings.TrimSpace(string(text)), "-")
		kernel = "Linux " + release
	}
	return fmt.Sprintf("%d × %s%s, %s, %s", runtime.NumCPU(), model, memory, kernel, runtime.Version())
}

func writeFile(name string, write func(*os.File) error) error {
	f, err := os.Create(name) //nolint:gosec // where the user wants the report
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
