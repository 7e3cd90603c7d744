package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"socketxp/internal/agent"

	"github.com/spf13/cobra"
)

func (a *app) statusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether this device is registered and connected",
		Long: `Shows whether this device is registered and connected, to which gateway and since when,
its key's fingerprint, the last error, and which tunnels it publishes. The exit status is
0 only while it is connected.`,
		Example: `  socketxp status
  socketxp status --json
  socketxp status --quiet || echo "offline"`,
		Args: usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := a.dir("")
			if err != nil {
				return err
			}
			s, err := agent.GetStatus(cmd.Context(), dir)
			if err != nil {
				return err
			}
			if asJSON {
				err = a.printJSON(s)
			} else {
				a.printStatus(s)
			}
			if err == nil && !s.Connected {
				err = silent{}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) printStatus(s agent.Status) {
	a.say("Device [%s] Id [%s] Group [%s].", s.DeviceName, s.DeviceID, s.DeviceGroup)
	a.say("Key      %s", s.Fingerprint)
	a.say("Gateway  %s", s.Gateway)
	if way := wayOf(s); way != "" {
		a.say("Reached  %s", way)
	}
	switch {
	case s.Connected:
		a.say("Status   connected since %s", ago(s.Since))
	case s.Running:
		a.say("Status   not connected since %s", ago(s.Since))
	default:
		a.say("Status   not connected: no agent is running")
	}
	if s.LastError != "" {
		a.say("Error    %s", agent.Printable(s.LastError))
	}
	for _, t := range s.Tunnels {
		a.say("Tunnel   %s%s", t.Destination, tunnelKind(t))
	}
}

// wayOf says how the agent reaches the gateway, if it is worth a line: not for the
// direct way.
func wayOf(s agent.Status) string {
	named := func(door string) string {
		if door == "websocket" {
			return "in a WebSocket"
		}
		return "directly"
	}
	var way string
	switch {
	case s.Door == "":
		return ""
	case s.LinkDoor != "" && s.LinkDoor != s.Door:
		way = named(s.Door) + ", links " + named(s.LinkDoor)
	case s.Door != "direct" || s.Proxy != "":
		way = named(s.Door)
	default:
		return ""
	}
	if s.Proxy != "" {
		way += ", through the proxy " + agent.Printable(s.Proxy)
	}
	return way
}

func tunnelKind(t agent.TunnelStatus) string {
	switch {
	case t.SSH && len(t.Users) > 0:
		return " (built-in SSH for " + agent.Printable(strings.Join(t.Users, ", ")) + ")"
	case t.SSH:
		return " (built-in SSH)"
	}
	return ""
}

func ago(t time.Time) string {
	return fmt.Sprintf("%s (%v)", t.Local().Format(time.DateTime), time.Since(t).Round(time.Second))
}

func (a *app) tunnelCommand() *cobra.Command {
	var asJSON bool
	ls := &cobra.Command{
		Use:   "ls",
		Short: "List the tunnels that this device publishes now",
		Args:  usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := a.dir("")
			if err != nil {
				return err
			}
			s, err := agent.GetStatus(cmd.Context(), dir)
			if err != nil {
				return err
			}
			if !s.Running {
				return agent.NoAgent(dir)
			}
			if asJSON {
				return a.printJSON(s.Tunnels)
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 3, ' ', 0)
			_, _ = fmt.Fprintln(w, "DESTINATION\tSERVED BY\tLINKS")
			for _, t := range s.Tunnels {
				by := "destination"
				if t.SSH {
					by = "built-in SSH"
				}
				_, _ = fmt.Fprintf(w, "%s\t%s\t%d\n", t.Destination, by, t.Links)
			}
			return w.Flush()
		},
	}
	ls.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd := &cobra.Command{
		Use: "tunnel", Short: "Tunnels of this device", Args: usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(ls)
	return cmd
}
