package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/mholt/acmez/v3"
	acmeproto "github.com/mholt/acmez/v3/acme"
)

const (
	// hookWithin is how long a hook may take: some providers need minutes until a record
	// can be seen everywhere, and present must not return before that.
	hookWithin = 10 * time.Minute
	// maxHookOutput is how much of what a hook says is kept for the log.
	maxHookOutput = 2 << 10
)

// checkHook refuses a program that somebody else could put another one in the
// place of, or change.
func checkHook(path string) error {
	if !filepath.IsAbs(path) {
		return errors.New("it is not an absolute path")
	}
	for _, p := range []string{path, filepath.Dir(path)} {
		st, err := os.Stat(p)
		if err != nil {
			return err
		}
		owner, ok := st.Sys().(*syscall.Stat_t)
		switch {
		case p == path && !st.Mode().IsRegular():
			return fmt.Errorf("%s is not a file", p)
		case p == path && st.Mode().Perm()&0o111 == 0:
			return fmt.Errorf("%s is not executable: chmod 755 %s", p, p)
		case st.Mode().Perm()&0o022 != 0 && (p == path || st.Mode()&fs.ModeSticky == 0):
			return fmt.Errorf("%s can be changed by others (mode %#o)", p, st.Mode().Perm())
		case !ok || owner.Uid != 0 && int(owner.Uid) != os.Geteuid():
			return fmt.Errorf("%s belongs to another user", p)
		}
	}
	return nil
}

// hook proves names by DNS-01 (RFC 8555 section 8.4): the operator's program makes
// the records.
type hook struct{ path string }

// hookOf returns nil without a program: then the other challenges are used.
func hookOf(path string) acmez.Solver {
	if path == "" {
		return nil
	}
	return hook{path}
}

// Present implements acmez.Solver: the record can be seen when it returns.
func (h hook) Present(ctx context.Context, c acmeproto.Challenge) error {
	return h.run(ctx, "present", c)
}

// CleanUp implements acmez.Solver.
func (h hook) CleanUp(ctx context.Context, c acmeproto.Challenge) error {
	return h.run(ctx, "cleanup", c)
}

func (h hook) run(ctx context.Context, what string, c acmeproto.Challenge) error {
	if err := checkHook(h.path); err != nil { // again: it may have changed
		return fmt.Errorf("the DNS hook: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, hookWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.path, what, c.DNS01TXTRecordName(), c.DNS01KeyAuthorization()) //nolint:gosec // the operator's own program
	// Nothing of the gateway's environment, which may hold a database's password.
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	cmd.Dir = "/"
	out := &bounded{limit: maxHookOutput}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second // for what it has started, and left behind with its output
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("the DNS hook %s %s: %w: %q", h.path, what, err, strings.TrimSpace(out.kept.String()))
	}
	return nil
}

// bounded keeps the beginning of what is written.
type bounded struct {
	kept  bytes.Buffer
	limit int
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	if room := b.limit - b.kept.Len(); room > 0 {
		_, _ = b.kept.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
