package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"socketxp-gateway": main})
}

// TestScripts runs the program as an operator does, as far as that needs nobody to
// talk to; the rest is in e2e.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
	})
}

// TestMaskPassword covers C-08's other half: what is shown of a database's URL
// holds no password, in whichever way it was written.
func TestMaskPassword(t *testing.T) {
	for in, want := range map[string]string{
		"":                                         "",
		"postgres://gw@db/name":                    "postgres://gw@db/name",
		"postgres://gw:secret@db/name":             "postgres://gw:xxxxx@db/name",
		"postgres://db/name?password=secret&x=1":   "postgres://db/name?password=xxxxx&x=1",
		"postgres://gw:sec%zzret@db":               "(not shown)",
		"host=db user=gw password=secret":          "(not shown)",
		"postgres:gw:secret@db/name":               "(not shown)",
		"postgres://gw:secret@db/n?password=again": "postgres://gw:xxxxx@db/n?password=xxxxx",
		"postgres://gw@db/n?sslpassword=secret":    "postgres://gw@db/n?sslpassword=xxxxx",
	} {
		if got := maskPassword(in); got != want {
			t.Errorf("maskPassword(%q) = %q, want %q", in, got, want)
		}
	}
}
