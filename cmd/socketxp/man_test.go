package main

import (
	"flag"
	"os"
	"os/exec"
	"testing"

	"socketxp/internal/manual"
)

// The committed manual is what the commands say of themselves.
//go:generate go test -run ^TestManPages$ . -update

var update = flag.Bool("update", false, "write the manual to docs/man")

func TestManPages(t *testing.T) {
	a := &app{}
	p := manual.Program{
		Root: a.rootCommand(), Section: 1, Date: "2026-11-25",
		Synopsis: ".br\n.B socketxp \\-\\-config\n.I FILE\n",
		Environment: [][2]string{
			{"SOCKETXP_AUTHTOKEN", "The token of login and of slave mode. It is hidden from programs that are started later."},
			{"SOCKETXP_API_TOKEN", "An api token for scripts, instead of a sign-in. It is hidden, too."},
			{"SOCKETXP_PROFILE", "The name of the gateway's profile, if --profile names none."},
			{"SOCKETXP_WORK_DIR", "The folder of the agent's state, if --work-dir names none."},
			{"HTTPS_PROXY, ALL_PROXY, NO_PROXY", "The proxy on the way to the gateway, the one if HTTPS_PROXY is empty, and what is reached without. Each also in lower case."},
			{"SSL_CERT_FILE", "A file with the authorities that vouch for a proxy of https://, and for a gateway whose key is not known by a token (on Linux)."},
			{"NO_COLOR", "If set, nothing is coloured."},
		},
		Files: [][2]string{
			{"/var/lib/socketxp/device.key", "The device's key, and where it is registered. Not run by root: $XDG_STATE_HOME/socketxp/device.key."},
			{"/etc/socketxp/config.json", "The usual place of the file for --config. It is read only if that names it."},
			{"$XDG_CONFIG_HOME/socketxp/profiles.json", "The gateways that a person works with, and their tokens."},
		},
	}
	const dir = "../../docs/man"
	if *update {
		if err := p.Write(dir); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range manual.Checkers {
		needs(t, name)
	}
	if err := p.Check(dir); err != nil {
		t.Error(err)
	}
}

// needs skips at a desk, and fails in CI, when a program is not installed.
func needs(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed: CI must run everything", name)
	}
	t.Skipf("%s is not installed", name)
}
