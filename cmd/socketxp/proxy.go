package main

import (
	"context"
	"errors"
	"os/signal"
	"strconv"
	"syscall"

	"socketxp"
	"socketxp/internal/agent"

	"github.com/spf13/cobra"
)

func (a *app) proxyCommand() *cobra.Command {
	var from tokenFlags
	var host string
	cmd := &cobra.Command{
		Use:   "proxy DEVICE PORT",
		Short: "Connect standard input and output to a tunnel of a device",
		Long: `Connects standard input and output to a tunnel of a device: what ssh calls a ProxyCommand.
It opens no port on this machine. It needs an access token, or that you are signed in: then
one is made for this device and port alone, and revoked at the end. The end of either direction is passed on; it ends when
both have ended, and 3 s after the device's end if the input has nothing more to say.

DEVICE is a name or an id, and may end in .socketxp. For devices with the agent's own SSH
server the host key, which the gateway tells and the device's key vouches for, is kept
for DEVICE.socketxp in ssh_known_hosts of the work folder: see socketxp ssh-config.`,
		Example: `  # ssh with a key of your own to the sshd of a device
  ssh -o ProxyCommand='socketxp proxy kiosk 22' pi@kiosk
  # once and for all, for ssh, scp, sftp, rsync, Ansible, VS Code
  socketxp ssh-config --install
  # any other protocol
  printf 'HEAD / HTTP/1.0\r\n\r\n' | socketxp proxy kiosk 8080
  # a device that publishes port 80 of several machines beside it
  socketxp proxy kiosk 80 --host 192.168.1.20`,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			switch len(args) {
			case 0:
				return a.completeDevices()(cmd, args, toComplete)
			case 1:
				return a.completePortOf(args[0])(cmd, nil, toComplete)
			}
			return noCompletion(cmd, args, toComplete)
		},
		Args: usageArgs(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			peer, err := parsePeer(args[0], args[1], host)
			if err != nil {
				return err
			}
			return a.proxy(cmd.Context(), from, peer)
		},
	}
	from.add(cmd)
	cmd.Flags().StringVar(&host, "host", "", "the `HOST` of the tunnel, if the device publishes the port of several")
	return cmd
}

// parsePeer reads which tunnel of which device is meant.
func parsePeer(device, port, host string) (agent.Peer, error) {
	var p agent.Peer
	var err error
	if p.DeviceID, p.DeviceName, err = agent.ParseDevice(device); err != nil {
		return p, usageError{err}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return p, usage("it is the port that the device publishes, such as 22", "the port %q is not 1 to 65535", agent.Printable(port))
	}
	p.DevicePort, p.DeviceHost = int(n), host
	if host != "" {
		if _, err := socketxp.ParseDestination(socketxp.Destination{Scheme: "tcp", Host: host, Port: p.DevicePort}.String()); err != nil {
			return p, usageError{err}
		}
	}
	return p, nil
}

func (a *app) proxy(ctx context.Context, from tokenFlags, peer agent.Peer) error {
	// ssh ends its proxy by SIGHUP. A reader that has gone is an error of write(2)
	// then, and the device is told in an orderly way.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP)
	defer stop()
	signal.Ignore(syscall.SIGPIPE)
	peer, release, err := a.reach(ctx, "proxy", from, peer)
	if err != nil {
		return err
	}
	defer release()
	err = agent.Proxy(ctx, agent.ProxyOptions{
		Peer: peer, In: a.stdin, Out: a.stdout,
		Warn: func(err error) { a.warn("%v", err) },
	})
	if errors.As(err, new(*agent.RefusedError)) {
		err = refusedBy{err}
	}
	return err
}

// refusedBy says who refused: among the messages of ssh it would not be clear.
type refusedBy struct{ error }

func (r refusedBy) Error() string { return "the gateway refused: " + r.error.Error() }
func (r refusedBy) Unwrap() error { return r.error }
