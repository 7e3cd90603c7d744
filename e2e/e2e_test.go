// Package e2e runs the real programs against real peers: scripts that a user
// could have typed (testdata/script/*.txt), and rounds of kill -9 under load.
package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// programs is the folder of the binaries under test, built once by TestMain.
var programs string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "socketxp-e2e-")
	if err != nil {
		panic(err)
	}
	programs = filepath.Join(dir, "bin")
	if err := buildPrograms(); err != nil {
		panic(err)
	}
	m.Run()
	stopPostgres()
	if err := os.RemoveAll(dir); err != nil {
		panic(err)
	}
}

// buildPrograms builds what is tested as `make build` does, with the race detector
// if the tests have it.
func buildPrograms() error {
	args, cgo := []string{"build", "-trimpath", "-o", programs + string(filepath.Separator)}, "CGO_ENABLED=0"
	if raceEnabled {
		args, cgo = append(args, "-race"), "CGO_ENABLED=1"
	}
	for _, program := range [][]string{{"../cmd/socketxp-gateway"}, {"-tags", "nethttpomithttp2", "../cmd/socketxp"}} {
		build := exec.Command("go", append(slices.Clone(args), program...)...)
		build.Env = append(os.Environ(), cgo)
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build the programs: %w\n%s", err, out)
		}
	}
	return nil
}

// needs fails in CI, and skips at a desk, when a program is not installed.
func needs(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err == nil {
			continue
		}
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed: CI must run everything", n)
		}
		t.Skipf("%s is not installed", n)
	}
}

func TestScripts(t *testing.T) {
	needs(t, "ssh", "sshd", "ssh-keygen", "scp", "sftp", "rsync", "curl", "psql", "nc", "python3", "ansible", "plink", "pscp", "psftp", "puttygen", "lftp", "nginx", "haproxy", "squid", "ip", "nft", "tc")
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Deadline:            time.Now().Add(15 * time.Minute),
		Setup:               setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"start":    cmdStart,
			"end":      cmdEnd,
			"await":    cmdAwait,
			"ended":    cmdEnded,
			"gateway":  cmdGateway,
			"sshd":     cmdSSHD,
			"postgres": cmdPostgres,
			"capture":  cmdCapture,
			"api":      cmdAPI,
			"awaitapi": cmdAwaitAPI,
			"nowhere":  cmdNowhere,
			"random":   cmdRandom,
			"fails":    cmdFails,
			"expired":  cmdExpired,
			"port":     cmdPort,
			"fill":     cmdFill,
			"readme":   cmdReadme,
			"tlsproxy": cmdTLSProxy,
			"middle":   cmdMiddle,
			"newcert":  cmdNewCert,
			"nat":      cmdNAT,
			"holds":    cmdHolds,
			"lacks":    cmdLacks,
			"known":    cmdKnown,
			"signin":   cmdSignIn,
			"disk":     cmdDisk,
		},
	})
}

// setup gives every script its own home, state folders and processes.
func setup(env *testscript.Env) error {
	s := &stage{work: env.WorkDir, procs: make(map[string]*process)}
	env.Values[stageKey{}] = s
	disks := &mounted{}
	env.Values[mountedKey{}] = disks
	env.Defer(disks.unmount) // after the programs that use them have ended
	env.Defer(s.stopAll)
	env.Setenv("PATH", programs+string(filepath.ListSeparator)+os.Getenv("PATH")+":/usr/sbin")
	env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
	env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "state"))
	env.Setenv("XDG_CONFIG_HOME", "")
	env.Setenv("TMPDIR", env.WorkDir)
	env.Setenv("NO_COLOR", "1")
	env.Setenv("GORACE", "halt_on_error=1 exitcode=66")
	env.Setenv("GW", filepath.Join(env.WorkDir, "gateway"))
	return os.MkdirAll(filepath.Join(env.WorkDir, "home"), 0o700)
}

type stageKey struct{}

func stageOf(ts *testscript.TestScript) *stage {
	s, _ := ts.Value(stageKey{}).(*stage)
	return s
}

// waitFor polls until ok returns nil, and returns its last error when the time
// is up.
func waitFor(total time.Duration, ok func() error) error {
	deadline := time.Now().Add(total)
	for {
		err := ok()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %v: %w", total, err)
		}
		tick := time.NewTimer(20 * time.Millisecond)
		<-tick.C
	}
}

var errNotYet = errors.New("not yet")

// lines returns the last lines of s, for messages.
func lines(s string, n int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if len(all) > n {
		all = all[len(all)-n:]
	}
	return strings.Join(all, "\n")
}
