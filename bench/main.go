// Command bench measures what a connection through a gateway costs beside the ways
// that people have today and beside the limits of the machine: everything runs on
// this machine in the same minutes, each way in turn, round after round.
//
//	bench quick                     the ratios that matter most, in 45 s
//	bench links [-out file]         every way and every work, as Markdown
//	bench swarm [-agents n]         many idle devices at one gateway
//
// The programs of bin/ are measured as they are (make go-build). The ways of others
// are measured if their programs are installed: ssh and sshd, stunnel and haproxy.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run is main for one command. The roles are those that this program's own children
// take.
func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("say what to measure: quick, links or swarm")
	}
	switch name, args := args[0], args[1:]; name {
	case "quick":
		return quick(ctx, args)
	case "links":
		return links(ctx, args)
	case "swarm":
		return swarm(ctx, args)
	case "role":
		return play(ctx, args)
	default:
		return fmt.Errorf("there is no command %s", name)
	}
}
