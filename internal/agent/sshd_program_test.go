//go:build unix

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestSSHClientGone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		options []string
	}{{"without terminal", nil}, {"with terminal", []string{"-tt"}}} {
		t.Run("L-01 SIGHUP comes "+c.name, func(t *testing.T) {
			t.Parallel()
			b := newSSHBed(t)
			// The trap writes a file, as there is nobody left to read its output.
			cmd := b.ssh(`trap 'echo hup >trapped; exit' HUP; echo pid $$; while :; do sleep 1000 & wait; done`, c.options...)
			pid := atoi(t, startUntil(t, cmd, "pid "))
			_ = cmd.Process.Kill()
			waitFor(t, "the end of the program", func() bool { return !alive(pid) })
			if got, err := os.ReadFile(filepath.Join(b.home, "trapped")); err != nil || string(got) != "hup\n" {
				t.Errorf("%q, %v", got, err)
			}
			if err := <-b.ended; err != nil {
				t.Error(err)
			}
		})
		t.Run("L-01 SIGHUP comes to a stopped program "+c.name, func(t *testing.T) {
			t.Parallel()
			b := newSSHBed(t)
			cmd := b.ssh(`trap 'echo hup >trapped; exit' HUP; echo pid $$; kill -STOP $$; sleep 1000`, c.options...)
			pid := atoi(t, startUntil(t, cmd, "pid "))
			_ = cmd.Process.Kill()
			waitFor(t, "the end of the program", func() bool { return !alive(pid) })
			if got, err := os.ReadFile(filepath.Join(b.home, "trapped")); err != nil || string(got) != "hup\n" {
				t.Errorf("%q, %v", got, err)
			}
		})
		t.Run("L-01 SIGKILL for the group that ignores SIGHUP "+c.name, func(t *testing.T) {
			t.Parallel()
			b := newSSHBed(t)
			cmd := b.ssh(`trap '' HUP; sleep 1000 & echo pid $$ $!; wait`, c.options...)
			pids := strings.Fields(startUntil(t, cmd, "pid "))
			_ = cmd.Process.Kill()
			for _, pid := range pids {
				waitFor(t, "the end of "+pid, func() bool { return !alive(atoi(t, pid)) })
			}
			if err := <-b.ended; err != nil {
				t.Error(err)
			}
		})
		t.Run("L-01 the connection is cut from this side "+c.name, func(t *testing.T) {
			t.Parallel()
			b := newSSHBed(t)
			pid := atoi(t, startUntil(t, b.ssh(`echo pid $$; exec sleep 1000`, c.options...), "pid "))
			b.cancel()
			if err := <-b.ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			if alive(pid) {
				t.Error("the program is there although ServeConn has returned")
			}
		})
	}
	t.Run("L-01 a channel is closed and the connection goes on", func(t *testing.T) {
		t.Parallel()
		b := newSSHBed(t)
		client := b.client()
		s := newSession(t, client)
		out := new(lockedBuffer)
		s.Stdout = out
		if err := s.Start("echo pid $$; exec sleep 1000"); err != nil {
			t.Fatal(err)
		}
		pid := atoi(t, out.after(t, "pid "))
		_ = s.Close()
		waitFor(t, "the end of the program", func() bool { return !alive(pid) })
		if err := newSession(t, client).Run("true"); err != nil {
			t.Error(err)
		}
	})
}

func TestSSHIgnoredSignalsAreNotInherited(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		skip(t, "needs /proc")
	}
	signal.Ignore(syscall.SIGHUP) // and for good: signal.Reset would undo what the server does too
	b := newSSHBed(t)
	got := mustRun(t, b.ssh("grep SigIgn /proc/self/status"))
	fields := strings.Fields(got)
	if len(fields) != 2 {
		t.Fatalf("%q", got)
	}
	ignored, err := strconv.ParseUint(fields[1], 16, 64)
	// Signals 32 and 33 are the C library's own: whoever started the tests may have
	// left them ignored, and no program can change that (signal(7)).
	if ignored &^= 3 << 31; err != nil || ignored != 0 {
		t.Errorf("%q: %v", got, err)
	}
}

func TestSSHBackground(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	for _, c := range []struct {
		name    string
		options []string
	}{{"without terminal", nil}, {"with terminal", []string{"-tt"}}} {
		t.Run("a daemon that keeps the output open "+c.name, func(t *testing.T) {
			t.Parallel()
			o := runCmd(t, b.ssh(`trap '' HUP; sleep 1000 & echo pid $!; exit 4`, c.options...))
			pid := atoi(t, strings.TrimPrefix(o.stdout, "pid "))
			t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
			if o.code != 4 {
				t.Errorf("%+v", o)
			}
			if !alive(pid) {
				t.Error("it was killed with the session")
			}
		})
	}
}

func TestSSHSlowClient(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	// The window holds 2 MiB, so that the program ends while its last 48 KiB are
	// in the pipe, where they have to outlive quietLimit.
	const size = 2<<20 + 48<<10
	s := newSession(t, b.client())
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	pids, err := s.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(fmt.Sprintf("echo $$ >&2; exec head -c %d /dev/zero", size)); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 32)
	n, err := pids.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	pid := atoi(t, string(line[:n]))
	waitFor(t, "the end of the program", func() bool { return !alive(pid) })
	<-time.After(quietLimit + time.Second)
	got, err := io.Copy(io.Discard, out)
	if err != nil || got != size {
		t.Errorf("%d bytes of %d, %v", got, size, err)
	}
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
}

func TestDrainWaitsForTheClient(t *testing.T) {
	t.Parallel()
	from, program, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	client, to := io.Pipe()
	ended := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		drain(to, from, ended)
		_ = to.Close()
	}()
	// Nobody reads: the program can write a pipe's capacity and one buffer, no more.
	if err := program.SetWriteDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	wrote, err := program.Write(make([]byte, 1<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) || wrote > 256<<10 {
		t.Errorf("wrote %d bytes, %v", wrote, err)
	}
	_ = program.Close()
	if got, err := io.Copy(io.Discard, client); err != nil || got != int64(wrote) {
		t.Errorf("%d of %d bytes, %v", got, wrote, err)
	}
	<-done
	_ = from.Close()
}
