package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"socketxp"
	"socketxp/internal/agent"
	"socketxp/internal/api"

	"github.com/spf13/cobra"
)

// parent is a command that only has others below it.
func parent(use, short, long string, below ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Args: usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(below...)
	return cmd
}

// withPerson runs a command for whoever is signed in. What the client returns, do
// passes through p.failed.
func (a *app) withPerson(do func(ctx context.Context, p *person, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		p, err := a.signedIn()
		if err != nil {
			return err
		}
		defer p.Close()
		return do(cmd.Context(), p, args)
	}
}

// said is a failure that people were told of.
type said struct{ error }

func (e said) Unwrap() error { return e.error }

// Is makes it silent.
func (said) Is(target error) bool { return target == silent{} }

// each runs do for each argument; one that fails keeps none of the others, and is told
// of with its name. The error is that of the first.
func (a *app) each(args []string, do func(arg string) error) error {
	if len(args) == 1 {
		return do(args[0])
	}
	var first error
	for _, arg := range args {
		err := do(arg)
		if err == nil {
			continue
		}
		if a.complain(arg+": "+err.Error(), err); first == nil {
			first = said{err}
		}
	}
	return first
}

func (a *app) devicesCommand() *cobra.Command {
	return parent("devices", "List, show, edit and delete devices",
		`Works with the devices of your account, by name or by id. Needs "socketxp signin", or an
api token in SOCKETXP_API_TOKEN.`,
		a.devicesList(), a.devicesShow(), a.devicesEdit(), a.devicesSwitch("enable", "Let devices connect again", (*api.Client).EnableDevice),
		a.devicesSwitch("disable", "Cut devices off, and keep them off", (*api.Client).DisableDevice),
		a.devicesSwitch("release", "End the quarantine of devices whose key two machines used", (*api.Client).ReleaseDevice), a.devicesDelete(), a.devicesPreRegister())
}

var deviceTable = list[api.Device]{
	id: func(d api.Device) string { return d.ID }, none: "there are no such devices", next: "socketxp tokens create registration --name NAME makes a token that registers one",
	columns: []column[api.Device]{
		{name: "NAME", show: func(d api.Device) string { return d.Name }},
		{name: "GROUP", show: func(d api.Device) string { return d.Group }},
		{name: "STATUS", show: func(d api.Device) string { return string(d.Status) }},
		{name: "LAST SEEN", show: lastSeen, value: func(d api.Device) string { return exactPtr(d.LastSeenAt) }},
		{name: "DISPLAY NAME", show: func(d api.Device) string { return d.DisplayName }, shrinks: true},
		{name: "TUNNELS", show: tunnels, shrinks: true},
		{name: "ADDRESS", show: func(d api.Device) string { return d.RemoteAddr }, shrinks: true},
		{name: "SYSTEM", show: system, shrinks: true},
		{name: "ID", show: func(d api.Device) string { return d.ID }},
	},
}

func lastSeen(d api.Device) string {
	if d.Online {
		return "now"
	}
	return sincePtr(d.LastSeenAt)
}

func tunnels(d api.Device) string {
	var out []string
	for _, t := range d.Tunnels {
		out = append(out, t.Destination)
	}
	return strings.Join(out, " ")
}

func system(d api.Device) string {
	if d.OS == "" && d.Arch == "" {
		return ""
	}
	return d.OS + "/" + d.Arch
}

func (a *app) devicesList() *cobra.Command {
	var f listFlags
	var q api.DeviceList
	var state string
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List devices", Args: usageArgs(noArgs),
		Example: `  socketxp devices ls --status offline --sort -last_seen_at
  socketxp devices ls --search pump --watch
  socketxp devices ls --group temp-sensor --quiet | xargs socketxp devices disable
  socketxp devices ls --output csv > devices.csv`,
	}
	f.add(a, cmd)
	cmd.Flags().StringVar(&q.Search, "search", "", "`PART` of a name, display name, group, host name or id")
	cmd.Flags().StringVar(&q.Group, "group", "", "those of this `GROUP`")
	cmd.Flags().StringVar(&state, "status", "", "those that are `STATUS`: online, offline, disabled or quarantined")
	cmd.Flags().StringVar(&q.Version, "agent-version", "", "those whose agent has this `VERSION`")
	cmd.Flags().StringVar(&q.Sort, "sort", "", "by `COLUMN`: name, group, created_at or last_seen_at; - before it turns the order round")
	fixedValues(cmd, "status", string(api.DeviceOnline), string(api.DeviceOffline), string(api.DeviceDisabled), string(api.DeviceQuarantined))
	fixedValues(cmd, "sort", "name", "-name", "group", "-group", "created_at", "-created_at", "last_seen_at", "-last_seen_at")
	completeFlag(cmd, "group", a.completeGroups())
	cmd.RunE = a.withPerson(func(ctx context.Context, p *person, _ []string) error {
		q.Status = api.DeviceStatus(state)
		return printList(ctx, a, f, deviceTable, func(ctx context.Context) ([]api.Device, bool, error) {
			items, more, err := pages(f, func(cursor string, n int) ([]api.Device, string, error) {
				q := q
				q.Cursor, q.Limit = cursor, n
				page, err := p.Devices(ctx, q)
				return page.Items, page.NextCursor, err
			})
			return items, more, p.failed(err)
		})
	})
	return cmd
}

func (a *app) devicesShow() *cobra.Command {
	var f outputFlags
	cmd := &cobra.Command{
		Use: "show DEVICE", Short: "Show a device", Args: usageArgs(cobra.ExactArgs(1)), ValidArgsFunction: firstOnly(a.completeDevices()),
		Example: "  socketxp devices show pump-1\n  socketxp devices show 019ab6f2-7c1e-7a3b-9d60-2f6c1b9e4d11 --json",
	}
	f.add(cmd, formTable, formJSON)
	cmd.RunE = a.withPerson(func(ctx context.Context, p *person, args []string) error {
		d, err := p.device(ctx, args[0])
		if err != nil {
			return err
		}
		return a.showDevice(f, d)
	})
	return cmd
}

func (a *app) showDevice(f outputFlags, d api.Device) error {
	if f.form == formJSON {
		return a.printJSON(d)
	}
	if a.quiet {
		_, err := fmt.Fprintln(a.stdout, agent.Printable(d.ID))
		return err
	}
	by := d.CreatedBy
	if d.TokenID != "" {
		by += ", by token " + d.TokenID
	}
	a.printFields([]field{
		{"Name", d.Name},
		{"Display name", d.DisplayName},
		{"Group", d.Group},
		{"Id", d.ID},
		{"Status", string(d.Status)},
		{"Disabled", bothPtr(d.DisabledAt)},
		{"In quarantine", bothPtr(d.QuarantinedAt)},
		{"Why", d.QuarantineReason},
		{"Last seen", bothPtr(d.LastSeenAt)},
		{"Address", d.RemoteAddr},
		{"Registered", both(d.CreatedAt)},
		{"Registered by", by},
		{"Key", d.Fingerprint},
		{"SSH host key", d.SSHHostKey},
		{"Host name", d.Hostname},
		{"System", strings.TrimSpace(system(d) + " " + d.Kernel)},
		{"Agent", d.Version},
		{"Local addresses", strings.Join(d.LocalAddrs, ", ")},
	})
	for _, t := range d.Tunnels {
		kind := ""
		if t.SSH {
			kind = " (built-in SSH)"
		}
		a.printFields([]field{{"Tunnel", t.Destination + kind}})
	}
	return nil
}

func (a *app) devicesEdit() *cobra.Command {
	var name, display, group string
	var f outputFlags
	cmd := &cobra.Command{
		Use: "edit DEVICE", Short: "Rename a device or move it to another group", Args: usageArgs(cobra.ExactArgs(1)), ValidArgsFunction: firstOnly(a.completeDevices()),
		Long: "Changes what is given. A move to another group takes effect at once, on what is open too.",
		Example: `  socketxp devices edit pump-1 --name pump-north --display-name "Pump, north bank"
  socketxp devices edit pump-1 --group retired`,
	}
	cmd.Flags().StringVar(&name, "name", "", "the new `NAME`")
	cmd.Flags().StringVar(&display, "display-name", "", "the new display name: free `TEXT`, or empty")
	cmd.Flags().StringVar(&group, "group", "", "the `GROUP` to move it to; it is made if there is none")
	completeFlag(cmd, "group", a.completeGroups())
	f.add(cmd, formTable, formJSON)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var u api.UpdateDeviceRequest
		for flag, to := range map[string]struct {
			value *string
			field **string
			check func(string) error
		}{
			"name": {&name, &u.Name, socketxp.CheckDeviceName}, "group": {&group, &u.Group, socketxp.CheckGroup},
			"display-name": {&display, &u.DisplayName, func(s string) error { return socketxp.CheckDisplayText("display name", s, 128) }},
		} {
			if !cmd.Flags().Changed(flag) {
				continue
			}
			if err := to.check(*to.value); err != nil {
				return usageError{err}
			}
			*to.field = to.value
		}
		if u == (api.UpdateDeviceRequest{}) {
			return usage("give --name, --display-name or --group", "nothing is to be changed")
		}
		return a.withPerson(func(ctx context.Context, p *person, args []string) error {
			d, err := p.device(ctx, args[0])
			if err != nil {
				return err
			}
			d, err = p.UpdateDevice(ctx, d.ID, u)
			if err != nil {
				return p.failed(err)
			}
			return a.showDevice(f, d)
		})(cmd, args)
	}
	return cmd
}

// devicesSwitch is `devices enable`, `disable` or `release`.
func (a *app) devicesSwitch(name, short string, do func(*api.Client, context.Context, string) (api.Device, error)) *cobra.Command {
	return &cobra.Command{
		Use: name + " DEVICE...", Short: short, Args: usageArgs(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeDevices(),
		RunE: a.withPerson(func(ctx context.Context, p *person, args []string) error {
			return a.each(args, func(arg string) error {
				d, err := p.device(ctx, arg)
				if err != nil {
					return err
				}
				if _, err := do(p.Client, ctx, d.ID); err != nil {
					return p.failed(err)
				}
				a.say("The device %s is %sd.", agent.Printable(d.Name), name) // all of them end with an e
				return nil
			})
		}),
	}
}

func (a *app) devicesDelete() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "delete DEVICE...", Aliases: []string{"rm"}, Short: "Delete devices", Args: usageArgs(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeDevices(),
		Long: "Cuts the devices off; they can come back only by being registered again. Their sessions and audit records stay.",
		RunE: a.withPerson(func(ctx context.Context, p *person, args []string) error {
			var found []api.Device
			err := a.each(args, func(arg string) error {
				d, err := p.device(ctx, arg)
				if err == nil {
					found = append(found, d)
				}
				return err
			})
			if err != nil {
				return err
			}
			var names []string
			for _, d := range found {
				names = append(names, d.Name+" ("+d.ID+")")
			}
			if err := a.confirmed(ctx, yes, "Delete %s?", strings.Join(names, ", ")); err != nil {
				return err
			}
			for _, d := range found {
				if err := p.DeleteDevice(ctx, d.ID); err != nil {
					return p.failed(err)
				}
				a.say("The device %s is deleted.", agent.Printable(d.Name))
			}
			return nil
		}),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	return cmd
}

func (a *app) devicesPreRegister() *cobra.Command {
	var r api.PreRegisterRequest
	var file string
	cmd := &cobra.Command{
		Use: "pre-register NAME", Short: "Register a device ahead of time, for a factory", Args: usageArgs(cobra.ExactArgs(1)), ValidArgsFunction: noCompletion,
		Long: `Registers a device that has never been connected, and writes the content of its
device.key: with that file and a config.json it starts without a login. The gateway keeps
the public half of the key alone, so it is answered this once.`,
		Example: `  socketxp devices pre-register meter-0001 --group meters --key-file image/var/lib/socketxp/device.key`,
	}
	cmd.Flags().StringVar(&r.DisplayName, "display-name", "", "free `TEXT`")
	cmd.Flags().StringVar(&r.Group, "group", "", "its `GROUP`")
	cmd.Flags().StringVar(&file, "key-file", "", "write the key to this `FILE`, which must not be there; - for standard output")
	completeFlag(cmd, "group", a.completeGroups())
	cmd.RunE = a.withPerson(func(ctx context.Context, p *person, args []string) error {
		r.Name = args[0]
		if err := socketxp.CheckDeviceName(r.Name); err != nil {
			return usageError{err}
		}
		if file == "" {
			return usage("--key-file device.key, or - for standard output", "the key has to go somewhere")
		}
		out, done, err := a.secretFile(file)
		if err != nil {
			return err
		}
		made, err := p.PreRegister(ctx, r)
		if err != nil {
			return errors.Join(p.failed(err), done(false))
		}
		data, err := json.MarshalIndent(made.DeviceKey, "", "  ")
		if err == nil {
			_, err = out.Write(append(data, '\n'))
		}
		if err := errors.Join(err, done(err == nil)); err != nil {
			return fmt.Errorf("the device %s (%s) is registered, but its key is lost: delete it: %w", made.Name, made.ID, err)
		}
		_, _ = fmt.Fprintf(a.stderr, "Device [%s] Id [%s] Group [%s].\n", agent.Printable(made.Name), agent.Printable(made.ID), agent.Printable(made.Group))
		return nil
	})
	return cmd
}

// secretFile opens a new file for a secret, mode 0600, or standard output for "-".
// The returned function ends it: without good, the file is removed.
func (a *app) secretFile(path string) (out interface{ Write([]byte) (int, error) }, done func(good bool) error, err error) {
	if path == "-" {
		return a.stdout, func(bool) error { return nil }, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // G304: the user's own choice
	if err != nil {
		return nil, nil, err
	}
	return f, func(good bool) error {
		if !good {
			return errors.Join(f.Close(), os.Remove(path))
		}
		return errors.Join(f.Sync(), f.Close())
	}, nil
}
