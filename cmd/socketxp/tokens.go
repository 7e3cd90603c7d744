package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"socketxp"
	"socketxp/internal/agent"
	"socketxp/internal/api"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func (a *app) tokensCommand() *cobra.Command {
	return parent("tokens", "List, make and revoke tokens",
		`Works with the auth tokens of your account. Each kind is for one purpose: registration for
"socketxp login", access for reaching devices, api for programs that use the REST API, and
basic for all three while trying things out.`,
		a.tokensList(), a.tokensShow(), a.tokensCreate(), a.tokensRevoke(), a.tokensReveal(), a.tokensConfirm())
}

var tokenTable = list[api.Token]{
	id: func(t api.Token) string { return t.ID }, none: "there are no such tokens", next: "socketxp tokens create --help",
	columns: []column[api.Token]{
		{name: "ID", show: func(t api.Token) string { return t.ID }},
		{name: "KIND", show: func(t api.Token) string { return string(t.Kind) }},
		{name: "NAME", show: func(t api.Token) string { return t.Name }, shrinks: true},
		{name: "STATE", show: func(t api.Token) string { return string(t.State) }},
		{name: "EXPIRES", show: func(t api.Token) string { return since(t.ExpiresAt) }, value: func(t api.Token) string { return exact(t.ExpiresAt) }},
		{name: "LAST USED", show: func(t api.Token) string { return sincePtr(t.LastUsedAt) }, value: func(t api.Token) string { return exactPtr(t.LastUsedAt) }},
		{name: "USES", show: uses},
		{name: "NARROWED TO", show: func(t api.Token) string { return strings.Join(narrowing(t.Scope), "; ") }, shrinks: true},
	},
}

func uses(t api.Token) string {
	if t.MaxUses == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d", t.Uses, t.MaxUses)
}

// narrowing says what a scope limits a token to; rights are not limits but what it has.
func narrowing(s api.TokenScope) []string {
	var ports []string
	for _, p := range s.Ports {
		ports = append(ports, strconv.Itoa(p))
	}
	var out []string
	for _, part := range []struct {
		what   string
		values []string
	}{
		{"devices", s.Devices},
		{"groups", s.Groups},
		{"ports", ports},
		{"networks", s.Networks},
		{"group", nonEmpty(s.Group)},
		{"names", nonEmpty(s.NamePattern)},
	} {
		if len(part.values) > 0 {
			out = append(out, part.what+" "+strings.Join(part.values, ", "))
		}
	}
	return out
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func kinds() []string {
	var out []string
	for _, k := range socketxp.TokenKinds {
		out = append(out, string(k))
	}
	return out
}

func (a *app) tokensList() *cobra.Command {
	var f listFlags
	var kind string
	var ended bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List tokens, newest first", Args: usageArgs(noArgs),
		Long:    "Lists the tokens that can be used now. With --ended, also those that expired, were revoked or are used up.",
		Example: "  socketxp tokens ls --kind registration\n  socketxp tokens ls --ended --json",
	}
	f.add(a, cmd)
	cmd.Flags().StringVar(&kind, "kind", "", "those of this `KIND`: "+strings.Join(kinds(), ", "))
	cmd.Flags().BoolVar(&ended, "ended", false, "also those that can't be used any more")
	fixedValues(cmd, "kind", kinds()...)
	cmd.RunE = a.withPerson(func(ctx context.Context, p *person, _ []string) error {
		return printList(ctx, a, f, tokenTable, func(ctx context.Context) ([]api.Token, bool, error) {
			items, more, err := pages(f, func(cursor string, n int) ([]api.Token, string, error) {
				page, err := p.Tokens(ctx, api.TokenList{Kind: socketxp.TokenKind(kind), Live: !ended, Cursor: cursor, Limit: n})
				return page.Items, page.NextCursor, err
			})
			return items, more, p.failed(err)
		})
	})
	return cmd
}

// token returns the token of an id, or the live one of a name that no other live one
// has.
func (p *person) token(ctx context.Context, nameOrID string) (api.Token, error) {
	if socketxp.ValidID(nameOrID) {
		t, err := p.Token(ctx, nameOrID)
		return t, p.failed(err)
	}
	all, _, err := pages(listFlags{all: true}, func(cursor string, n int) ([]api.Token, string, error) {
		page, err := p.Tokens(ctx, api.TokenList{Live: true, Cursor: cursor, Limit: n})
		return page.Items, page.NextCursor, err
	})
	if err != nil {
		return api.Token{}, p.failed(err)
	}
	found := slices.DeleteFunc(all, func(t api.Token) bool { return t.Name != nameOrID })
	switch len(found) {
	case 0:
		return api.Token{}, socketxp.Errorf(socketxp.CodeNotFound, "there is no live token %q", nameOrID).WithHint("socketxp tokens ls lists them")
	case 1:
		return found[0], nil
	}
	var ids []string
	for _, t := range found[:min(len(found), 5)] {
		ids = append(ids, t.ID)
	}
	return api.Token{}, socketxp.Errorf(socketxp.CodeInvalid, "%d live tokens are called %q", len(found), nameOrID).WithHint("name one by its id: " + strings.Join(ids, ", "))
}

func (a *app) tokensShow() *cobra.Command {
	var f outputFlags
	cmd := &cobra.Command{
		Use: "show TOKEN", Short: "Show a token, without its text", Args: usageArgs(cobra.ExactArgs(1)), ValidArgsFunction: firstOnly(a.completeTokens()),
		Long: "Shows the token of an id, or the live one of a name.",
	}
	f.add(cmd, formTable, formJSON)
	cmd.RunE = a.withPerson(func(ctx context.Context, p *person, args []string) error {
		t, err := p.token(ctx, args[0])
		if err != nil {
			return err
		}
		if f.form == formJSON {
			return a.printJSON(t)
		}
		a.printToken(t)
		return nil
	})
	return cmd
}

func (a *app) printToken(t api.Token) {
	var rights []string
	for _, r := range t.Scope.Rights {
		rights = append(rights, string(r))
	}
	fields := []field{
		{"Name", t.Name},
		{"Kind", string(t.Kind)},
		{"Id", t.ID},
		{"State", string(t.State)},
		{"Made", both(t.CreatedAt)},
		{"Made by", t.CreatedBy},
		{"Made with", t.ParentID},
		{"Expires", both(t.ExpiresAt)},
		{"Revoked", bothPtr(t.RevokedAt)},
		{"Last used", bothPtr(t.LastUsedAt)},
		{"Uses", uses(t)},
		{"Rights", strings.Join(rights, ", ")},
	}
	for _, n := range narrowing(t.Scope) {
		fields = append(fields, field{"Narrowed to", n})
	}
	a.printFields(fields)
}

// createFlags are those of `tokens create`.
type createFlags struct {
	name, file, group, pattern string
	life                       life
	uses                       int
	networks, rights           []string
	devices, groups            []string
	ports                      []int
	output                     outputFlags
}

func (a *app) tokensCreate() *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use: "create KIND", Short: "Make a token", Args: usageArgs(cobra.ExactArgs(1)),
		Long: `Makes a token and prints its text, once: alone on standard output, so that it can go into
a file or variable. Short lives are better. A token that you make here ends with your
sign-in: at the latest then, or when you sign out.`,
		Example: `  # for one device, within an hour
  socketxp tokens create registration --name "pump 7" --group pumps

  # for a batch, into a file that only you can read
  socketxp tokens create registration --name batch --uses 200 --name-pattern 'meter-*' --life 2d --token-file batch.token

  # one port of one device, for eight hours
  export SOCKETXP_AUTHTOKEN=$(socketxp tokens create access --name laptop --device pump-1 --port 22)`,
		ValidArgsFunction: firstOnly(func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return kinds(), cobra.ShellCompDirectiveNoFileComp
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "the `NAME` that lists show")
	flags.StringVar(&f.file, "token-file", "", "write it to this `FILE`, which must not be there")
	flags.Var(&f.life, "life", "the `TIME` that it is good for, such as 8h or 30d; left out: 1d for basic, 30d for api, 1h for registration, 8h for access")
	flags.IntVar(&f.uses, "uses", 1, "registration: `N` devices can be registered with it")
	flags.StringVar(&f.group, "group", "", "registration: the `GROUP` that the device gets")
	flags.StringVar(&f.pattern, "name-pattern", "", "registration: a `PATTERN` of device names that it is good for, such as 'meter-*'")
	flags.StringArrayVar(&f.networks, "network", nil, "a `NETWORK` that it can be used from, such as 192.0.2.0/24 (repeatable)")
	flags.StringArrayVar(&f.devices, "device", nil, "access, basic: a `DEVICE` that it reaches (repeatable)")
	flags.StringArrayVar(&f.groups, "device-group", nil, "access, basic: a `GROUP` whose devices it reaches (repeatable)")
	flags.IntSliceVar(&f.ports, "port", nil, "access, basic: a `PORT` that it reaches (repeatable)")
	flags.StringArrayVar(&f.rights, "right", nil, "api, basic: a `RIGHT` that it has, for example devices:read (repeatable); by default the usual ones")
	f.output.add(cmd, formTable, formJSON)
	completeFlag(cmd, "device", a.completeDevices())
	completeFlag(cmd, "group", a.completeGroups())
	completeFlag(cmd, "device-group", a.completeGroups())
	var rights []string
	for _, r := range socketxp.Rights {
		rights = append(rights, string(r))
	}
	fixedValues(cmd, "right", rights...)
	cmd.RunE = a.withPerson(func(ctx context.Context, p *person, args []string) error {
		r, err := f.request(cmd, args[0])
		if err != nil {
			return err
		}
		for _, name := range f.devices {
			d, err := p.device(ctx, name)
			if err != nil {
				return err
			}
			r.Scope.Devices = append(r.Scope.Devices, d.ID)
		}
		return a.createToken(ctx, p, r, f)
	})
	return cmd
}

// request returns what the flags ask for, but for the devices.
func (f *createFlags) request(cmd *cobra.Command, kind string) (api.CreateTokenRequest, error) {
	r := api.CreateTokenRequest{Kind: socketxp.TokenKind(kind), Name: f.name}
	if !slices.Contains(socketxp.TokenKinds, r.Kind) {
		hint := "it is one of " + strings.Join(kinds(), ", ")
		if near := socketxp.Nearest(kind, kinds()); near != "" {
			hint = "did you mean " + near + "?"
		}
		return r, usage(hint, "there is no kind of token %q", kind)
	}
	if f.name == "" {
		return r, usage("--name says in lists what it is for", "the token has no name")
	}
	changed := cmd.Flags().Changed
	if changed("life") {
		if time.Duration(f.life) < time.Second {
			return r, usage("for example --life 8h", "a token lives for a second at least")
		}
		seconds := int64(time.Duration(f.life) / time.Second)
		r.ExpiresIn = &seconds
	}
	if changed("uses") {
		r.MaxUses = &f.uses
	}
	r.Scope = &api.TokenScope{Group: f.group, NamePattern: f.pattern, Networks: f.networks, Groups: f.groups, Ports: f.ports}
	for _, right := range f.rights {
		r.Scope.Rights = append(r.Scope.Rights, socketxp.Right(right))
	}
	return r, nil
}

func (a *app) createToken(ctx context.Context, p *person, r api.CreateTokenRequest, f createFlags) error {
	path := f.file
	if path == "" {
		path = "-"
	}
	out, done, err := a.secretFile(path)
	if err != nil {
		return err
	}
	made, err := p.CreateToken(ctx, r)
	if err != nil {
		return errors.Join(p.failed(err), done(false))
	}
	p.learn(ctx, made.Text)
	switch {
	case f.output.form == formJSON && f.file == "":
		return a.printJSON(made)
	case f.output.form == formJSON:
		err = a.printJSON(made.Token)
		fallthrough
	default:
		_, writeErr := io.WriteString(out, agent.Printable(made.Text)+"\n")
		err = errors.Join(err, writeErr)
	}
	if err = errors.Join(err, done(err == nil)); err != nil {
		return fmt.Errorf("the token %s was made, but its text is lost: revoke it: %w", made.ID, err)
	}
	if !a.quiet {
		_, _ = fmt.Fprintf(a.stderr, "The %s token %s is good until %s; its id is %s.\n", made.Kind, agent.Printable(made.Name), made.ExpiresAt.Local().Format("2006-01-02 15:04"), agent.Printable(made.ID))
	}
	return nil
}

func (a *app) tokensRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke TOKEN...", Short: "Revoke tokens", Args: usageArgs(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeTokens(),
		Long: `Ends tokens, by id or by a name that one live token has, and all that were made with
them, at once, and cuts what is open by them. Devices that they registered stay.`,
		Example: "  socketxp tokens revoke 019ab6f2-7c1e-7a3b-9d60-2f6c1b9e4d11\n  socketxp tokens ls --kind access --quiet | xargs socketxp tokens revoke",
		RunE: a.withPerson(func(ctx context.Context, p *person, args []string) error {
			return a.each(args, func(arg string) error {
				t, err := p.token(ctx, arg)
				if err != nil {
					return err
				}
				if err := p.RevokeToken(ctx, t.ID); err != nil {
					return p.failed(err)
				}
				a.say("The %s token %s is revoked.", agent.Printable(string(t.Kind)), agent.Printable(t.Name))
				return nil
			})
		}),
	}
}

func (a *app) tokensReveal() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "reveal TOKEN", Short: "Show a token's text again", Args: usageArgs(cobra.ExactArgs(1)), ValidArgsFunction: firstOnly(a.completeTokens()),
		Long: `Prints the text of a token that can still be used, for its maker or an owner. For this you
enter your password, as a stolen sign-in must not be enough. A gateway can switch it off.`,
		Example: "  socketxp tokens reveal laptop",
	}
	addPasswordFile(cmd, &file)
	cmd.RunE = a.withPerson(func(ctx context.Context, p *person, args []string) error {
		t, err := p.token(ctx, args[0])
		if err != nil {
			return err
		}
		var shown api.CreatedToken
		err = a.withPassword(ctx, p, file, func(c *api.Client) (err error) {
			shown, err = c.RevealToken(ctx, t.ID)
			return err
		})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.stdout, agent.Printable(shown.Text))
		return err
	})
	return cmd
}

func (a *app) tokensConfirm() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "confirm ID...", Short: "Make tokens good again after the gateway was restored from a backup", Args: usageArgs(cobra.MinimumNArgs(1)), ValidArgsFunction: noCompletion,
		Long: `A gateway that was restored from a backup can't know which tokens were revoked since. Those
from before are unconfirmed, and good for nothing until an owner confirms each, with the
password.`,
		Example: "  socketxp tokens ls --ended | grep unconfirmed\n  socketxp tokens confirm 019ab6f2-7c1e-7a3b-9d60-2f6c1b9e4d11",
	}
	addPasswordFile(cmd, &file)
	cmd.RunE = a.withPerson(func(ctx context.Context, p *person, args []string) error {
		return a.withPassword(ctx, p, file, func(c *api.Client) error {
			return a.each(args, func(id string) error {
				if err := c.ConfirmToken(ctx, id); err != nil {
					return err
				}
				a.say("The token %s is confirmed.", agent.Printable(id))
				return nil
			})
		})
	})
	return cmd
}

func addPasswordFile(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "password-file", "", "read the password from this `FILE`, - for standard input")
}

// withPassword does what a gateway does only for a person who has just entered their
// password: signed in as in a browser, and signed out afterwards.
func (a *app) withPassword(ctx context.Context, p *person, file string, do func(*api.Client) error) error {
	me, err := p.Me(ctx)
	if err != nil {
		return p.failed(err)
	}
	password, err := a.password(ctx, file, me.User.Email)
	if err != nil {
		return err
	}
	browser, err := a.anonymous(p)
	if err != nil {
		return err
	}
	defer browser.Close()
	if _, err := browser.SignIn(ctx, me.User.Email, password); err != nil {
		return agent.APIError(p.gateway, err)
	}
	if err := a.keepKnown(ctx, p.profile, p.gateway, browser.Known()); err != nil {
		// What was asked for is done nevertheless: the machine is only a stranger next time.
		a.complain("the gateway will not know this machine: "+err.Error(), nil)
	}
	err = do(browser)
	// Whatever happened: nobody needs this sign-in any more.
	out := browser.SignOut(context.WithoutCancel(ctx))
	if err == nil {
		err = out
	}
	return agent.APIError(p.gateway, err)
}

// anonymous returns a client of the person's gateway that has no credential yet.
func (a *app) anonymous(p *person) (*api.Client, error) {
	all, err := agent.ReadProfiles()
	if err != nil {
		return nil, err
	}
	known, err := all.Find(p.profile)
	if err != nil {
		return nil, usage("socketxp signin", "this needs a sign-in, not a token of a script")
	}
	known.Token = ""
	client, err := all.Client(known)
	if err != nil || known.Known == "" {
		return client, err
	}
	return client, client.SetKnown(known.Known)
}

// keepKnown keeps in the profile what its gateway knows this machine by from now on. A
// profile that has become another gateway's meanwhile is left alone.
func (a *app) keepKnown(ctx context.Context, profile, gateway, value string) error {
	if value == "" { // the gateway gives none
		return nil
	}
	return agent.ChangeProfiles(ctx, func(all *agent.Profiles) error {
		p, err := all.Find(profile)
		if err != nil {
			return err
		}
		if p.Gateway.URL != gateway {
			return nil
		}
		p.Known = value
		return all.Put(p, nil)
	})
}

// password reads a password from a file, or from the terminal, where it is not shown.
func (a *app) password(ctx context.Context, file, email string) (string, error) {
	in := a.stdin
	switch {
	case file == "-":
	case file != "":
		f, err := os.Open(file) //nolint:gosec // G304: the user's own choice
		if err != nil {
			return "", fmt.Errorf("password file: %w", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	default:
		t, ok := a.stdin.(*os.File)
		if !ok || !term.IsTerminal(int(t.Fd())) {
			return "", usage("--password-file FILE, or - for standard input", "the password can't be asked for: this is no terminal")
		}
		return a.askPassword(ctx, t, email)
	}
	line, err := bufio.NewReader(io.LimitReader(in, 1026)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", usage("it is the first line", "there is no password in it")
	}
	return line, nil
}

// askPassword asks at a terminal. Ctrl-C gives the terminal its echo back.
func (a *app) askPassword(ctx context.Context, t *os.File, email string) (string, error) {
	fd := int(t.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	_, _ = fmt.Fprintf(a.stderr, "Password of %s: ", agent.Printable(email))
	type line struct {
		text []byte
		err  error
	}
	read := make(chan line, 1)
	go func() { // ends with the program, if nobody types anything
		text, err := term.ReadPassword(fd)
		read <- line{text, err}
	}()
	defer func() { _, _ = fmt.Fprintln(a.stderr) }()
	select {
	case l := <-read:
		return string(l.text), l.err
	case <-ctx.Done():
		return "", errors.Join(ctx.Err(), term.Restore(fd, state))
	}
}
