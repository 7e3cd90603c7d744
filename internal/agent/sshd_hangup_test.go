//go:build unix

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSSHWhatIsLeft says what becomes of a session's processes, besides the one
// that the session is about, when its client is gone.
func TestSSHWhatIsLeft(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		skip(t, "needs /proc")
	}
	// The script prints "pid A B": processes by their ids.
	leave := func(t *testing.T, script string, options ...string) (b *sshBed, pids []int) {
		t.Helper()
		b = newSSHBed(t)
		cmd := b.ssh(script, options...)
		for _, f := range strings.Fields(startUntil(t, cmd, "pid ")) {
			pid := atoi(t, f)
			pids = append(pids, pid)
			t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
		}
		_ = cmd.Process.Kill()
		return b, pids
	}
	gone := func(t *testing.T, pids ...int) {
		t.Helper()
		for _, pid := range pids {
			waitFor(t, fmt.Sprintf("the end of %d", pid), func() bool { return !alive(pid) })
		}
	}

	t.Run("L-01 of the group, what ignores SIGHUP though the shell does not", func(t *testing.T) {
		t.Parallel()
		b, pids := leave(t, `(trap '' HUP; exec sleep 1000) & echo pid $$ $!; wait`)
		gone(t, pids...)
		if err := <-b.ended; err != nil {
			t.Error(err)
		}
	})
	t.Run("L-01 of the group, what ignores SIGTERM and SIGHUP and forks all the time", func(t *testing.T) {
		t.Parallel()
		b, pids := leave(t, `trap '' HUP TERM INT; echo pid $$; while :; do (trap '' HUP; sleep 0.01); done`)
		gone(t, pids...)
		if err := <-b.ended; err != nil {
			t.Error(err)
		}
	})
	t.Run("L-01 the job in the foreground of a terminal that ignores SIGHUP", func(t *testing.T) {
		t.Parallel()
		// With job control each job has a group of its own.
		b, pids := leave(t, `set -m; sh -c 'trap "" HUP; echo pid $PPID $$; while :; do sleep 1000; done'`, "-tt")
		gone(t, pids...)
		if err := <-b.ended; err != nil {
			t.Error(err)
		}
	})
	t.Run("a stopped job in the foreground", func(t *testing.T) {
		t.Parallel()
		b, pids := leave(t, `sh -c 'echo pid $PPID $$; kill -STOP $$'`, "-tt")
		gone(t, pids...)
		if err := <-b.ended; err != nil {
			t.Error(err)
		}
	})
	t.Run("what has left the session goes on, without the channel", func(t *testing.T) {
		t.Parallel()
		b, pids := leave(t, `setsid sh -c 'trap "" PIPE; echo pid $$; while echo still there 2>/dev/null; do sleep 0.1; done; exec sleep 1000' & wait`)
		if err := <-b.ended; err != nil { // although the daemon holds the output
			t.Error(err)
		}
		waitFor(t, "the daemon finds its output closed", func() bool {
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pids[0]))
			return string(name) == "sleep\n"
		})
		if !alive(pids[0]) {
			t.Error("it was killed")
		}
	})
	t.Run("a job in the background of a terminal with nohup goes on, without the terminal", func(t *testing.T) {
		t.Parallel()
		b, pids := leave(t, `set -m; nohup sleep 1000 >/dev/null 2>&1 & echo pid $!; exec sleep 1000`, "-tt")
		if err := <-b.ended; err != nil {
			t.Error(err)
		}
		if !alive(pids[0]) {
			t.Error("it was killed")
		}
		// Its terminal is dead for it: reading gives the end, writing fails.
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pids[0]))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		if terminal := strings.Fields(rest)[4]; terminal != "0" {
			t.Errorf("it has the controlling terminal %s", terminal)
		}
	})
	t.Run("the client leaves while a slow output is delivered", func(t *testing.T) {
		t.Parallel()
		// The shell ends by itself, and leaves one in its group that goes on writing.
		b := newSSHBed(t)
		s := newSession(t, b.client())
		out := new(lockedBuffer)
		s.Stdout = out
		if err := s.Start(`(trap '' HUP PIPE; while :; do echo more; sleep 0.2; done) & echo pid $!`); err != nil {
			t.Fatal(err)
		}
		pid := atoi(t, out.after(t, "pid "))
		waitFor(t, "more", func() bool { return strings.Count(out.String(), "more") > 5 })
		_ = s.Close()
		gone(t, pid)
	})
	t.Run("an orderly end leaves the background alone", func(t *testing.T) {
		t.Parallel()
		b := newSSHBed(t)
		got := mustRun(t, b.ssh(`sleep 1000 >/dev/null 2>&1 & echo $!`))
		pid := atoi(t, got)
		t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
		<-time.After(2 * groupPoll)
		if !alive(pid) {
			t.Error("it was killed")
		}
	})
}

// A group's number that is somebody else's now must not be signalled.
func TestInSession(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		skip(t, "needs /proc")
	}
	b := newSSHBed(t)
	file := filepath.Join(b.home, "pids")
	// A pipeline whose first process, which gave the group its number, has ended.
	cmd := b.ssh(`set -m; true | sleep 1000 & sleep 0.2; cut -d " " -f 5 /proc/$!/stat >`+file+`; echo pid $$; wait`, "-tt")
	session := atoi(t, startUntil(t, cmd, "pid "))
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	group := atoi(t, string(data))
	if !inSession(group, session) || !inSession(session, session) {
		t.Error("its own group is not of the session")
	}
	if inSession(os.Getpid(), session) || inSession(group, os.Getpid()) || inSession(1<<30, session) {
		t.Error("a stranger's group is of the session")
	}
}
