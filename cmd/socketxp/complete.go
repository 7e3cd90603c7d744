package main

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"socketxp"
	"socketxp/internal/agent"
	"socketxp/internal/api"

	"github.com/spf13/cobra"
)

// completion is what cobra wants of a function that completes an argument or flag.
type completion = func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective)

// completeWithin is how long a person waits for a completion; then there is none.
const completeWithin = time.Second

// fixedValues completes a flag from a fixed list.
func fixedValues(cmd *cobra.Command, flag string, values ...string) {
	completeFlag(cmd, flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values, cobra.ShellCompDirectiveNoFileComp
	})
}

// completeFlag sets how a flag is completed.
func completeFlag(cmd *cobra.Command, flag string, c completion) {
	if err := cmd.RegisterFlagCompletionFunc(flag, c); err != nil {
		panic(err) // the flag is not there
	}
}

// noCompletion keeps the shell from offering files where none are meant.
func noCompletion(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// firstOnly completes the first argument alone.
func firstOnly(c completion) completion {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return noCompletion(cmd, args, toComplete)
		}
		return c(cmd, args, toComplete)
	}
}

// fromGateway returns a completion from what the gateway knows. Trouble of any kind
// is no completion: who presses the tab key wants no error in the middle of a line.
func (a *app) fromGateway(get func(ctx context.Context, p *person, begin string) ([]string, error)) completion {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		p, err := a.signedIn()
		if err != nil {
			return noCompletion(cmd, args, toComplete)
		}
		defer p.Close()
		found, err := get(ctx, p, toComplete)
		if err != nil {
			return noCompletion(cmd, args, toComplete)
		}
		var fit []string
		for _, f := range found {
			value, about, described := strings.Cut(f, "\t")
			if !strings.HasPrefix(value, toComplete) || slices.Contains(args, value) {
				continue
			}
			if value = agent.Printable(value); described {
				value += "\t" + agent.Printable(about)
			}
			fit = append(fit, value)
		}
		return fit, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeDevices completes names of devices.
func (a *app) completeDevices() completion {
	return a.fromGateway(func(ctx context.Context, p *person, begin string) ([]string, error) {
		page, err := p.Devices(ctx, api.DeviceList{Search: begin, Limit: pageSize})
		var names []string
		for _, d := range page.Items {
			names = append(names, d.Name+"\t"+string(d.Status)+", "+d.Group)
		}
		return names, err
	})
}

// completeGroups completes names of groups.
func (a *app) completeGroups() completion {
	return a.fromGateway(func(ctx context.Context, p *person, _ string) ([]string, error) {
		groups, err := p.Groups(ctx)
		var names []string
		for _, g := range groups {
			names = append(names, g.Name)
		}
		return names, err
	})
}

// completeTokens completes ids of live tokens.
func (a *app) completeTokens() completion {
	return a.fromGateway(func(ctx context.Context, p *person, _ string) ([]string, error) {
		page, err := p.Tokens(ctx, api.TokenList{Live: true, Limit: pageSize})
		var ids []string
		for _, t := range page.Items {
			ids = append(ids, t.ID+"\t"+string(t.Kind)+" "+t.Name)
		}
		return ids, err
	})
}

// completeSessions completes ids of sessions that go on.
func (a *app) completeSessions() completion {
	return a.fromGateway(func(ctx context.Context, p *person, _ string) ([]string, error) {
		live := true
		page, err := p.Sessions(ctx, api.SessionList{Live: &live, Limit: pageSize})
		var ids []string
		for _, s := range page.Items {
			ids = append(ids, s.ID+"\t"+s.DeviceName+" "+s.Destination)
		}
		return ids, err
	})
}

// completionShells are the shells there is a completion for.
var completionShells = []string{"bash", "zsh", "fish", "powershell"}

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print the completion script of a shell: bash, zsh, fish or powershell",
		Long: `Prints what makes a shell complete commands, flags, and the names of devices, groups,
profiles, tokens and sessions. Names come from the gateway that you are signed in to; if it
doesn't answer within a second, there are none.`,
		Example: `  # bash, with the package bash-completion: for this user
  socketxp completion bash > ~/.local/share/bash-completion/completions/socketxp

  # zsh: into a folder of $fpath, before compinit runs
  socketxp completion zsh > ~/.zfunc/_socketxp
  # and in ~/.zshrc: fpath+=~/.zfunc; autoload -U compinit; compinit

  # fish
  socketxp completion fish > ~/.config/fish/completions/socketxp.fish

  # PowerShell: at the end of $PROFILE
  socketxp completion powershell | Out-String | Invoke-Expression

  # only for now
  source <(socketxp completion bash)`,
		Args: usageArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: firstOnly(func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return completionShells, cobra.ShellCompDirectiveNoFileComp
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.stdout)
			}
			hint := "it is one of " + strings.Join(completionShells, ", ")
			if near := socketxp.Nearest(args[0], completionShells); near != "" {
				hint = "did you mean " + near + "?"
			}
			return usage(hint, "there is no completion for %q", args[0])
		},
	}
}

// completeUserAt completes USER@DEVICE: the device, whoever the user is.
func (a *app) completeUserAt() completion {
	devices := a.completeDevices()
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		i := strings.LastIndexByte(toComplete, '@') + 1
		found, directive := devices(cmd, args, toComplete[i:])
		for j := range found {
			found[j] = toComplete[:i] + found[j]
		}
		return found, directive
	}
}

// completePortOf completes the ports that the device of the first argument publishes.
func (a *app) completePortOf(device string) completion {
	return a.fromGateway(func(ctx context.Context, p *person, _ string) ([]string, error) {
		d, err := p.device(ctx, device)
		if err != nil {
			return nil, err
		}
		var ports []string
		for _, t := range d.Tunnels {
			if dest, err := socketxp.ParseDestination(t.Destination); err == nil {
				ports = append(ports, strconv.Itoa(dest.Port)+"\t"+t.Destination)
			}
		}
		return ports, nil
	})
}

// completeForward completes LPORT:DEVICE:PORT, and files before the first colon.
func (a *app) completeForward() completion {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		local, rest, ok := strings.Cut(toComplete, ":")
		if !ok {
			return nil, cobra.ShellCompDirectiveDefault
		}
		before, begin, complete := local+":", rest, a.completeDevices()
		end, directive := ":", cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace
		if device, port, ok := strings.Cut(rest, ":"); ok {
			before, begin, complete, end = before+device+":", port, a.completePortOf(device), ""
			directive = cobra.ShellCompDirectiveNoFileComp
		}
		found, _ := complete(cmd, nil, begin)
		for i, f := range found {
			value, about, _ := strings.Cut(f, "\t")
			found[i] = before + value + end + "\t" + about
		}
		return found, directive
	}
}
