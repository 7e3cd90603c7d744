package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"socketxp"
	"socketxp/internal/agent"

	"github.com/spf13/cobra"
)

// connectFlags are those of `connect`.
type connectFlags struct {
	from      tokenFlags
	who       identity
	authtoken string

	enableSSH bool
	sshUsers  []string
	ssh       agent.SSHPolicy
	oneUse    bool

	slave            bool
	peerID, peerName string
	peerPort         int
}

func (a *app) connectCommand() *cobra.Command {
	var f connectFlags
	cmd := &cobra.Command{
		Use:   "connect SCHEME://HOST:PORT",
		Short: "Publish a tunnel of this device, or open one of another device",
		Long: `On a device (master mode): publishes a tunnel. Who may reach it is decided in the
gateway; what isn't published can't be reached by anybody. Further commands may publish
more tunnels while the first one runs.

On a laptop (IoT slave mode): opens a port on this machine that leads to a tunnel of a
device. What flows is encrypted from end to end. The key of each device is remembered,
and another one refused, in known_devices of the work folder.`,
		Example: `  # publish the ssh server of this device
  socketxp connect tcp://localhost:22

  # the agent's own ssh server, where no sshd runs; who reaches it may log in as pi
  socketxp connect tcp://localhost:22 --enable-ssh --ssh-user pi

  # the sshd of this device; the portal's terminal signs in to it as pi without a password
  socketxp connect tcp://localhost:22 --ssh-single-use-keys --ssh-user pi

  # reach that from a laptop, with an access token in SOCKETXP_AUTHTOKEN
  socketxp connect tcp://localhost:3000 --iot-slave \
      --peer-device-name sensor12345 --peer-device-port 22

  # any free local port, which is printed
  socketxp connect tcp://localhost:0 --iot-slave --token-file token \
      --peer-device-id 019ab6f2-7c1e-7a3b-9d60-2f6c1b9e4d11 --peer-device-port 5432`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			if f.slave {
				return a.connectSlave(cmd.Context(), args[0], f)
			}
			return a.connectMaster(cmd.Context(), args[0], f)
		},
	}
	f.from.add(cmd)
	f.who.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.authtoken, "authtoken", "", "the `TOKEN`; master mode logs in with it if the device isn't registered. It shows in the process list and the shell's history")
	flags.BoolVar(&f.enableSSH, "enable-ssh", false, "publish the agent's built-in SSH server")
	flags.StringArrayVar(&f.sshUsers, "ssh-user", nil, "the `USER` who may log in to it, or by single-use keys (repeatable); by default the one who runs the agent")
	byDefault := agent.DefaultSSHPolicy()
	flags.BoolVar(&f.ssh.TCPForwarding, "ssh-tcp-forwarding", byDefault.TCPForwarding, "let its visitors forward ports (ssh -L) to what this device publishes; =false forbids it")
	flags.BoolVar(&f.ssh.AgentForwarding, "ssh-agent-forwarding", byDefault.AgentForwarding, "let programs of this device use the ssh agent of a visitor who forwards it (ssh -A)")
	flags.StringArrayVar(&f.ssh.AcceptEnv, "ssh-accept-env", byDefault.AcceptEnv, "the `VARIABLE` that visitors may set, or PREFIX* (repeatable; replaces the default)")
	flags.BoolVar(&f.oneUse, "ssh-single-use-keys", false, "let the gateway sign in to this machine's own sshd, published here, as --ssh-user, by a key that the agent places for one sign-in: for the terminal in the portal")
	flags.BoolVar(&f.slave, "iot-slave", false, "slave mode: open a local port")
	flags.StringVar(&f.peerID, "peer-device-id", "", "slave mode: the device, by its `ID`")
	flags.StringVar(&f.peerName, "peer-device-name", "", "slave mode: the device, by its `NAME`")
	flags.IntVar(&f.peerPort, "peer-device-port", 0, "slave mode: the `PORT` that the device publishes")
	alias(flags, map[string]string{"enable-sshd": "enable-ssh"})
	completeFlag(cmd, "peer-device-name", a.completeDevices())
	return cmd
}

// check refuses flags that would do nothing: who gives one expects something of it.
func (f *connectFlags) check(cmd *cobra.Command) error {
	if err := errors.Join(exclusive(cmd, "authtoken", "token-file"), f.who.check(cmd)); err != nil {
		return err
	}
	server := []string{"ssh-user", "ssh-tcp-forwarding", "ssh-agent-forwarding", "ssh-accept-env"}
	alien, mode := []string{"peer-device-id", "peer-device-name", "peer-device-port"}, "with --iot-slave"
	if f.slave {
		alien, mode = append(server, "enable-ssh", "ssh-single-use-keys", "iot-device-name", "iot-device-group"), "without --iot-slave"
	} else if i := slices.IndexFunc(server, func(name string) bool {
		meant := f.enableSSH || f.oneUse && name == "ssh-user"
		return cmd.Flags().Changed(name) && !meant
	}); i >= 0 {
		return usage("add --enable-ssh", "--%s is for the built-in SSH server", server[i])
	}
	if i := slices.IndexFunc(alien, cmd.Flags().Changed); i >= 0 {
		return usage("see socketxp connect --help", "--%s is %s only", alien[i], mode)
	}
	return nil
}

func (a *app) connectMaster(ctx context.Context, destination string, f connectFlags) error {
	dest, err := socketxp.ParseDestination(destination)
	if err != nil {
		return usageError{err}
	}
	tunnel := agent.Tunnel{Destination: dest, SSH: f.enableSSH, Users: f.sshUsers, Policy: f.ssh, SingleUseKeys: f.oneUse}
	if err := tunnel.Check(); err != nil {
		return usageError{err}
	}
	dir, err := a.dirOfOwn("")
	if err != nil {
		return err
	}
	target, err := a.target(f.from, f.authtoken)
	if err != nil {
		return err
	}
	return a.publish(ctx, dir, []agent.Tunnel{tunnel}, target, f.who)
}

// publish runs the agent in master mode, having logged in if that is needed and
// there is a token.
func (a *app) publish(ctx context.Context, dir *agent.Dir, tunnels []agent.Tunnel, target agent.Target, who identity) error {
	if _, err := dir.Key(); err != nil {
		if !errors.As(err, new(*agent.NotRegisteredError)) || target.Token == "" {
			return err
		}
		if err := a.login(ctx, dir, target, who); err != nil {
			return err
		}
	}
	target.Token, a.token = "", "" // nobody needs it any more
	said := false
	return agent.Connect(ctx, agent.ConnectOptions{
		Dir: dir, Tunnels: tunnels, Version: programVersion(), Log: a.log(), Problem: a.problem, Warning: a.warnOf,
		Connected: func() {
			switch {
			case !said:
				a.well()
				a.say("Connected to SocketXP Cloud Gateway.")
				if slices.ContainsFunc(tunnels, func(t agent.Tunnel) bool { return t.Destination.Scheme == "tcp" }) {
					a.say("Access the TCP service securely from the web portal or using the SocketXP agent in IoT Slave Mode.")
				}
				said = true
			case a.well():
				a.warn("connected again")
			}
		},
	})
}

func (a *app) connectSlave(ctx context.Context, local string, f connectFlags) error {
	port, err := agent.ParseLocalPort(local)
	if err != nil {
		return usageError{err}
	}
	if err := agent.CheckPeer(f.peerID, f.peerName, f.peerPort); err != nil {
		return usageError{err}
	}
	target, err := a.target(f.from, f.authtoken)
	if err != nil {
		return err
	}
	if target.Token == "" {
		return usage("export it as SOCKETXP_AUTHTOKEN, or use --token-file", "slave mode needs an access token")
	}
	dir, err := a.dirOfOwn("")
	if err != nil {
		return err
	}
	return a.visit(ctx, dir, target, agent.ConfigVisit{Local: port, DeviceID: f.peerID, DeviceName: f.peerName, DevicePort: f.peerPort})
}

// visit runs the agent in slave mode.
func (a *app) visit(ctx context.Context, dir *agent.Dir, target agent.Target, v agent.ConfigVisit) error {
	return agent.Visit(ctx, agent.VisitOptions{
		Peer: agent.Peer{
			Target: target, Dir: dir, DeviceID: v.DeviceID, DeviceName: v.DeviceName, DeviceHost: v.DeviceHost, DevicePort: v.DevicePort,
			Version: programVersion(), Log: a.log(),
		},
		Local: v.Local,
		Listening: func(url string) {
			a.say("Listening for TCP connections at:")
			a.say("Local URL -> %s", url)
		},
		Dialing: func(id, name string, port int) {
			a.say("Dialing SocketXP IoT Gateway for device (%s, %s) port (%d) remote access...", id, name, port)
		},
		Problem: func(err error, wait time.Duration) { a.problem(err, wait) },
		Granted: func() {
			if a.well() {
				a.warn("connected again")
			}
		},
	})
}
