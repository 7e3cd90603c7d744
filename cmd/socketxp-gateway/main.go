// Command socketxp-gateway is the server that devices dial out to and people
// reach them through.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"socketxp"
)

// version is set by the build; without it the module's own is used.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Exit statuses.
const (
	statusFailed = 1
	statusUsage  = 2
)

// usageError is a mistake in how the program was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// run is the program; it returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	err := execute(ctx, args, stdin, stdout, stderr)
	if err == nil {
		return 0
	}
	_, _ = fmt.Fprintf(stderr, "socketxp-gateway: %v\n", err)
	var e *socketxp.Error
	if errors.As(err, &e) && e.Hint != "" {
		_, _ = fmt.Fprintf(stderr, "hint: %s\n", e.Hint)
	}
	if errors.As(err, new(usageError)) {
		return statusUsage
	}
	return statusFailed
}

// programVersion is the version that was built in, the module's, or "dev".
func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
