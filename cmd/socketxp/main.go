// Command socketxp is the agent: it registers a device, publishes its tunnels,
// and opens those of other devices on a laptop.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the build; without it the module's own is used.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, takeArgs(), os.Stdin, os.Stdout, os.Stderr))
}
