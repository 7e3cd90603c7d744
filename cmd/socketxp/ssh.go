package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"socketxp"
	"socketxp/internal/agent"

	"github.com/spf13/cobra"
)

// sshFlags are those of ssh's own that `ssh` passes on.
type sshFlags struct {
	from                           tokenFlags
	port                           int
	login                          string
	identities, options            []string
	local, remote, dynamic         []string
	terminal                       int
	noTerminal, noCommand, forward bool
}

func (f *sshFlags) add(cmd *cobra.Command) {
	f.from.add(cmd)
	flags := cmd.Flags()
	flags.IntVarP(&f.port, "port", "p", 22, "the `PORT` that the device publishes")
	flags.StringVarP(&f.login, "login", "l", "", "log in as this `USER`; like USER@DEVICE")
	flags.StringArrayVarP(&f.identities, "identity", "i", nil, "log in with the private key in this `FILE` (repeatable)")
	flags.StringArrayVarP(&f.options, "option", "o", nil, "an `OPTION` of ssh_config, as NAME=VALUE (repeatable)")
	flags.StringArrayVarP(&f.local, "local-forward", "L", nil, "ssh's -L: `[BIND:]PORT:HOST:HOSTPORT` (repeatable)")
	flags.StringArrayVarP(&f.remote, "remote-forward", "R", nil, "ssh's -R: `[BIND:]PORT:HOST:HOSTPORT` (repeatable)")
	flags.StringArrayVarP(&f.dynamic, "dynamic-forward", "D", nil, "ssh's -D: `[BIND:]PORT` (repeatable)")
	flags.CountVarP(&f.terminal, "tty", "t", "ask for a terminal also for a command; twice: even if this is none")
	flags.BoolVarP(&f.noTerminal, "no-tty", "T", false, "ask for no terminal")
	flags.BoolVarP(&f.noCommand, "no-command", "N", false, "run no command: for forwarding only")
	flags.BoolVarP(&f.forward, "forward-agent", "A", false, "let the device use your ssh agent")
}

func (a *app) sshCommand() *cobra.Command {
	var f sshFlags
	cmd := &cobra.Command{
		Use:   "ssh [USER@]DEVICE [-- COMMAND]",
		Short: "Log in to a device, or run a command on it",
		Long: `Runs your own ssh over a link to the device: your configuration, keys and agent work as with
any host, known there as DEVICE.socketxp. It opens no port on this machine. It needs that you
are signed in (socketxp signin), or an access token.

Where the agent's own SSH server runs, the host key is known through the gateway and the
login is by your access. An sshd on the device is known by its key as always: ssh asks at
the first contact, and refuses another key later.

The exit status is the command's, or 255 if ssh could not connect.`,
		Example: `  # a shell
  socketxp ssh pi@kiosk
  # a command; what comes after -- is the command's own
  socketxp ssh pi@kiosk -- journalctl -u app -n 20
  # an sshd on another port, with a key
  socketxp ssh -p 2222 -i ~/.ssh/field pi@kiosk
  # a web page of the device on http://localhost:8080
  socketxp ssh -N -L 8080:localhost:80 pi@kiosk
  # scp, rsync, Ansible and others by the name kiosk.socketxp
  socketxp ssh-config --install`,
		ValidArgsFunction: firstOnly(a.completeUserAt()),
		Args:              usageArgs(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if at := cmd.ArgsLenAtDash(); at == 0 {
				return usage("socketxp ssh DEVICE -- COMMAND", "there is no device before --")
			}
			return a.ssh(f, args[0], args[1:])
		},
	}
	f.add(cmd)
	return cmd
}

// loginName is what can be a user's name on a device, and is nothing else to ssh or
// a shell.
var loginName = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_.@\\-]{0,127}\$?$`)

// ssh runs the user's ssh.
func (a *app) ssh(f sshFlags, where string, command []string) error {
	user, device := f.login, where
	if at := strings.LastIndexByte(where, '@'); at >= 0 {
		user, device = where[:at], where[at+1:]
		if f.login != "" && f.login != user {
			return usage("give one of them", "-l names another user than %s", agent.Printable(where))
		}
	}
	if !loginName.MatchString(user) && (user != "" || device != where) {
		return usage("", "the user name %q is not valid", agent.Printable(user))
	}
	peer, err := parsePeer(device, strconv.Itoa(f.port), "")
	if err != nil {
		return err
	}
	peer, err = a.prepare(f.from, peer)
	if err != nil {
		return err
	}
	if peer.Token == "" {
		// The proxy makes a token, and revokes it. That there is a sign-in is seen here.
		p, err := a.signedIn()
		if err != nil {
			return err
		}
		p.Close()
	}
	program, err := findSSH()
	if err != nil {
		return err
	}
	self, flags, err := a.again(f.from)
	if err != nil {
		return err
	}
	options, err := peer.Dir.SSHOptions(self, flags...)
	if err != nil {
		return err
	}
	args := []string{program}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	args = append(args, f.args(user)...)
	if a.verbose {
		args = append(args, "-v")
	}
	if a.quiet {
		args = append(args, "-q")
	}
	args = append(args, "--", peer.DeviceID+peer.DeviceName+agent.SSHDomain)
	env := os.Environ()
	// ssh runs this program again, which needs them; on a command line everybody could
	// read them.
	if f.from.file == "" && a.token != "" {
		env = append(env, "SOCKETXP_AUTHTOKEN="+a.token)
	}
	if a.apiToken != "" {
		env = append(env, "SOCKETXP_API_TOKEN="+a.apiToken)
	}
	return become(append(args, command...), env)
}

// args returns the flags as ssh has them.
func (f *sshFlags) args(user string) []string {
	args := []string{"-p", strconv.Itoa(f.port)}
	if user != "" {
		args = append(args, "-l", user)
	}
	for _, many := range []struct {
		flag   string
		values []string
	}{{"-i", f.identities}, {"-o", f.options}, {"-L", f.local}, {"-R", f.remote}, {"-D", f.dynamic}} {
		for _, v := range many.values {
			args = append(args, many.flag, v)
		}
	}
	for range f.terminal {
		args = append(args, "-t")
	}
	for _, one := range []struct {
		flag string
		on   bool
	}{{"-T", f.noTerminal}, {"-N", f.noCommand}, {"-A", f.forward}} {
		if one.on {
			args = append(args, one.flag)
		}
	}
	return args
}

// findSSH returns the path of the user's ssh. A program of that name in the current
// folder is none.
func findSSH() (string, error) {
	path, err := exec.LookPath("ssh")
	if err == nil && filepath.IsAbs(path) {
		return path, nil
	}
	return "", socketxp.Errorf(socketxp.CodeUnavailable, "there is no ssh on this machine").
		WithHint("install OpenSSH's client; or open a port for the ssh program that you have: socketxp forward 3000:DEVICE:22")
}

// again returns how this program is started again, by ssh, with the same folder and
// token: its path, and flags.
func (a *app) again(f tokenFlags) (self string, flags []string, err error) {
	self, err = os.Executable()
	if err != nil {
		return "", nil, err
	}
	for _, flag := range []struct{ name, value string }{
		{"--work-dir", firstOf(a.workDir, os.Getenv("SOCKETXP_WORK_DIR"))}, {"--token-file", f.file}, {"--ca-file", f.caFile},
	} {
		if flag.value == "" {
			continue
		}
		path, err := filepath.Abs(flag.value)
		if err != nil {
			return "", nil, err
		}
		flags = append(flags, flag.name, path)
	}
	for _, flag := range []struct{ name, value string }{{"--gateway", f.gateway}, {"--profile", a.profile}} {
		if flag.value != "" {
			flags = append(flags, flag.name, flag.value)
		}
	}
	return self, flags, nil
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
