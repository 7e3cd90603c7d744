package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"socketxp/internal/api"
)

// BenchmarkTerminal is what a terminal in a browser shows of a program that puts out
// lines of 64 bytes as fast as it can: from the pty through the built-in SSH server, the
// link and the gateway to a page that takes it, and what that costs the gateway and the
// agent (make bench-terminal).
func BenchmarkTerminal(b *testing.B) {
	const chunk = 1 << 20
	r := reachThrough(b, nil)
	for _, name := range []string{"laptop", "device"} {
		if err := r.stop(name); err != nil {
			b.Fatal(err)
		}
	}
	p, err := r.stage.start("device", r.agentEnv("device"), filepath.Join(programs, "socketxp"), "connect", "tcp://localhost:2222", "--enable-ssh")
	if err == nil {
		_, err = p.await("stdout", "^Connected to", time.Minute)
	}
	if err != nil {
		b.Fatal(err)
	}
	owner, err := signIn(r.gateway)
	if err != nil {
		b.Fatal(err)
	}
	answer, err := owner.must("GET", "/api/v1/devices", "")
	if err != nil {
		b.Fatal(err)
	}
	id, err := lookup(answer, "items.0.id")
	if err != nil {
		b.Fatal(err)
	}
	answer, err = owner.must("POST", "/api/v1/devices/"+id+"/terminals", `{"port":2222}`)
	if err != nil {
		b.Fatal(err)
	}
	var opened api.Terminal
	if err := json.Unmarshal(answer, &opened); err != nil {
		b.Fatal(err)
	}
	w := attach(b, owner, opened)
	w.conn.SetReadLimit(1 << 20)
	w.until("the shell", func(state, _ string) bool { return state == "open" })
	w.typed("exec yes " + strings.Repeat("0123456789", 6) + "12\n")
	had, acked := int64(w.seen.Len()), int64(0)
	// take reads n bytes more, and says so as the portal's page does.
	take := func(n int64) {
		for want := had + n; had < want; {
			kind, message, err := w.conn.Read(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			if kind == websocket.MessageBinary {
				had += int64(len(message))
			}
			if had-acked >= 128<<10 {
				acked = had
				w.say(fmt.Sprintf(`{"type":"ack","bytes":%d}`, acked))
			}
		}
	}
	take(16 * chunk)
	used := func(name string) time.Duration {
		p, err := r.stage.proc(name)
		if err != nil {
			b.Fatal(err)
		}
		return cpuTime(p.cmd.Process.Pid)
	}
	b.SetBytes(chunk)
	gateway, device := used("gateway"), used("device")
	for b.Loop() {
		take(chunk)
	}
	perGB := func(d time.Duration) float64 { return d.Seconds() / (float64(b.N) * chunk / 1e9) }
	b.ReportMetric(perGB(used("gateway")-gateway), "gateway-cpu-s/GB")
	b.ReportMetric(perGB(used("device")-device), "device-cpu-s/GB")
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
