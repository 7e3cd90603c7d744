package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"socketxp": main})
}

// TestScripts runs the program as people do, as far as that needs no gateway; with
// one, e2e does.
func TestScripts(t *testing.T) {
	// A gateway that closes every connection: its port is ours as long as this runs.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "state"))
			env.Setenv("SOCKETXP_WORK_DIR", filepath.Join(env.WorkDir, "work"))
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, "config"))
			env.Setenv("SOCKETXP_AUTHTOKEN", "")
			env.Setenv("SOCKETXP_API_TOKEN", "")
			env.Setenv("SOCKETXP_PROFILE", "")
			env.Setenv("NO_COLOR", "1")
			env.Setenv("DEAD", "https://"+l.Addr().String())
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"fails": fails},
	})
}

// fails is `fails STATUS COMMAND ARG...`: the program must end with just that status.
func fails(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := err.(*exec.ExitError) //nolint:errorlint // as ts.Exec returns it
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("it ended with status %d, want %d", got, want)
	}
}

// maxSize is what flash is spent on the stripped linux/amd64 program, in bytes, as
// `make build` builds it.
const maxSize = 10_000_000

// TestAgentStaysSmall guards what a device has to hold. It sits here so that it runs
// again whenever the agent's code changes.
func TestAgentStaysSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	gocmd := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go %s: %v", strings.Join(args, " "), err)
		}
		return string(out)
	}

	banned := map[string]string{
		"testing":        "test helpers do not belong in a program",
		"database/sql":   "the agent keeps no database",
		"html/template":  "the agent serves no pages",
		"net/http/pprof": "nobody should be able to profile a device",
	}
	others := 0
	for _, line := range strings.Split(strings.TrimSpace(gocmd("list", "-deps", "-f", "{{.ImportPath}} {{.Standard}}", ".")), "\n") {
		name, standard, _ := strings.Cut(line, " ")
		if why := banned[name]; why != "" {
			t.Errorf("the agent imports %s: %s", name, why)
		}
		if standard == "false" && !strings.HasPrefix(name, "socketxp") {
			others++
		}
	}
	if others == 0 || others > 60 {
		t.Errorf("the agent imports %d packages of others, want 1 to 60", others)
	}

	file := filepath.Join(t.TempDir(), "socketxp")
	gocmd("build", "-trimpath", "-tags", "nethttpomithttp2", "-ldflags", "-s -w", "-o", file, ".")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > maxSize {
		t.Errorf("the agent has %d bytes, more than %d", info.Size(), maxSize)
	}
	t.Logf("%d bytes, %d packages of others", info.Size(), others)
}

// TestTokensAreHidden has the program look at how it was started, as any user of the
// machine could (its arguments) or its own user (its environment).
func TestTokensAreHidden(t *testing.T) {
	if _, err := os.Stat("/proc/self/cmdline"); err != nil {
		t.Skip("there is no /proc")
	}
	token := strings.Repeat("eyJhbGciOiJFZERTQSJ9", 3) + "." + strings.Repeat("eyJqdGkiOiIxIn0", 3) + "." + strings.Repeat("c2lnbmF0dXJl", 5)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		env  string
		api  string
	}{
		{"R-04 an argument", []string{token}, "", ""},
		{"R-04 a flag's value", []string{"--authtoken", token}, "", ""},
		{"R-04 a flag with its value", []string{"--authtoken=" + token}, "", ""},
		{"R-04 the environment", nil, token, ""},
		{"R-04 the environment of a script", nil, "", token},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), self, c.args...)
			cmd.Env = append(os.Environ(), showStart+"=1", "SOCKETXP_AUTHTOKEN="+c.env, "SOCKETXP_API_TOKEN="+c.api, "SOCKETXP_NEXT=stays")
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var got start
			if err := json.Unmarshal(out, &got); err != nil {
				t.Fatal(err)
			}
			for _, seen := range []string{got.Cmdline, got.Environ, strings.Join(got.Inherited, " ")} {
				if strings.Contains(seen, token) {
					t.Errorf("it can be seen: %q", seen)
				}
			}
			if !strings.Contains(got.Cmdline+got.Environ, "xxxxxxxx") || !strings.Contains(got.Environ, "\x00SOCKETXP_NEXT=stays\x00") {
				t.Errorf("something else was overwritten: %q %q", got.Cmdline, got.Environ)
			}
			if got.Token != c.env || got.APIToken != c.api || !slices.Equal(got.Args, c.args) {
				t.Errorf("the program itself got %q and %q", got.Args, got.Token)
			}
		})
	}
}

const showStart = "SOCKETXP_TEST_SHOW_START"

// start is what a program knows of its start, and what others can see.
type start struct {
	Args             []string
	Token, APIToken  string
	Cmdline, Environ string
	Inherited        []string
}

// init, because it must come before TestMain parses the arguments.
func init() {
	if os.Getenv(showStart) == "" {
		return
	}
	s := start{Args: takeArgs(), Token: takeEnv("SOCKETXP_AUTHTOKEN"), APIToken: takeEnv("SOCKETXP_API_TOKEN"), Inherited: os.Environ()}
	cmdline, err := os.ReadFile("/proc/self/cmdline")
	environ, err2 := os.ReadFile("/proc/self/environ")
	s.Cmdline, s.Environ = string(cmdline), string(environ)
	if errors.Join(err, err2, json.NewEncoder(os.Stdout).Encode(s)) != nil {
		os.Exit(1)
	}
	os.Exit(0)
}
