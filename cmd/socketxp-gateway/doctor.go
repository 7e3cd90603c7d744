package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"socketxp"
	"socketxp/internal/gateway"
	"socketxp/internal/store"
)

func doctorCommand() *cobra.Command {
	var asJSON bool
	var clockURL string
	cmd := &cobra.Command{
		Use: "doctor", Short: "Say what is wrong with this gateway, and what to do", Args: usageArgs(cobra.NoArgs),
		Long: `Looks at the data folder, disk, database, clock, keys, certificate, port, public
address and limits, with the configuration that "serve" would have: give it the same
flags, file and environment. It works beside a gateway that runs and on one that
does not start, and makes, migrates and repairs nothing.

The exit status is 1 if something keeps the gateway from serving, or soon will.`,
		Example: `  socketxp-gateway admin doctor --config /etc/socketxp/gateway.yaml
  socketxp-gateway admin doctor --json | jq '.[] | select(.verdict != "ok")'
  socketxp-gateway admin doctor --clock-url https://example.com`,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a list of objects with check, verdict, detail and advice")
	cmd.Flags().StringVar(&clockURL, "clock-url", "", "compare the clock with the Date that this https:// address answers with (default: ask nobody)")
	return withConfig(cmd, func(cmd *cobra.Command, _ []string, cfg gateway.Config) error {
		d := gateway.Doctor{Config: cfg, Now: time.Now, ClockURL: clockURL, Database: func(ctx context.Context) (gateway.DatabaseHealth, error) {
			url, err := databaseURL(cfg)
			if err != nil {
				return gateway.DatabaseHealth{}, err
			}
			i, err := store.Inspect(ctx, url, false)
			return gateway.DatabaseHealth{
				Engine: i.Engine, Version: i.Version, Newest: i.Newest, Size: i.Size, WALSize: i.WALSize, HighAt: i.HighAt, Keys: i.Keys,
			}, err
		}}
		found := d.Diagnose(cmd.Context())
		failures := 0
		for _, f := range found {
			if f.Verdict == gateway.Failure {
				failures++
			}
		}
		if err := printFindings(cmd.OutOrStdout(), found, asJSON); err != nil {
			return err
		}
		if failures > 0 {
			return socketxp.Errorf(socketxp.CodeUnavailable, "%d of %d checks failed", failures, len(found))
		}
		return nil
	})
}

func printFindings(w io.Writer, found []gateway.Finding, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(found)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range found {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\n", f.Verdict, f.Check, f.Detail)
		if f.Advice != "" {
			_, _ = fmt.Fprintf(t, "\t\t-> %s\n", f.Advice)
		}
	}
	return t.Flush()
}
