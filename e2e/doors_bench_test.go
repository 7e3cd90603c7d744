package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkDoors is what one connection from a device's service to a laptop carries,
// and what that costs the gateway and both agents together, through each door that
// they may have to take (make bench-doors).
func BenchmarkDoors(b *testing.B) {
	b.Run("direct", func(b *testing.B) { benchmarkDoors(b) })
	b.Run("device in a WebSocket", func(b *testing.B) { benchmarkDoors(b, "device") })
	b.Run("both in a WebSocket", func(b *testing.B) { benchmarkDoors(b, "device", "laptop") })
}

func benchmarkDoors(b *testing.B, inWebSocket ...string) {
	const chunk = 1 << 20
	r := reachThrough(b, nil)
	for _, name := range []string{"laptop", "device"} {
		if err := r.stop(name); err != nil {
			b.Fatal(err)
		}
	}
	// An agent tries first what it remembers, and a better way after minutes only.
	for _, name := range inWebSocket {
		if err := os.WriteFile(r.waysOf(name), []byte(fmt.Sprintf(`{"gateway":%q,"control":"websocket","links":"websocket","found":%q}`,
			r.gateway, time.Now().UTC().Format(time.RFC3339))), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	var err error
	if r.service, err = endless(b); err != nil {
		b.Fatal(err)
	}
	if err := r.startDevice(); err != nil {
		b.Fatal(err)
	}
	if err := r.startLaptop(); err != nil {
		b.Fatal(err)
	}
	c, err := net.Dial("tcp", "localhost:"+r.port)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	buf := make([]byte, chunk)
	for range 64 { // TCP's windows are open then
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
	used := func() (all time.Duration) {
		for _, name := range []string{"gateway", "device", "laptop"} {
			p, err := r.stage.proc(name)
			if err != nil {
				b.Fatal(err)
			}
			all += cpuTime(p.cmd.Process.Pid)
		}
		return all
	}
	b.SetBytes(chunk)
	before := used()
	for b.Loop() {
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((used()-before).Seconds()/(float64(b.N)*chunk/1e9), "cpu-s/GB")
	for _, name := range []string{"device", "laptop"} {
		door := "direct"
		for _, n := range inWebSocket {
			if n == name {
				door = "websocket"
			}
		}
		text, err := os.ReadFile(r.waysOf(name))
		if err != nil || strings.Count(string(text), `"`+door+`"`) != 2 {
			b.Errorf("the %s has not come %s: %s, %v", name, door, text, err)
		}
	}
}

// waysOf is the file in which an agent remembers its doors.
func (r *reached) waysOf(name string) string {
	return filepath.Join(r.stage.work, name, "ways.json")
}

// stop ends an agent.
func (r *reached) stop(name string) error {
	p, err := r.stage.proc(name)
	if err != nil {
		return err
	}
	p.signal(syscall.SIGINT)
	_, err = p.wait(30 * time.Second)
	return err
}

// endless is a service that says as much as one takes. It returns its port.
func endless(t testing.TB) (port string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				buf := make([]byte, 256<<10)
				for {
					if _, err := c.Write(buf); err != nil {
						return
					}
				}
			}()
		}
	}()
	_, port, err = net.SplitHostPort(l.Addr().String())
	return port, err
}
