package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"socketxp"
	"socketxp/internal/agent"
	"socketxp/internal/api"

	"github.com/spf13/cobra"
)

// signInFlags are those of `signin`.
type signInFlags struct {
	pin, caFile string
	life        life
	browser     bool
}

func (a *app) signInCommand() *cobra.Command {
	f := signInFlags{life: life(30 * day)}
	cmd := &cobra.Command{
		Use:   "signin [GATEWAY_URL]",
		Short: "Sign in to a gateway as a person",
		Long: `Signs you in to a gateway, so that the commands that work with devices, tokens and
sessions can act for you. You confirm it in a browser, or with "socketxp signin approve"
on a machine where you are signed in: no password and no token is typed here.

What this machine gets is a token of its own, for 30 days, that shows in the list of
tokens as "CLI on" this machine and can be revoked there. Signing in again renews it.

Each gateway has a profile, named after it or by --profile; without an address you are
signed in to the current one again. The first time, a gateway whose certificate no
authority vouches for shows its key, and you are asked whether it is the right one;
scripts give --pin or --ca-file.`,
		Example: `  socketxp signin https://gateway.example.com
  socketxp signin                                  # again, where you were
  socketxp signin https://10.0.0.5:8443 --profile plant --pin JPnVJK…

  # for a script: a token in the environment needs no sign-in
  SOCKETXP_API_TOKEN=… socketxp devices ls --json`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := exclusive(cmd, "pin", "ca-file"); err != nil {
				return err
			}
			if d := time.Duration(f.life); d < time.Minute || d > 365*day {
				return usage("for example --life 8h", "a sign-in lasts from a minute to 365 days")
			}
			return a.signIn(cmd.Context(), first(args), f)
		},
	}
	cmd.Flags().StringVar(&f.pin, "pin", "", "the `KEY` by which the gateway is known, as it prints it at its start")
	cmd.Flags().StringVar(&f.caFile, "ca-file", "", "trust the certificates of this `FILE` for the gateway")
	cmd.Flags().Var(&f.life, "life", "the `TIME` that the sign-in lasts, such as 8h; 365d at most")
	cmd.Flags().BoolVar(&f.browser, "browser", false, "open the page in the browser of this machine")
	cmd.AddCommand(a.decideCommand("approve", true), a.decideCommand("deny", false))
	return cmd
}

// signIn signs a person in to the gateway at address, or to that of the chosen
// profile.
func (a *app) signIn(ctx context.Context, address string, f signInFlags) error {
	all, err := agent.ReadProfiles()
	if err != nil {
		return err
	}
	p, err := a.signInProfile(all, address)
	if err != nil {
		return err
	}
	client, authorities, err := a.meet(ctx, all, &p, f)
	if err != nil {
		return err
	}
	defer client.Close()
	token, err := a.authorize(ctx, client, p.Gateway.URL, f)
	if err != nil {
		return err
	}
	signedIn := client.WithCredential(token.AccessToken)
	me, err := signedIn.Me(ctx)
	if err != nil {
		return agent.APIError(p.Gateway.URL, err)
	}
	old := p
	p.Token, p.TokenID, p.ExpiresAt = token.AccessToken, token.TokenID, me.Credential.ExpiresAt
	p.Learn(p.Token)
	p.Email, p.Account = shown(me.User.Email, 254), shown(me.Account.Name, 128)
	err = agent.ChangeProfiles(ctx, func(all *agent.Profiles) error { return all.Put(p, authorities) })
	if err != nil {
		// Nobody has the token then.
		return errors.Join(err, signedIn.RevokeToken(ctx, p.TokenID))
	}
	if old.Token != "" && old.TokenID != p.TokenID {
		// It may have run out or been revoked; what can't be revoked ends by itself.
		_ = signedIn.RevokeToken(ctx, old.TokenID)
	}
	a.say("Signed in to %s as %s, account %s, until %s.", p.Gateway.URL, agent.Printable(me.User.Email), agent.Printable(me.Account.Name), p.ExpiresAt.Local().Format("2006-01-02 15:04"))
	return nil
}

// signInProfile returns the profile to sign in to, new or known. A known one keeps
// what vouches for its gateway.
func (a *app) signInProfile(all *agent.Profiles, address string) (agent.Profile, error) {
	name := a.profile
	if name == "" {
		name = os.Getenv("SOCKETXP_PROFILE")
	}
	if address == "" {
		p, err := a.choose(all)
		if err == nil && p.Name == "" {
			err = usage("socketxp signin https://gateway.example.com", "it needs the gateway's address, the first time")
		}
		return p, err
	}
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	gateway, err := socketxp.CheckGatewayURL(address)
	if err != nil {
		return agent.Profile{}, usageError{err}
	}
	if name == "" {
		if p, ok := all.At(gateway); ok {
			return p, nil
		}
		name = agent.ProfileNameFor(gateway)
	}
	if err := agent.CheckProfileName(name); err != nil {
		return agent.Profile{}, usageError{err}
	}
	p, err := all.Find(name)
	if err != nil {
		return agent.Profile{Name: name, Gateway: socketxp.GatewayAddress{URL: gateway}}, nil //nolint:nilerr // it is a new one
	}
	if p.Gateway.URL != gateway {
		return p, usage("name another by --profile, or socketxp profile rm "+name, "the profile %s is of the gateway %s", name, p.Gateway.URL)
	}
	return p, nil
}

// meet returns a client of the profile's gateway, which has been verified: by what
// the flags say, what the profile knows, the system's authorities, or a person. It
// sets what it was verified by.
func (a *app) meet(ctx context.Context, all *agent.Profiles, p *agent.Profile, f signInFlags) (client *api.Client, authorities []byte, err error) {
	url := p.Gateway.URL
	switch _, knownErr := all.Find(p.Name); {
	case f.caFile != "":
		p.Gateway.Pin, p.Gateway.NextPin, p.OwnCA = "", "", true
		client, authorities, err = agent.CAClient(url, f.caFile)
		return client, authorities, err
	case f.pin != "":
		if p.Gateway.Pin, err = agent.ParsePin(f.pin); err != nil {
			return nil, nil, usageError{err}
		}
		p.Gateway.NextPin, p.OwnCA = "", false
	case knownErr != nil:
		if p.Gateway.Pin, err = agent.Contact(ctx, url); err != nil {
			return nil, nil, err
		}
		if p.Gateway.Pin != "" {
			if err := a.askForKey(ctx, url, p.Gateway.Pin); err != nil {
				return nil, nil, err
			}
		}
	}
	anonymous := *p
	anonymous.Token = ""
	client, err = all.Client(anonymous)
	return client, nil, err
}

// askForKey has a person compare the key of a gateway that nothing else vouches for.
func (a *app) askForKey(ctx context.Context, url, pin string) error {
	refuse := socketxp.Errorf(socketxp.CodeInvalid, "no authority that this machine knows vouches for %s, whose key is %s", url, pin)
	in, ok := a.stdin.(*os.File)
	if !ok || !isTerminal(in) {
		return refuse.WithHint("compare that with what the gateway prints at its start, and give --pin or --ca-file")
	}
	_, _ = fmt.Fprintf(a.stderr, "No authority that this machine knows vouches for the gateway %s.\nIts key is\n    %s\nThe gateway prints it when it starts. Is it the same? Type yes, or paste the key: ", url, pin)
	answer, err := a.ask(ctx)
	if err != nil {
		return err
	}
	if own, err := agent.ParsePin(answer); err == nil && own == pin || strings.EqualFold(answer, "yes") {
		return nil
	}
	return refuse.WithHint("nothing was sent to it")
}

// ask reads a line that a person types; ctx ends the wait.
func (a *app) ask(ctx context.Context) (string, error) {
	type line struct {
		text string
		err  error
	}
	read := make(chan line, 1)
	go func() { // ends with the program, if nobody types anything
		text, err := bufio.NewReader(io.LimitReader(a.stdin, 4096)).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		read <- line{strings.TrimSpace(text), err}
	}()
	select {
	case l := <-read:
		return l.text, l.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// confirmed asks a yes-no question. Who can't be asked has said no, and is told of
// the flag that says yes.
func (a *app) confirmed(ctx context.Context, yes bool, format string, args ...any) error {
	if yes {
		return nil
	}
	question := agent.Printable(fmt.Sprintf(format, args...))
	if in, ok := a.stdin.(*os.File); !ok || !isTerminal(in) {
		return usage("add --yes", "this asks first: %s", question)
	}
	_, _ = fmt.Fprintf(a.stderr, "%s [y/N] ", question)
	answer, err := a.ask(ctx)
	if err != nil {
		return err
	}
	if !strings.EqualFold(answer, "y") && !strings.EqualFold(answer, "yes") {
		return errors.New("nothing was done")
	}
	return nil
}

// The bounds of what a gateway may ask a program to do while it waits.
const (
	shortestPoll = time.Second
	longestPoll  = time.Minute
	longestWait  = time.Hour
)

// authorize shows a person the code and waits for the token that they approve.
func (a *app) authorize(ctx context.Context, client *api.Client, gateway string, f signInFlags) (api.DeviceToken, error) {
	host, _ := os.Hostname()
	seconds := int64(time.Duration(f.life) / time.Second)
	asked, err := client.AuthorizeDevice(ctx, api.DeviceAuthorizationRequest{Host: agent.Printable(host), ExpiresIn: &seconds})
	if err != nil {
		return api.DeviceToken{}, agent.APIError(gateway, err)
	}
	code, page := agent.Printable(asked.UserCode), agent.Printable(asked.VerificationURIComplete)
	_, _ = fmt.Fprintf(a.stderr, `Open this page in a browser and approve the code %s:
    %s
or, on a machine where you are signed in:
    socketxp signin approve %s
Waiting …
`, code, page, code)
	if f.browser {
		if err := openBrowser(ctx, gateway, asked.VerificationURIComplete); err != nil {
			a.warn("the browser can't be opened: %v", err)
		}
	}
	limit := min(max(time.Duration(asked.ExpiresIn)*time.Second, 0), longestWait)
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	interval := min(max(time.Duration(asked.Interval)*time.Second, shortestPoll), longestPoll)
	for {
		if !pause(waiting, interval) {
			if ctx.Err() != nil {
				return api.DeviceToken{}, ctx.Err()
			}
			return api.DeviceToken{}, socketxp.Errorf(socketxp.CodeExpiredToken, "nobody has confirmed the sign-in in time").WithHint("socketxp signin begins again")
		}
		token, err := client.PollAuthorization(ctx, asked.DeviceCode)
		var no *socketxp.Error
		switch {
		case err == nil:
			return token, nil
		case errors.As(err, &no) && no.Code == socketxp.CodeAuthorizationPending:
		case errors.As(err, &no) && (no.Code == socketxp.CodeSlowDown || no.Code == socketxp.CodeRateLimited):
			interval = min(interval+5*time.Second, longestPoll) // RFC 8628 section 3.5
		case errors.As(err, &no) && no.Code != socketxp.CodeUnavailable && no.Code != socketxp.CodeInternal:
			return token, agent.APIError(gateway, err)
		default: // not reached this time
			a.problem(agent.APIError(gateway, err), interval)
			interval = min(2*interval, longestPoll)
		}
	}
}

// pause waits for d. It returns false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// openBrowser opens a page of the gateway's; no shell sees its address.
func openBrowser(ctx context.Context, gateway, page string) error {
	page, err := pageOf(gateway, page)
	if err != nil {
		return err
	}
	name, args := "xdg-open", []string{page}
	switch runtime.GOOS {
	case "darwin":
		name = "open"
	case "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", page}
	}
	return exec.CommandContext(ctx, name, args...).Run() //nolint:gosec // G204: a fixed program and an address of the gateway's
}

// pageOf returns the address of a page that the gateway gave, if it is one of the
// gateway's own: it comes from outside, and a browser would open any program for it.
func pageOf(gateway, page string) (string, error) {
	own, err := url.Parse(gateway)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(page)
	if err != nil || u.Scheme != "https" || u.User != nil || u.Host == "" || page != agent.Printable(page) {
		return "", errors.New("the gateway's page has an address that is none")
	}
	if !strings.EqualFold(u.Hostname(), own.Hostname()) {
		return "", errors.New("the gateway's page is on another host")
	}
	return u.String(), nil
}

// shown cuts text of the gateway's down to what is kept and shown.
func shown(s string, longest int) string {
	r := []rune(agent.Printable(s))
	return string(r[:min(len(r), longest)])
}

// decideCommand is `signin approve` or `signin deny`.
func (a *app) decideCommand(name string, approve bool) *cobra.Command {
	var yes bool
	short, what := "Deny the sign-in of another machine", "Deny it?"
	long := "Denies the sign-in that shows this code: the machine gets no access."
	if approve {
		short, what = "Approve the sign-in of another machine, where you can't use a browser", "Have you begun this yourself, just now, and does that machine show this code?"
		long = `Approves the sign-in that shows this code. That machine can then do all that you can do
here, until this machine's own sign-in ends or is signed out. Approve only what you have
begun yourself: who sends you a code wants into your account.`
	}
	cmd := &cobra.Command{
		Use: name + " CODE", Short: short, Long: long, Args: usageArgs(cobra.ExactArgs(1)),
		Example: "  socketxp signin " + name + " BDFH-JLNP",
		RunE: func(cmd *cobra.Command, args []string) error {
			code, err := socketxp.ParseUserCode(args[0])
			if err != nil {
				return usageError{err}
			}
			p, err := a.signedIn()
			if err != nil {
				return err
			}
			defer p.Close()
			asked, err := p.ShowAuthorization(cmd.Context(), code)
			if err != nil {
				return p.failed(err)
			}
			host := agent.Printable(asked.Host)
			_, _ = fmt.Fprintf(a.stderr, "%s asks, from the address %s, to be signed in to %s until %s.\n",
				host, agent.Printable(asked.RemoteAddr), p.gateway, asked.TokenExpiresAt.Local().Format("2006-01-02 15:04"))
			if err := a.confirmed(cmd.Context(), yes, "%s", what); err != nil {
				return err
			}
			if err := p.ConfirmAuthorization(cmd.Context(), code, approve); err != nil {
				return p.failed(err)
			}
			if approve {
				a.say("Approved: %s is being signed in.", host)
			} else {
				a.say("Denied: %s gets no access.", host)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	return cmd
}

func (a *app) signOutCommand() *cobra.Command {
	var everywhere bool
	cmd := &cobra.Command{
		Use:   "signout",
		Short: "Sign out of a gateway: revoke this machine's token",
		Long: `Revokes the token that "socketxp signin" got, and removes it from this machine. Tokens
that were made with it end with it. The profile stays, so that signing in again asks
nothing; "socketxp profile rm" removes it, too.`,
		Example: `  socketxp signout
  socketxp signout --profile plant
  socketxp signout --all`,
		Args: usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if everywhere {
				return a.signOutEverywhere(cmd.Context())
			}
			all, err := agent.ReadProfiles()
			if err != nil {
				return err
			}
			p, err := a.choose(all)
			if err != nil {
				return err
			}
			if p.Token == "" {
				return signInFirst("you are not signed in")
			}
			return a.signOut(cmd.Context(), p)
		},
	}
	cmd.Flags().BoolVar(&everywhere, "all", false, "of all gateways")
	return cmd
}

// signOutEverywhere signs out of all gateways of the user's profiles. One that can't
// be reached keeps none of the others.
func (a *app) signOutEverywhere(ctx context.Context) error {
	all, err := agent.ReadProfiles()
	if err != nil {
		return err
	}
	var names []string
	for _, p := range all.List {
		if p.Token != "" {
			names = append(names, p.Name)
		}
	}
	if len(names) == 0 {
		return signInFirst("you are not signed in")
	}
	return a.each(names, func(name string) error {
		p, err := all.Find(name)
		if err != nil {
			return err
		}
		return a.signOut(ctx, p)
	})
}

// signOut revokes the profile's token and removes it from this machine, also if the
// gateway can't be told.
func (a *app) signOut(ctx context.Context, p agent.Profile) error {
	all, err := agent.ReadProfiles()
	if err != nil {
		return err
	}
	client, err := all.Client(p)
	if err != nil {
		return err
	}
	defer client.Close()
	told := agent.APIError(p.Gateway.URL, client.RevokeToken(ctx, p.TokenID))
	err = agent.ChangeProfiles(ctx, func(all *agent.Profiles) error {
		now, err := all.Find(p.Name)
		if err != nil || now.TokenID != p.TokenID {
			return nil //nolint:nilerr // what is there by now is not what was meant
		}
		now.Token, now.TokenID, now.ExpiresAt, now.Email, now.Account, now.Known = "", "", time.Time{}, "", "", ""
		return all.Put(now, nil)
	})
	if err != nil {
		return err
	}
	a.say("Signed out of %s.", p.Gateway.URL)
	switch socketxp.CodeOf(told) {
	case "", socketxp.CodeTokenExpired, socketxp.CodeTokenRevoked, socketxp.CodeUnauthenticated, socketxp.CodeNotFound: // it is over anyway
	default:
		a.complain("the gateway does not know of it: "+told.Error(), nil)
		a.hint("revoke the token " + p.TokenID + " there; it ends by itself at " + p.ExpiresAt.Local().Format("2006-01-02 15:04"))
	}
	return nil
}

// whoAmI is what `whoami --json` prints.
type whoAmI struct {
	Gateway string `json:"gateway"`
	Profile string `json:"profile,omitempty"`
	api.Me
}

func (a *app) whoAmICommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "whoami", Short: "Show who you are at the gateway, and until when", Args: usageArgs(noArgs),
		Example: `  socketxp whoami
  socketxp whoami --profile plant --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := a.signedIn()
			if err != nil {
				return err
			}
			defer p.Close()
			me, err := p.Me(cmd.Context())
			if err != nil {
				return p.failed(err)
			}
			if asJSON {
				return a.printJSON(whoAmI{p.gateway, p.profile, me})
			}
			with := "the token of SOCKETXP_API_TOKEN"
			if p.profile != "" {
				with = "the profile " + p.profile
			}
			a.say("Gateway  %s, by %s", p.gateway, with)
			a.say("User     %s", agent.Printable(me.User.Email))
			a.say("Account  %s, as %s", agent.Printable(me.Account.Name), agent.Printable(string(me.Role)))
			a.say("Until    %s", me.Credential.ExpiresAt.Local().Format(time.DateTime))
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
