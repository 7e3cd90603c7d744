//go:build unix

package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"testing"

	"socketxp"
)

// faultyLog panics once, when it is told a message that begins so.
type faultyLog struct {
	slog.Handler
	begin string
	fired *chan struct{} // holds one token until it has
}

const secretOfPanic = "canary-in-a-panic"

// newFaultyLog returns a log that panics at the first message that begins so, and
// what was logged.
func newFaultyLog(begin string) (*slog.Logger, *lockedBuffer) {
	text := &lockedBuffer{}
	token := make(chan struct{}, 1)
	token <- struct{}{}
	return slog.New(faultyLog{slog.NewTextHandler(text, &slog.HandlerOptions{Level: slog.LevelDebug}), begin, &token}), text
}

func (f faultyLog) Handle(ctx context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, f.begin) {
		select {
		case <-*f.fired:
			panic(errors.New(secretOfPanic))
		default:
		}
	}
	return f.Handler.Handle(ctx, r)
}

func (f faultyLog) WithAttrs(a []slog.Attr) slog.Handler {
	f.Handler = f.Handler.WithAttrs(a)
	return f
}

// tellsOfFault fails unless the log says what was lost and where, and no secret.
func tellsOfFault(t *testing.T, log *lockedBuffer, what string) {
	t.Helper()
	lost := "lost=" + what
	if strings.Contains(what, " ") {
		lost = "lost=" + strconv.Quote(what)
	}
	until(t, func() error {
		if !strings.Contains(log.String(), lost+" ") {
			return errNotYet
		}
		return nil
	})
	text := log.String()
	if !strings.Contains(text, "guard_test.go:") || !strings.Contains(text, "*errors.errorString") || !strings.Contains(text, "faults=") {
		t.Errorf("the log doesn't say where it was: %s", text)
	}
	if strings.Contains(text, secretOfPanic) {
		t.Errorf("the log has what the panic had: %s", text)
	}
}

func TestP22PanicsCostOneThing(t *testing.T) {
	b := newBed(t)
	for name, at := range map[string]string{
		"link":            "a link is open",
		"control channel": "connected",
	} {
		t.Run("P-22 a device's "+name, func(t *testing.T) {
			log, text := newFaultyLog(at)
			dir, _ := b.login("sensor-" + strings.ReplaceAll(name, " ", "-"))
			echoes := service(t, echo)
			device := connectWith(t, ConnectOptions{Dir: dir, Tunnels: []Tunnel{echoes}, Log: log})
			await(t, device.connected)
			laptop := b.visit(newDir(t), "sensor-"+strings.ReplaceAll(name, " ", "-"), echoes.Destination.Port)
			url := await(t, laptop.listening)
			until(t, func() error { // the one that is lost, and the next
				if back, err := say(url, "hello"); err != nil || back != "hello" {
					return errNotYet
				}
				return nil
			})
			tellsOfFault(t, text, name)
			laptop.stop()
			device.stop()
		})
	}
	t.Run("P-22 a laptop's connection", func(t *testing.T) {
		log, text := newFaultyLog("a connection has ended")
		dir, _ := b.login("sensor")
		echoes := service(t, echo)
		device := connect(t, dir, echoes)
		await(t, device.connected)
		laptop := b.visit(newDir(t), "sensor", echoes.Destination.Port, func(o *VisitOptions) { o.Log = log })
		url := await(t, laptop.listening)
		_, _ = say(url, "hello")
		tellsOfFault(t, text, "connection")
		if back, err := say(url, "hello"); err != nil || back != "hello" {
			t.Errorf("%q, %v", back, err)
		}
		laptop.stop()
		device.stop()
	})
}

func TestP22SSHPanicsCostOneStream(t *testing.T) {
	t.Run("P-22 a session", func(t *testing.T) {
		log, text := newFaultyLog("ssh session started")
		b := newSSHBed(t, func(s *SSHServer) { s.log = log })
		client := b.client()
		if err := newSession(t, client).Run("true"); err == nil {
			t.Error("the session was not lost: this test means nothing")
		}
		tellsOfFault(t, text, "ssh session")
		if out, err := newSession(t, client).Output("echo here"); err != nil || string(out) != "here\n" {
			t.Errorf("another one of the same connection: %q, %v", out, err)
		}
	})
	t.Run("P-22 a forwarding", func(t *testing.T) {
		log, text := newFaultyLog("nothing")
		first := true
		b := newSSHBed(t, func(s *SSHServer) {
			s.log = log
			s.dial = func(context.Context, socketxp.Destination) (net.Conn, error) {
				if first {
					first = false
					panic(errors.New(secretOfPanic))
				}
				near, far := net.Pipe()
				return faultyConn{near, far}, nil
			}
		})
		client := b.client()
		session := newSession(t, client)
		in, err := session.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := session.Start("cat"); err != nil {
			t.Fatal(err)
		}
		if c, err := client.Dial("tcp", "127.0.0.1:1"); err == nil {
			t.Error("the forwarding was not lost: this test means nothing")
			_ = c.Close()
		}
		tellsOfFault(t, text, "ssh forwarding")
		c, err := client.Dial("tcp", "127.0.0.1:1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a stream that has panicked says something")
		}
		tellsOfFault(t, text, "ssh stream")
		_ = in.Close()
		if err := session.Wait(); err != nil {
			t.Errorf("another session of the same connection: %v", err)
		}
	})
}

// faultyConn panics when it is read.
type faultyConn struct {
	net.Conn
	far net.Conn
}

func (faultyConn) Read([]byte) (int, error) { panic(errors.New(secretOfPanic)) }

func (c faultyConn) Close() error {
	_ = c.far.Close()
	return c.Conn.Close()
}
