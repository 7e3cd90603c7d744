package main

import (
	"context"
	"errors"
	"fmt"

	"socketxp"
	"socketxp/internal/agent"

	"github.com/spf13/cobra"
)

func (a *app) logoutCommand() *cobra.Command {
	var everywhere, yes bool
	cmd := &cobra.Command{
		Use:   "logout",
		Short: "Have the gateway forget this device, and wipe its key",
		Long: `Has the gateway delete this device, and wipes the device key. An agent that runs ends.
If the gateway can't be reached the key is wiped nevertheless; the device then has to be
deleted in the portal or by the API.

With --all nothing is left: you are signed out of all gateways, too, their profiles and
all that is remembered of gateways and devices is wiped, and ssh's configuration is as it
was. Each step is told.`,
		Example: `  socketxp logout
  # a laptop that is given away, a device that is scrapped
  socketxp logout --all`,
		Args: usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if everywhere {
				return a.logoutEverywhere(cmd.Context(), yes)
			}
			if yes {
				return usage("add --all, or leave it out", "--yes is for --all, which asks")
			}
			dir, err := a.dir("")
			if err != nil {
				return err
			}
			key, err := dir.Key()
			if err != nil {
				return err
			}
			return a.logout(cmd.Context(), dir, key)
		},
	}
	cmd.Flags().BoolVar(&everywhere, "all", false, "sign out of all gateways, too, and wipe all that is remembered")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	return cmd
}

// logout logs the device out.
func (a *app) logout(ctx context.Context, dir *agent.Dir, key agent.DeviceKey) error {
	told, err := agent.Logout(ctx, dir, programVersion())
	if err != nil {
		return err
	}
	a.say("Logged out. The key of device [%s] Id [%s] is wiped.", key.Name, key.ID)
	if told != nil {
		a.complain("the gateway does not know of it: "+told.Error(), nil)
		a.hint("delete the device in the portal or by the API")
	}
	return nil
}

var errNothingToLogOut = socketxp.Errorf(socketxp.CodeInvalid, "this machine is no device, and nobody is signed in")

// logoutEverywhere ends all that this machine and this user have: sign-ins, the
// device, and what is remembered of gateways and devices. What can't be done is told
// and keeps nothing of the rest.
func (a *app) logoutEverywhere(ctx context.Context, yes bool) error {
	dir, err := a.dir("")
	if err != nil {
		return err
	}
	all, err := agent.ReadProfiles()
	if err != nil {
		return err
	}
	key, keyErr := dir.Key()
	if keyErr != nil && !errors.As(keyErr, new(*agent.NotRegisteredError)) {
		a.complain(keyErr.Error(), nil) // it is wiped nevertheless
	}
	left, err := dir.Residue()
	if err != nil {
		return err
	}
	if len(all.List) == 0 && keyErr != nil && len(left) == 0 {
		return errNothingToLogOut
	}
	what := fmt.Sprintf("Sign out of %d gateways and forget them", len(all.List))
	if keyErr == nil {
		what += fmt.Sprintf(", have the device %s deleted", key.Name)
	}
	if err := a.confirmed(ctx, yes, "%s, and wipe all keys and what is remembered in %s?", what, dir.Path()); err != nil {
		return err
	}

	var errs []error
	for _, p := range all.List {
		if p.Token != "" {
			errs = append(errs, a.signOut(ctx, p))
		}
		if err := agent.ChangeProfiles(ctx, func(all *agent.Profiles) error { return all.Remove(p.Name) }); err != nil {
			errs = append(errs, err)
			continue
		}
		a.say("The profile %s is removed.", p.Name)
	}
	if keyErr == nil {
		errs = append(errs, a.logout(ctx, dir, key))
	}
	if path, err := agent.DefaultSSHConfig(); err == nil {
		switch changed, err := dir.UninstallSSHConfig(path); {
		case err != nil:
			errs = append(errs, err)
		case changed:
			a.say("Taken out of %s.", agent.Printable(path))
		}
	}
	gone, err := dir.Wipe()
	for _, name := range gone {
		a.say("Wiped %s.", agent.Printable(name))
	}
	profiles, wipeErr := agent.WipeProfiles()
	for _, name := range profiles {
		a.say("Wiped %s.", agent.Printable(name))
	}
	return errors.Join(append(errs, err, wipeErr)...)
}
