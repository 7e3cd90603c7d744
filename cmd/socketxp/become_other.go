//go:build !unix

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// become runs a program as if it were this one; its exit status is ours.
func become(args, env []string) error {
	cmd := exec.Command(args[0], args[1:]...) //nolint:gosec,noctx // G204: the user's own ssh; it ends by itself
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exitStatus(exit.ExitCode())
	case err != nil:
		return fmt.Errorf("start %s: %w", args[0], err)
	}
	return nil
}
