package main

import (
	"socketxp/internal/agent"

	"github.com/spf13/cobra"
)

func (a *app) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "Have the gateway forget this device, and wipe its key",
		Long: `Has the gateway delete this device, and wipes the device key. An agent that runs ends.
If the gateway can't be reached the key is wiped nevertheless; the device then has to be
deleted in the portal or by the API.`,
		Args: usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := a.dir("")
			if err != nil {
				return err
			}
			key, err := dir.Key()
			if err != nil {
				return err
			}
			told, err := agent.Logout(cmd.Context(), dir, programVersion())
			if err != nil {
				return err
			}
			a.say("Logged out. The key of device [%s] Id [%s] is wiped.", key.Name, key.ID)
			if told != nil {
				a.complain("the gateway does not know of it: "+told.Error(), nil)
				a.hint("delete the device in the portal or by the API")
			}
			return nil
		},
	}
}
