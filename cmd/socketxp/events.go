package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"socketxp"
	"socketxp/internal/agent"
	"socketxp/internal/api"

	"github.com/spf13/cobra"
)

func (a *app) eventsCommand() *cobra.Command {
	return parent("events", "List events, and follow them live",
		"Events tell what changes: devices come and go, tokens and sessions begin and end. They are kept for 30 days; the audit is what stays.",
		a.eventsList())
}

var eventTable = list[api.Event]{
	id: func(e api.Event) string { return e.ID }, none: "there are no such events", next: "--watch waits for the next ones",
	columns: []column[api.Event]{
		{name: "AT", show: func(e api.Event) string { return e.At.Local().Format(time.DateTime) }, value: func(e api.Event) string { return exact(e.At) }},
		{name: "TYPE", show: func(e api.Event) string { return string(e.Type) }},
		{name: "DEVICE", show: func(e api.Event) string { return e.DeviceName }, shrinks: true},
		{name: "MESSAGE", show: func(e api.Event) string { return e.Message }, shrinks: true},
	},
}

func (a *app) eventsList() *cobra.Command {
	var f listFlags
	var q api.EventList
	var device, kind string
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List events, newest first, or follow them", Args: usageArgs(noArgs),
		Long: `Lists events, newest first. With --watch, events are printed as they happen, from now on,
until Ctrl-C; when the connection breaks, none is missed.`,
		Example: `  socketxp events ls --device pump-1
  socketxp events ls --watch
  socketxp events ls --watch --type device.offline --output jsonl`,
	}
	f.add(a, cmd)
	cmd.Flags().StringVar(&device, "device", "", "those of this `DEVICE`")
	cmd.Flags().StringVar(&kind, "type", "", "those of this `TYPE`, for example device.offline")
	completeFlag(cmd, "device", a.completeDevices())
	var types []string
	for _, t := range []socketxp.EventType{
		socketxp.EventDeviceRegistered, socketxp.EventDeviceOnline, socketxp.EventDeviceOffline, socketxp.EventDeviceChanged, socketxp.EventDeviceDeleted, socketxp.EventDeviceQuarantined,
		socketxp.EventTokenCreated, socketxp.EventTokenRevoked, socketxp.EventSessionStarted, socketxp.EventSessionEnded,
	} {
		types = append(types, string(t))
	}
	fixedValues(cmd, "type", types...)
	cmd.RunE = a.withPerson(func(ctx context.Context, p *person, _ []string) error {
		q.Type = socketxp.EventType(kind)
		if device != "" {
			d, err := p.device(ctx, device)
			if err != nil {
				return err
			}
			q.DeviceID = d.ID
		}
		if f.watch {
			return a.followEvents(ctx, p, f.output.form, q)
		}
		return printList(ctx, a, f, eventTable, func(ctx context.Context) ([]api.Event, bool, error) {
			items, more, err := pages(f, func(cursor string, n int) ([]api.Event, string, error) {
				q := q
				q.Cursor, q.Limit = cursor, n
				page, err := p.Events(ctx, q)
				return page.Items, page.NextCursor, err
			})
			return items, more, p.failed(err)
		})
	})
	return cmd
}

// The waits between two tries to follow events again.
const (
	shortestRetry = time.Second
	longestRetry  = 30 * time.Second
)

// followEvents prints events as they happen until ctx ends, which is no error, or the
// gateway refuses. A broken stream goes on after the last event that came.
func (a *app) followEvents(ctx context.Context, p *person, form string, q api.EventList) error {
	last, err := newestEvent(ctx, p)
	if err != nil {
		return p.failed(err)
	}
	widths := []int{len(time.DateTime), 17, 16, 0}
	retry := shortestRetry
	for {
		err := p.StreamEvents(ctx, last, func(e api.Event) error {
			a.well()
			retry = shortestRetry
			last = e.ID
			if q.DeviceID != "" && e.DeviceID != q.DeviceID || q.Type != "" && e.Type != q.Type {
				return nil
			}
			return a.printEvent(form, e, widths)
		})
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to end
		}
		var own writeError
		if errors.As(err, &own) {
			return own.error
		}
		if err = p.failed(err); err != nil {
			var no *agent.RefusedError
			if !errors.As(err, new(*agent.UnreachableError)) && (!errors.As(err, &no) || !no.Passing()) {
				return err
			}
			a.problem(err, retry)
		}
		if !pause(ctx, retry) {
			return nil
		}
		retry = min(2*retry, longestRetry)
	}
}

// newestEvent returns the id of the last event that there was, after which a stream
// begins: one that begins "now" would miss what happens until it is connected again,
// if it breaks before the first event.
func newestEvent(ctx context.Context, p *person) (string, error) {
	page, err := p.Events(ctx, api.EventList{Limit: 1})
	if err != nil || len(page.Items) == 0 {
		return "", err
	}
	return page.Items[0].ID, nil
}

// writeError is an error of the output, not of the gateway.
type writeError struct{ error }

func (a *app) printEvent(form string, e api.Event, widths []int) error {
	var err error
	if form == formTable && !a.quiet {
		cells := eventTable.cells(e)
		for i := range widths[:len(widths)-1] {
			widths[i] = max(widths[i], cellWidth(cells[i]))
		}
		writeRows(&stickyWriter{a.stdout, &err}, [][]string{cells}, slices.Concat(widths[:len(widths)-1], []int{cellWidth(cells[len(cells)-1])}))
	} else {
		if form == formTable {
			form = formJSONL
		}
		err = writeList(a, form, eventTable, []api.Event{e})
	}
	if err != nil {
		return writeError{fmt.Errorf("write: %w", err)}
	}
	return nil
}

// stickyWriter keeps the first error.
type stickyWriter struct {
	w   interface{ Write([]byte) (int, error) }
	err *error
}

// Write is for fmt.
func (s *stickyWriter) Write(b []byte) (int, error) {
	if *s.err != nil {
		return 0, *s.err
	}
	n, err := s.w.Write(b)
	*s.err = err
	return n, err
}
