package main

import (
	"context"

	"socketxp/internal/agent"

	"golang.org/x/sync/errgroup"
)

// runConfig opens all tunnels of a config file, and ends when the first of them
// does.
func (a *app) runConfig(ctx context.Context, path string) error {
	c, err := agent.ReadConfig(path)
	if err != nil {
		return err
	}
	a.say("Using config file: %s", agent.Printable(path))
	for _, n := range c.Notes {
		a.warn("%s: %s", path, n)
	}
	dir, err := a.dirOfOwn(c.WorkDir)
	if err != nil {
		return err
	}
	target := agent.Target{Token: a.token}
	if target.Token == "" {
		target.Token = c.AuthToken
	}
	if target.Token == "" && len(c.Visits) > 0 {
		return usage("export it as SOCKETXP_AUTHTOKEN", "the tunnels in slave mode need an access token")
	}
	group, ctx := errgroup.WithContext(ctx)
	if len(c.Publish) > 0 || len(c.Visits) == 0 {
		group.Go(func() error {
			return a.publish(ctx, dir, c.Publish, target, identity{c.Name, c.Group})
		})
	}
	for _, v := range c.Visits {
		group.Go(func() error { return a.visit(ctx, dir, target, v) })
	}
	return group.Wait()
}
