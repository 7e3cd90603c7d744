package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"socketxp/internal/agent"

	"github.com/spf13/cobra"
)

func (a *app) profileCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "profile", Short: "The gateways that you work with", Args: usageArgs(noArgs),
		Long: `Each gateway that you have signed in to has a profile: its address, what vouches for it,
and your token there. One is current; --profile or SOCKETXP_PROFILE names another.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.profileList(), a.profileUse(), a.profileRemove())
	return cmd
}

// profileView is what `profile ls --json` prints.
type profileView struct {
	Name      string     `json:"name"`
	Current   bool       `json:"current"`
	Gateway   string     `json:"gateway"`
	Pin       string     `json:"pin,omitempty"`
	SignedIn  bool       `json:"signed_in"`
	Email     string     `json:"email,omitempty"`
	Account   string     `json:"account,omitempty"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
}

func (a *app) profileList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls", Short: "List the profiles", Args: usageArgs(noArgs),
		RunE: func(*cobra.Command, []string) error {
			all, err := agent.ReadProfiles()
			if err != nil {
				return err
			}
			views := []profileView{}
			for _, p := range all.List {
				v := profileView{
					Name: p.Name, Current: p.Name == all.Current, Gateway: p.Gateway.URL, Pin: p.Gateway.Pin,
					SignedIn: p.Token != "" && time.Now().Before(p.ExpiresAt), Email: p.Email, Account: p.Account,
				}
				if !p.ExpiresAt.IsZero() {
					v.ExpiresAt = &p.ExpiresAt
				}
				views = append(views, v)
			}
			if asJSON {
				return a.printJSON(views)
			}
			if len(views) == 0 {
				a.warn("there are no profiles")
				a.hint("socketxp signin https://gateway.example.com makes one")
				return nil
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 3, ' ', 0)
			_, _ = fmt.Fprintln(w, "\tNAME\tGATEWAY\tSIGNED IN AS\tUNTIL")
			for _, v := range views {
				mark, who, until := "", "-", "-"
				if v.Current {
					mark = "*"
				}
				if v.SignedIn {
					who, until = agent.Printable(v.Email), v.ExpiresAt.Local().Format("2006-01-02 15:04")
				}
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", mark, v.Name, v.Gateway, who, until)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) profileUse() *cobra.Command {
	return &cobra.Command{
		Use: "use NAME", Short: "Make a profile the current one", Args: usageArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: completeProfiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := agent.ChangeProfiles(cmd.Context(), func(all *agent.Profiles) error {
				p, err := all.Find(args[0])
				if err == nil {
					all.Current = p.Name
				}
				return err
			})
			if err != nil {
				return err
			}
			a.say("The profile %s is current.", args[0])
			return nil
		},
	}
}

func (a *app) profileRemove() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "rm NAME", Short: "Sign out and forget a gateway", Args: usageArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: completeProfiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := agent.ReadProfiles()
			if err != nil {
				return err
			}
			p, err := all.Find(args[0])
			if err != nil {
				return err
			}
			if err := a.confirmed(cmd.Context(), yes, "Forget the gateway %s and what vouches for it?", p.Gateway.URL); err != nil {
				return err
			}
			if p.Token != "" {
				if err := a.signOut(cmd.Context(), p); err != nil {
					return err
				}
			}
			err = agent.ChangeProfiles(cmd.Context(), func(all *agent.Profiles) error { return all.Remove(p.Name) })
			if err != nil {
				return err
			}
			a.say("The profile %s is removed.", p.Name)
			return nil
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	return cmd
}

// completeProfiles completes names of profiles.
func completeProfiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	all, err := agent.ReadProfiles()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, p := range all.List {
		names = append(names, p.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
