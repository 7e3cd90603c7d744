package main

import (
	"context"
	"strconv"
	"time"

	"socketxp"
	"socketxp/internal/agent"
	"socketxp/internal/api"

	"github.com/spf13/cobra"
)

func (a *app) groupsCommand() *cobra.Command {
	return parent("groups", "List, make, rename and delete groups",
		"Works with the groups of devices. A device is moved to another by \"socketxp devices edit\".",
		a.groupsList(), a.groupsCreate(), a.groupsRename(), a.groupsDelete())
}

var groupTable = list[api.Group]{
	id: func(g api.Group) string { return g.Name }, none: "there are no groups", next: "socketxp groups create NAME makes one",
	columns: []column[api.Group]{
		{name: "NAME", show: func(g api.Group) string { return g.Name }},
		{name: "DEVICES", show: func(g api.Group) string { return strconv.Itoa(g.Devices) }},
		{name: "MADE", show: func(g api.Group) string { return since(g.CreatedAt) }, value: func(g api.Group) string { return exact(g.CreatedAt) }},
	},
}

func (a *app) groupsList() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List the groups", Args: usageArgs(noArgs)}
	f.add(a, cmd)
	cmd.RunE = a.withPerson(func(ctx context.Context, p *person, _ []string) error {
		return printList(ctx, a, f, groupTable, func(ctx context.Context) ([]api.Group, bool, error) {
			groups, err := p.Groups(ctx)
			more := !f.all && len(groups) > f.limit
			if more {
				groups = groups[:f.limit]
			}
			return groups, more, p.failed(err)
		})
	})
	return cmd
}

func (a *app) groupsCreate() *cobra.Command {
	return &cobra.Command{
		Use: "create NAME...", Short: "Make groups", Args: usageArgs(cobra.MinimumNArgs(1)), ValidArgsFunction: noCompletion,
		RunE: a.withPerson(func(ctx context.Context, p *person, args []string) error {
			return a.each(args, func(name string) error {
				if err := socketxp.CheckGroup(name); err != nil {
					return usageError{err}
				}
				if _, err := p.CreateGroup(ctx, name); err != nil {
					return p.failed(err)
				}
				a.say("The group %s is made.", name)
				return nil
			})
		}),
	}
}

func (a *app) groupsRename() *cobra.Command {
	return &cobra.Command{
		Use: "rename OLD NEW", Short: "Rename a group", Args: usageArgs(cobra.ExactArgs(2)), ValidArgsFunction: firstOnly(a.completeGroups()),
		Long: "Its devices stay in it. Tokens that name the group by its old name don't reach them any more.",
		RunE: a.withPerson(func(ctx context.Context, p *person, args []string) error {
			if err := socketxp.CheckGroup(args[1]); err != nil {
				return usageError{err}
			}
			g, err := p.RenameGroup(ctx, args[0], args[1])
			if err != nil {
				return p.failed(err)
			}
			a.say("The group %s is called %s now.", agent.Printable(args[0]), agent.Printable(g.Name))
			return nil
		}),
	}
}

func (a *app) groupsDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME...", Aliases: []string{"rm"}, Short: "Delete empty groups", Args: usageArgs(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeGroups(),
		RunE: a.withPerson(func(ctx context.Context, p *person, args []string) error {
			return a.each(args, func(name string) error {
				if err := p.DeleteGroup(ctx, name); err != nil {
					return p.failed(err)
				}
				a.say("The group %s is deleted.", agent.Printable(name))
				return nil
			})
		}),
	}
}

func (a *app) sessionsCommand() *cobra.Command {
	return parent("sessions", "List, show and end sessions",
		"A session is one visitor reaching one tunnel of one device.", a.sessionsList(), a.sessionsShow(), a.sessionsEnd())
}

var sessionTable = list[api.Session]{
	id: func(s api.Session) string { return s.ID }, none: "there are no such sessions", next: "a session begins when somebody reaches a device: socketxp connect --help",
	columns: []column[api.Session]{
		{name: "ID", show: func(s api.Session) string { return s.ID }},
		{name: "DEVICE", show: func(s api.Session) string { return s.DeviceName }, shrinks: true},
		{name: "DESTINATION", show: func(s api.Session) string { return s.Destination }, shrinks: true},
		{name: "FROM", show: func(s api.Session) string { return s.RemoteAddr }, shrinks: true},
		{name: "STARTED", show: func(s api.Session) string { return since(s.StartedAt) }, value: func(s api.Session) string { return exact(s.StartedAt) }},
		{name: "ENDED", show: ended, value: func(s api.Session) string { return exactPtr(s.EndedAt) }},
		{name: "LINKS", show: func(s api.Session) string { return strconv.FormatInt(s.Links, 10) }},
		{name: "UP", show: func(s api.Session) string { return size(s.BytesUp) }, value: func(s api.Session) string { return strconv.FormatInt(s.BytesUp, 10) }},
		{name: "DOWN", show: func(s api.Session) string { return size(s.BytesDown) }, value: func(s api.Session) string { return strconv.FormatInt(s.BytesDown, 10) }},
	},
}

func ended(s api.Session) string {
	switch {
	case s.EndedAt == nil:
		return "live"
	case s.EndReason != "":
		return since(*s.EndedAt) + ", " + string(s.EndReason)
	}
	return since(*s.EndedAt)
}

func (a *app) sessionsList() *cobra.Command {
	var f listFlags
	var q api.SessionList
	var device string
	var live, over bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List sessions, newest first", Args: usageArgs(noArgs),
		Example: "  socketxp sessions ls --live --watch\n  socketxp sessions ls --device pump-1 --json",
	}
	f.add(a, cmd)
	cmd.Flags().StringVar(&device, "device", "", "those with this `DEVICE`")
	cmd.Flags().StringVar(&q.TokenID, "token", "", "those by the token of this `ID`")
	cmd.Flags().BoolVar(&live, "live", false, "those that go on")
	cmd.Flags().BoolVar(&over, "over", false, "those that ended")
	completeFlag(cmd, "device", a.completeDevices())
	completeFlag(cmd, "token", a.completeTokens())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := exclusive(cmd, "live", "over"); err != nil {
			return err
		}
		if live || over {
			q.Live = &live
		}
		return a.withPerson(func(ctx context.Context, p *person, _ []string) error {
			if device != "" {
				d, err := p.device(ctx, device)
				if err != nil {
					return err
				}
				q.DeviceID = d.ID
			}
			return printList(ctx, a, f, sessionTable, func(ctx context.Context) ([]api.Session, bool, error) {
				items, more, err := pages(f, func(cursor string, n int) ([]api.Session, string, error) {
					q := q
					q.Cursor, q.Limit = cursor, n
					page, err := p.Sessions(ctx, q)
					return page.Items, page.NextCursor, err
				})
				return items, more, p.failed(err)
			})
		})(cmd, args)
	}
	return cmd
}

func (a *app) sessionsShow() *cobra.Command {
	var f outputFlags
	cmd := &cobra.Command{Use: "show ID", Short: "Show a session", Args: usageArgs(cobra.ExactArgs(1)), ValidArgsFunction: firstOnly(a.completeSessions())}
	f.add(cmd, formTable, formJSON)
	cmd.RunE = a.withPerson(func(ctx context.Context, p *person, args []string) error {
		s, err := p.Session(ctx, args[0])
		if err != nil {
			return p.failed(err)
		}
		if f.form == formJSON {
			return a.printJSON(s)
		}
		lasted := time.Since(s.StartedAt)
		if s.EndedAt != nil {
			lasted = s.EndedAt.Sub(s.StartedAt)
		}
		a.printFields([]field{
			{"Id", s.ID},
			{"Device", s.DeviceName + " (" + s.DeviceID + ")"},
			{"Destination", s.Destination},
			{"From", s.RemoteAddr},
			{"User", s.UserID},
			{"Token", s.TokenID},
			{"Started", both(s.StartedAt)},
			{"Ended", bothPtr(s.EndedAt)},
			{"Reason", string(s.EndReason)},
			{"Lasted", lasted.Round(time.Second).String()},
			{"Links", strconv.FormatInt(s.Links, 10)},
			{"To the device", size(s.BytesUp)},
			{"From the device", size(s.BytesDown)},
		})
		return nil
	})
	return cmd
}

func (a *app) sessionsEnd() *cobra.Command {
	return &cobra.Command{
		Use: "end ID...", Short: "Cut sessions", Args: usageArgs(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeSessions(),
		Long:    "Cuts the sessions' links. The token stays good: \"socketxp tokens revoke\" keeps the visitor out.",
		Example: "  socketxp sessions ls --live --device pump-1 --quiet | xargs socketxp sessions end",
		RunE: a.withPerson(func(ctx context.Context, p *person, args []string) error {
			return a.each(args, func(id string) error {
				if err := p.EndSession(ctx, id); err != nil {
					return p.failed(err)
				}
				a.say("The session %s is ended.", agent.Printable(id))
				return nil
			})
		}),
	}
}
