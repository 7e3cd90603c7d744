//go:build unix

package main

import (
	"fmt"
	"syscall"
)

// become runs a program in this one's place: terminal, signals and exit status are
// its own. It returns only if that can't be done.
func become(args, env []string) error {
	return fmt.Errorf("start %s: %w", args[0], syscall.Exec(args[0], args, env)) //nolint:gosec // G204: the user's own ssh
}
