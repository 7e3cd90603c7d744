package main

import (
	"fmt"

	"socketxp/internal/agent"

	"github.com/spf13/cobra"
)

// configPath is where the configuration of a device is.
const configPath = "/etc/socketxp/config.json"

func (a *app) doctorCommand() *cobra.Command {
	var asJSON bool
	var config string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say why this machine is offline, and what to do",
		Long: `Looks for why this machine is offline: its folder, key and configuration, the agent that
runs, proxies, the gateway's name, each of its addresses, its certificate and key, the
clock, the gateway's answer, and what this device publishes. Each check says what was
seen; what is not well says what to do. On a machine that is no device it looks at your
sign-in (see socketxp profile) and at that gateway.

It changes nothing. It opens no channel as the device, which would end that of the agent
that runs: how the gateway answers the device, the agent knows.

The exit status is 0 if no check failed, else as of any command: 3 not registered, 4
refused by the gateway, 5 can't reach the gateway, 1 anything else.`,
		Example: `  socketxp doctor
  socketxp doctor --config /etc/socketxp/config.json
  socketxp doctor --profile plant
  socketxp doctor --json | jq '.[] | select(.verdict != "ok")'`,
		Args: usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.doctor(cmd, config, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a list of objects with check, verdict, detail and advice")
	cmd.Flags().StringVar(&config, "config", configPath, "the `FILE` of the tunnels")
	return cmd
}

func (a *app) doctor(cmd *cobra.Command, config string, asJSON bool) error {
	path, err := a.dirPath("")
	if err != nil {
		return err
	}
	o := agent.DoctorOptions{
		WorkDir: path, ConfigFile: config, Named: cmd.Flags().Changed("config"), Version: programVersion(),
	}
	all, err := agent.ReadProfiles()
	if err != nil {
		return err
	}
	p, err := a.choose(all)
	switch {
	case err != nil:
		return err
	case p.Name != "":
		o.Profile, o.Profiles = &p, all
	}
	if !asJSON {
		o.Found = a.printFinding
	}
	found := agent.Diagnose(cmd.Context(), o)
	if asJSON {
		if err := a.printJSON(found); err != nil {
			return err
		}
	}
	if err := agent.Diagnosed(found); err != nil {
		return told{err}
	}
	return nil
}

func (a *app) printFinding(f agent.Finding) {
	if a.quiet && f.Verdict == agent.Good {
		return
	}
	_, _ = fmt.Fprintf(a.stdout, "%-8s %s: %s\n", f.Verdict, f.Check, f.Detail)
	if f.Advice != "" {
		_, _ = fmt.Fprintf(a.stdout, "         -> %s\n", f.Advice)
	}
}
