package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// execute parses the command line and does what it says.
func execute(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return root.ExecuteContext(ctx)
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "socketxp-gateway",
		Short: "The gateway that devices dial out to and people reach them through",
		Long: `The SocketXP gateway: devices behind NAT dial out to it, people reach them through
it, and it can't read what flows between their machines; in a terminal of the portal
alone it sees what they see. It needs no configuration to start.`,
		Example: `  # on this machine, with its own database and certificate
  socketxp-gateway serve

  # for others to reach, with a certificate of yours
  socketxp-gateway serve --listen :443 --public-url https://gateway.example.com \
      --tls-cert fullchain.pem --tls-key privkey.pem

  # or with one from Let's Encrypt, whose terms you accept by this
  socketxp-gateway serve --listen :443 --public-url https://gateway.example.com --acme-agree

  # the first owner, without a browser
  socketxp-gateway admin create-user --email you@example.com --account home`,
		Args:          usageArgs(cobra.NoArgs),
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
	})
	root.AddCommand(serveCommand(), configCommand(), adminCommand(), &cobra.Command{
		Use: "version", Short: "Print the version", Args: usageArgs(cobra.NoArgs),
		Run: func(cmd *cobra.Command, _ []string) {
			_, _ = fmt.Fprintln(cmd.OutOrStdout(), "socketxp-gateway", programVersion())
		},
	})
	return root
}

// usageArgs makes a wrong number of arguments, or an unknown command, a mistake
// of usage.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
		}
		return nil
	}
}

// group is a command that only has commands below it.
func group(use, short string, below ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(below...)
	return c
}
