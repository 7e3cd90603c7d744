package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
)

// play is `bench role NAME`: one of the processes that the lab starts.
func play(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("say which role")
	}
	f := flag.NewFlagSet("role "+args[0], flag.ContinueOnError)
	listen := f.String("listen", "127.0.0.1:0", "where to listen")
	to := f.String("to", "", "where to connect to")
	target := f.String("target", "", "the target (derived-device)")
	ahead := f.Int("ahead", 8, "connections made ahead (derived-device, derived-access)")
	switch args[0] {
	case "load":
		return load(ctx, args[1:])
	case "agents":
		return agents(ctx, args[1:])
	}
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	var handle func(*net.TCPConn)
	switch args[0] {
	case "target":
		handle = serveTarget
	case "relay":
		handle = relayTo(ctx, *to)
	case "tls-access":
		handle = tlsAccess(ctx, *to)
	case "tls-device":
		var err error
		if handle, err = tlsDevice(ctx, *to); err != nil {
			return err
		}
	case "derived-gateway":
		handle = derivedGateway(ctx)
	case "derived-device":
		return derivedDevice(ctx, *to, *target, *ahead, os.Stdout)
	case "derived-access":
		var err error
		if handle, err = derivedAccess(ctx, *to, *ahead); err != nil {
			return err
		}
	default:
		return fmt.Errorf("there is no role %s", args[0])
	}
	l, err := listenAs(ctx, *listen)
	if err != nil {
		return err
	}
	return serve(ctx, l, handle)
}
