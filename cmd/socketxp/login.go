package main

import (
	"context"

	"socketxp"
	"socketxp/internal/agent"

	"github.com/spf13/cobra"
)

// identity is what a device asks to be called.
type identity struct{ name, group string }

func (i *identity) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&i.name, "iot-device-name", "", "the device's `NAME`; made from the host name if left out")
	cmd.Flags().StringVar(&i.group, "iot-device-group", "", "the device's `GROUP`")
}

func (i *identity) check(cmd *cobra.Command) error {
	for flag, check := range map[string]func(string) error{"iot-device-name": socketxp.CheckDeviceName, "iot-device-group": socketxp.CheckGroup} {
		f := cmd.Flags().Lookup(flag)
		if !f.Changed {
			continue
		}
		if err := check(f.Value.String()); err != nil {
			return usageError{err}
		}
	}
	return nil
}

func (a *app) loginCommand() *cobra.Command {
	var from tokenFlags
	var who identity
	cmd := &cobra.Command{
		Use:   "login [TOKEN | -]",
		Short: "Register this device, once",
		Long: `Registers this device with a registration or basic token. The token carries the
gateway's address and key; it is used once and written nowhere. A key is made on this
device and stays in device.key of the work folder: that is all it needs from then on.

The name and group are set now; later they are changed in the portal or by the API.`,
		Example: `  # the token on standard input: it shows in no process list and no history
  socketxp login - --iot-device-name sensor12345 --iot-device-group temp-sensor

  # in a script
  SOCKETXP_AUTHTOKEN=... socketxp login --iot-device-name sensor12345
  socketxp login --token-file /run/secrets/token

  # a gateway with a certificate of your own authority
  socketxp login - --ca-file ca.pem`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := who.check(cmd); err != nil {
				return err
			}
			target, err := a.target(from, first(args))
			if err != nil {
				return err
			}
			if target.Token == "" {
				return usage("socketxp login -, and paste it; or --token-file, or SOCKETXP_AUTHTOKEN", "it needs a token")
			}
			dir, err := a.dirOfOwn("")
			if err != nil {
				return err
			}
			return a.login(cmd.Context(), dir, target, who)
		},
	}
	from.add(cmd)
	who.add(cmd)
	return cmd
}

func (a *app) login(ctx context.Context, dir *agent.Dir, target agent.Target, who identity) error {
	key, err := agent.Login(ctx, agent.LoginOptions{Target: target, Dir: dir, Name: who.name, Group: who.group, Log: a.log()})
	if err != nil {
		return err
	}
	a.say("Login Succeeded.")
	a.say("Device [%s] Id [%s] Group [%s].", key.Name, key.ID, key.Group)
	return nil
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}
