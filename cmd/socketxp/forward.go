package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"socketxp/internal/agent"

	"github.com/spf13/cobra"
)

func (a *app) forwardCommand() *cobra.Command {
	var from tokenFlags
	var bind string
	var remote bool
	cmd := &cobra.Command{
		Use:   "forward {LPORT:DEVICE:PORT... | FILE.json}",
		Short: "Open many local ports that lead to tunnels of devices",
		Long: `Opens local ports that lead to tunnels of devices, until Ctrl-C. Each is told once it is
open and the gateway has granted it. Trouble with one does not end the others: a device
that is offline is waited for, and what the gateway refuses for good is told. It needs an
access token, or that you are signed in.

A file has the form of the slave-mode tunnels in config.json:
  {"tunnels": [{"destination": "tcp://localhost:3000", "iot_device_name": "kiosk",
                "peer_device_port": 22}]}`,
		Example: `  # ssh and the database of one device, and the web page of another
  socketxp forward 3000:kiosk:22 5432:kiosk:5432 8080:sensor12345:80
  # any free port, which is printed
  socketxp forward 0:kiosk:22
  # port 80 of a machine beside the device, which publishes it of several
  socketxp forward 8080:kiosk:192.168.1.20:80
  socketxp forward ports.json`,
		ValidArgsFunction: a.completeForward(),
		Args:              usageArgs(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := readForwards(args)
			if err != nil {
				return err
			}
			for i, v := range all {
				if !cmd.Flags().Changed("bind") {
					break
				}
				if all[i].Local, err = v.Local.Bind(bind, remote); err != nil {
					return usageError{err}
				}
			}
			if remote && !cmd.Flags().Changed("bind") {
				return usage("add --bind ADDRESS", "--allow-remote is for another address than this machine's own")
			}
			return a.forward(cmd.Context(), from, all)
		},
	}
	from.add(cmd)
	cmd.Flags().StringVar(&bind, "bind", "localhost", "the `ADDRESS` of this machine to open the ports on")
	cmd.Flags().BoolVar(&remote, "allow-remote", false, "let --bind be an address that other machines reach: whoever does reaches the devices, without a token")
	return cmd
}

// readForwards reads the arguments: a file, or forwards.
func readForwards(args []string) ([]agent.ConfigVisit, error) {
	var all []agent.ConfigVisit
	if i := slices.IndexFunc(args, func(s string) bool { return strings.HasSuffix(s, ".json") }); i >= 0 {
		if len(args) > 1 {
			return nil, usage("write all of them in the file", "a file stands alone")
		}
		found, err := agent.ReadForwards(args[i])
		if err != nil {
			return nil, usageError{err}
		}
		all = found
	} else {
		for _, s := range args {
			v, err := agent.ParseForward(s)
			if err != nil {
				return nil, usageError{err}
			}
			all = append(all, v)
		}
	}
	if err := agent.CheckForwards(all); err != nil {
		return nil, usageError{err}
	}
	return all, nil
}

// forward opens all ports, and returns when the last of them is over: with the first
// error of one that could not go on.
func (a *app) forward(ctx context.Context, from tokenFlags, all []agent.ConfigVisit) error {
	errs := make([]error, len(all))
	var running sync.WaitGroup
	for i, v := range all {
		running.Go(func() { errs[i] = a.forwardOne(ctx, from, v) })
	}
	running.Wait()
	for _, err := range errs {
		if err != nil {
			return told{err}
		}
	}
	return nil
}

// told is an error that a line was printed about.
type told struct{ error }

func (t told) Unwrap() []error { return []error{t.error, silent{}} }

// forwardOne opens one port. Its troubles are its own, and name it.
func (a *app) forwardOne(ctx context.Context, from tokenFlags, v agent.ConfigVisit) error {
	// What was told is remembered for each port.
	one := &app{stdout: a.stdout, stderr: a.stderr, quiet: a.quiet, about: v.String() + ": "}
	err := a.visitFor(ctx, one, from, v)
	if err != nil && ctx.Err() == nil {
		text := err.Error()
		if errors.As(err, new(*agent.RefusedError)) {
			text = "the gateway refused: " + text
		}
		one.complain(text, err)
		return err
	}
	return nil
}

func (a *app) visitFor(ctx context.Context, one *app, from tokenFlags, v agent.ConfigVisit) error {
	peer, release, err := a.reach(ctx, "forward", from, agent.Peer{
		DeviceID: v.DeviceID, DeviceName: v.DeviceName, DeviceHost: v.DeviceHost, DevicePort: v.DevicePort,
	})
	if err != nil {
		return err
	}
	defer release()
	return agent.Visit(ctx, agent.VisitOptions{
		Peer: peer, Local: v.Local, Patient: true,
		Listening: func(url string) {
			one.well()
			one.say("%s -> %s", url, v)
		},
		Granted: func() {
			if one.well() {
				one.warn("connected again")
			}
		},
		Problem: func(err error, wait time.Duration) { one.problem(err, wait) },
	})
}
