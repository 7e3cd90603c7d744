package main

import (
	"context"
	"os"
	"time"

	"socketxp"
	"socketxp/internal/agent"
	"socketxp/internal/api"
)

// person is whoever works with the REST API of a gateway: signed in, or a script with
// a token of its own. Errors of the client go through failed.
type person struct {
	*api.Client
	profile string // "" for a script's token
	gateway string // URL
	caFile  string // of certificates that vouch for the gateway, or ""
}

// notSignedIn says that there is no credential for a gateway.
type notSignedIn struct{ error }

func (e notSignedIn) Unwrap() error { return e.error }

func signInFirst(format string, args ...any) error {
	return notSignedIn{socketxp.Errorf(socketxp.CodeUnauthenticated, format, args...).WithHint("socketxp signin [https://gateway.example.com]")}
}

// choose returns the profile that is meant: the flag's, the environment's, or the
// current one. Without any it returns the zero Profile.
func (a *app) choose(all *agent.Profiles) (agent.Profile, error) {
	for _, name := range []string{a.profile, os.Getenv("SOCKETXP_PROFILE"), all.Current} {
		if name != "" {
			return all.Find(name)
		}
	}
	return agent.Profile{}, nil
}

// signedIn returns the person that this command acts for. Nothing is sent yet. The
// caller closes it.
func (a *app) signedIn() (*person, error) {
	all, err := agent.ReadProfiles()
	if err != nil {
		return nil, err
	}
	p, err := a.choose(all)
	if err != nil {
		return nil, err
	}
	if a.apiToken != "" {
		c, p, err := all.TokenClient(a.apiToken, p)
		if err != nil {
			return nil, err
		}
		return &person{Client: c, gateway: p.Gateway.URL, caFile: all.CAFile(p)}, nil
	}
	switch {
	case p.Name == "" && len(all.List) == 0:
		return nil, signInFirst("you are not signed in to a gateway")
	case p.Name == "":
		return nil, usage("socketxp profile use NAME, or --profile NAME", "no profile is current")
	case p.Token == "":
		return nil, signInFirst("you are not signed in to %s", p.Gateway.URL)
	}
	c, err := all.Client(p)
	if err != nil {
		return nil, err
	}
	return &person{Client: c, profile: p.Name, gateway: p.Gateway.URL, caFile: all.CAFile(p)}, nil
}

// failed returns an error of the client for people: with what to do if the credential
// is the reason.
func (p *person) failed(err error) error {
	switch socketxp.CodeOf(err) {
	case socketxp.CodeTokenExpired, socketxp.CodeTokenRevoked, socketxp.CodeUnauthenticated:
		if p.profile != "" {
			return signInFirst("your sign-in to %s has ended: %v", p.gateway, err)
		}
	}
	return agent.APIError(p.gateway, err)
}

// device returns the device of an id or name. If one device has the other's id as its
// name, the id counts: names are chosen by those who register devices.
func (p *person) device(ctx context.Context, nameOrID string) (api.Device, error) {
	if socketxp.ValidID(nameOrID) {
		d, err := p.Device(ctx, nameOrID)
		if socketxp.CodeOf(err) != socketxp.CodeNotFound {
			return d, p.failed(err)
		}
	}
	missing := socketxp.Errorf(socketxp.CodeNotFound, "there is no device %q", nameOrID).WithHint("socketxp devices ls lists them")
	if socketxp.CheckDeviceName(nameOrID) != nil {
		return api.Device{}, missing
	}
	page, err := p.Devices(ctx, api.DeviceList{Name: nameOrID, Limit: 1})
	if err != nil {
		return api.Device{}, p.failed(err)
	}
	if len(page.Items) == 0 {
		return api.Device{}, missing
	}
	return page.Items[0], nil
}

// access makes a token that reaches one port of one device and nothing else, for so
// long, or for as long as the sign-in lasts if that is less. It ends with the sign-in.
// The name is what lists show it as.
func (p *person) access(ctx context.Context, d api.Device, port int, life time.Duration, name string) (agent.Target, api.Token, error) {
	me, err := p.Me(ctx)
	if err != nil {
		return agent.Target{}, api.Token{}, p.failed(err)
	}
	left := time.Until(me.Credential.ExpiresAt) - 5*time.Second // for the way there, and clocks that differ a little
	seconds := int64(max(min(life, left), time.Second) / time.Second)
	made, err := p.CreateToken(ctx, api.CreateTokenRequest{
		Kind: socketxp.TokenAccess, Name: name, ExpiresIn: &seconds,
		Scope: &api.TokenScope{Devices: []string{d.ID}, Ports: []int{port}},
	})
	if err != nil {
		return agent.Target{}, api.Token{}, p.failed(err)
	}
	p.learn(ctx, made.Text)
	return agent.Target{Token: made.Text, CAFile: p.caFile}, made.Token, nil
}

// learn has the profile follow a change of the gateway's key that a new token tells
// of. That it could not be written matters only later, and then it is said.
func (p *person) learn(ctx context.Context, token string) {
	all, err := agent.ReadProfiles()
	if err != nil {
		return
	}
	if known, err := all.Find(p.profile); err != nil || !known.Learn(token) {
		return
	}
	_ = agent.ChangeProfiles(ctx, func(all *agent.Profiles) error {
		known, err := all.Find(p.profile)
		if err != nil || known.Gateway.URL != p.gateway || !known.Learn(token) {
			return err
		}
		return all.Put(known, nil)
	})
}
