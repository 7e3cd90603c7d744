package main

import (
	"socketxp/internal/agent"

	"github.com/spf13/cobra"
)

func (a *app) rotateKeyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate-key",
		Short: "Give this device a new key, for which the old one vouches",
		Long: `Makes a new device key and has the gateway take it in the place of the old one, which
is refused from then on. Id, name and group stay, and what is open goes on. Laptops that
know the device by the old key take the new one, as the old one vouches for it.

An agent that runs in the work folder does it; without one this command does. If
the machine stops in the middle, nothing is lost: the command can be given again.
The gateway's operator can have it done on a schedule (device_key_life).

For a device whose key is in other hands use socketxp relogin: a thief's copy could
vouch as well.`,
		Example: `  socketxp rotate-key
  socketxp status      # shows the fingerprint`,
		Args: usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := a.dir("")
			if err != nil {
				return err
			}
			fingerprint, err := agent.RotateKey(cmd.Context(), dir, programVersion(), a.log())
			if err != nil {
				return err
			}
			a.say("The device has a new key: %s.", fingerprint)
			return nil
		},
	}
}

func (a *app) reloginCommand() *cobra.Command {
	var file string
	var who identity
	cmd := &cobra.Command{
		Use:   "relogin [TOKEN | -]",
		Short: "Take a device back whose key is in other hands",
		Long: `Gives this device a new key by a registration or basic token of its account, and ends
its quarantine. Id, name and group stay. Every other holder of the old key is left with
a key that nobody takes. Laptops that know the device are told that its key has changed:
compare the fingerprints before you let them go on.

Run it on the genuine machine. On a copy (of an image that was written to many devices,
say) give a name: then the copy becomes a device of its own, and leaves the other one
alone.

An agent that runs in the work folder goes on with the new key.`,
		Example: `  # the genuine machine of a device in quarantine; the token on standard input
  socketxp relogin -

  # each clone of one image
  socketxp relogin --token-file token --iot-device-name sensor-0042 --iot-device-group sensors`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := who.check(cmd); err != nil {
				return err
			}
			if who.name == "" && who.group != "" {
				return usage("add --iot-device-name, or leave it out", "--iot-device-group is for a device of its own, which needs a name")
			}
			target, err := a.target(tokenFlags{file: file}, first(args))
			if err != nil {
				return err
			}
			if target.Token == "" {
				return usage("socketxp relogin -, and paste it; or --token-file, or SOCKETXP_AUTHTOKEN", "it needs a token")
			}
			dir, err := a.dir("")
			if err != nil {
				return err
			}
			key, err := agent.Relogin(cmd.Context(), agent.ReloginOptions{Dir: dir, Token: target.Token, Name: who.name, Group: who.group})
			if err != nil {
				return err
			}
			a.say("Login Succeeded, with a new key.")
			a.say("Device [%s] Id [%s] Group [%s].", key.Name, key.ID, key.Group)
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "token-file", "", "read the token from this `FILE`")
	who.add(cmd)
	return cmd
}
