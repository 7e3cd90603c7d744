package main

import (
	"flag"
	"os"
	"os/exec"
	"testing"

	"github.com/spf13/cobra"

	"socketxp/internal/manual"
)

// The committed manual is what the commands say of themselves.
//go:generate go test -run ^TestManPages$ . -update

var update = flag.Bool("update", false, "write the manual to docs/man")

func TestManPages(t *testing.T) {
	root := rootCommand()
	var serve *cobra.Command
	for _, c := range root.Commands() {
		if c.Name() == "serve" {
			serve = c
		}
	}
	serve.Flags().Lookup("data-dir").DefValue = "/var/lib/socketxp-gateway" // as root has it, whoever runs this
	p := manual.Program{
		Root: root, Section: 8, Date: "2026-11-29", Settings: serve,
		Environment: [][2]string{
			{"SOCKETXP_LISTEN, SOCKETXP_DATABASE, ...", "Every setting of socketxp-gateway-serve(8), in capitals with _ for -. Flags are stronger, the file of --config is weaker."},
			{"SOCKETXP_DATABASE_FILE, ...", "The name of a file that holds the setting: for what nobody is to read, such as the password of a database."},
			{"XDG_STATE_HOME", "Where the data folder is, if the gateway is not run by root."},
			{"NOTIFY_SOCKET, WATCHDOG_USEC", "Set by systemd: the gateway tells it when it is ready, reloads, stops, and that it is well."},
		},
		Files: [][2]string{
			{"/var/lib/socketxp-gateway", "The data folder. Not run by root: $XDG_STATE_HOME/socketxp-gateway, or ~/.local/state/socketxp-gateway."},
			{"/var/lib/socketxp-gateway/gateway.db", "The database, unless --database names another."},
			{"/var/lib/socketxp-gateway/signing.key", "The key that tokens are signed with."},
			{"/var/lib/socketxp-gateway/gateway.key, gateway.crt", "The key that devices know the gateway by, and its certificate, unless --tls-cert and --tls-key name others."},
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
