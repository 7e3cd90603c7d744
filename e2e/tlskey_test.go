package e2e

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdHolds is `holds FILE TEXT`: waits until the file holds the text, and
// cmdLacks is `lacks FILE TEXT`: until it does not.
func cmdHolds(ts *testscript.TestScript, _ bool, args []string) { awaitFile(ts, args, true) }
func cmdLacks(ts *testscript.TestScript, _ bool, args []string) { awaitFile(ts, args, false) }

func awaitFile(ts *testscript.TestScript, args []string, want bool) {
	check(ts, waitFor(30*time.Second, func() error {
		text, err := os.ReadFile(ts.MkAbs(args[0]))
		if err != nil {
			return err
		}
		if strings.Contains(string(text), args[1]) != want {
			return fmt.Errorf("%s holds %q: %v", args[0], args[1], !want)
		}
		return nil
	}))
}

// cmdKnown is `known N`: waits until the gateway knows of N devices that they know
// its next key.
func cmdKnown(ts *testscript.TestScript, _ bool, args []string) {
	check(ts, waitFor(30*time.Second, func() error {
		check(ts, ts.Exec("socketxp-gateway", "admin", "rotate-tls-key", "--status", "--data-dir", ts.Getenv("GW")))
		for line := range strings.Lines(ts.ReadFile("stdout")) {
			if f := strings.Fields(line); len(f) == 5 && f[0] == "acme" && f[2] == args[0] {
				return nil
			}
		}
		return errNotYet
	}))
}
