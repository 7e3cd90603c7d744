package main

import (
	"fmt"

	"socketxp/internal/agent"

	"github.com/spf13/cobra"
)

func (a *app) sshConfigCommand() *cobra.Command {
	var from tokenFlags
	var file string
	var install, uninstall bool
	cmd := &cobra.Command{
		Use:   "ssh-config [--install | --uninstall]",
		Short: "Print what makes ssh, scp, rsync, Ansible and others know devices as NAME.socketxp",
		Long: `Prints the block of ssh's configuration with which ssh, and all that is built on it (scp,
sftp, rsync, git, Ansible, VS Code), reaches devices as NAME.socketxp, by socketxp proxy.

With --install it is written to the work folder, and included at the top of ~/.ssh/config;
doing that again changes nothing, and --uninstall takes it out again. What you add for
such a host in your own configuration, as User or IdentityFile, works as always.

Host keys of the agent's own SSH server are known through the gateway; those of other
servers are in your known_hosts, with ssh's question at the first contact.

No token is written anywhere. Where you are signed in, one is made for each connection, for
that device and port alone; else it comes from SOCKETXP_AUTHTOKEN, or from the file that
--token-file names here.`,
		Example: `  socketxp signin https://gateway.example.com
  socketxp ssh-config --install
  ssh pi@kiosk.socketxp
  scp -P 22 report.pdf pi@kiosk.socketxp:
  rsync -a site/ pi@kiosk.socketxp:/srv/site/
  ansible all -i 'kiosk.socketxp,' -u pi -m ping
  # only to look at it, or for a configuration of your own
  socketxp ssh-config --token-file ~/.config/socketxp-token > devices.conf
  ssh -F devices.conf pi@kiosk.socketxp`,
		Args: usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := exclusive(cmd, "install", "uninstall"); err != nil {
				return err
			}
			if file != "" && !install && !uninstall {
				return usage("add --install or --uninstall", "--file is the configuration to change")
			}
			return a.sshConfig(from, file, install, uninstall)
		},
	}
	from.add(cmd)
	cmd.Flags().BoolVar(&install, "install", false, "include it in your ssh configuration")
	cmd.Flags().BoolVar(&uninstall, "uninstall", false, "take it out of your ssh configuration")
	cmd.Flags().StringVar(&file, "file", "", "the `FILE` to change (default ~/.ssh/config)")
	return cmd
}

func (a *app) sshConfig(from tokenFlags, file string, install, uninstall bool) error {
	dir, err := a.dir("")
	if err != nil {
		return err
	}
	if file == "" && (install || uninstall) {
		if file, err = agent.DefaultSSHConfig(); err != nil {
			return err
		}
	}
	if uninstall {
		changed, err := dir.UninstallSSHConfig(file)
		switch {
		case err != nil:
			return err
		case changed:
			a.say("Taken out of %s.", agent.Printable(file))
		default:
			a.say("There is nothing of it in %s.", agent.Printable(file))
		}
		return nil
	}
	self, flags, err := a.again(from)
	if err != nil {
		return err
	}
	block, err := dir.SSHConfig(self, flags...)
	if err != nil {
		return err
	}
	if !install {
		_, err := fmt.Fprint(a.stdout, block)
		return err
	}
	changed, err := dir.InstallSSHConfig(file, block)
	switch {
	case err != nil:
		return err
	case changed:
		a.say("%s includes it: ssh USER@NAME%s", agent.Printable(file), agent.SSHDomain)
	default:
		a.say("%s includes it already.", agent.Printable(file))
	}
	return nil
}
