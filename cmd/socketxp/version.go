package main

import (
	"fmt"

	"socketxp/internal/agent"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: usageArgs(noArgs),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.stdout, "socketxp", programVersion())
			return err
		},
	}
}

// authorizedKeysCommand is what the agent starts as a user of this machine, to place a
// single-use key.
func (a *app) authorizedKeysCommand() *cobra.Command {
	return &cobra.Command{
		Use: "authorized-keys", Hidden: true, Args: usageArgs(noArgs),
		RunE: func(*cobra.Command, []string) error { return agent.AuthorizedKeysMain(a.stdin, a.stdout) },
	}
}

// sftpCommand is what the built-in SSH server starts as the user who has logged in.
func (a *app) sftpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "sftp-server", Hidden: true, Args: usageArgs(noArgs),
		RunE: func(*cobra.Command, []string) error { return agent.SFTPMain(a.stdin, a.stdout) },
	}
}
