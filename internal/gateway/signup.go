package gateway

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"socketxp"
	"socketxp/internal/api"
)

type signUpIn struct{ Body api.SignUpRequest }

// signUp makes an account with its owner for somebody who has none. It is always a
// new one: nothing about an email address, which nobody has verified, lets its holder
// into an account that is there.
//
// An address that has an account is answered as one that has none, after the same
// time, and nothing is changed; so the answer tells nobody who has an account here.
// Nobody is signed in by it for that reason. Whoever wants to know must sign in, which
// for a taken address is a wrong password: counted, slowed down, and in the audit of
// whoever has the address.
func (g *Gateway) signUp(ctx context.Context, _ caller, in *signUpIn) (*struct{}, error) {
	c := callOf(ctx)
	if !g.cfg.SignUp {
		return nil, errNoSignUp
	}
	for _, quota := range []*rates[netip.Prefix]{g.rest.signIns, g.rest.signUps} {
		if err := quota.take(network(c.remote)).err(); err != nil {
			return nil, err
		}
	}
	needed, err := g.setUpNeeded(ctx)
	if err != nil {
		return nil, err
	}
	if needed { // the first owner is who has the link
		return nil, socketxp.Errorf(socketxp.CodeConflict, "the gateway is not set up yet").WithHint("open the link that it printed at its start")
	}
	start := time.Now()
	account, user, err := g.newOwner(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	actor := socketxp.Actor{Kind: socketxp.KindNone, RemoteAddr: c.remote.String()}
	entry := socketxp.AuditEntry{
		AccountID: account.ID, At: account.CreatedAt, Actor: actor, Action: "account.create",
		ObjectKind: "account", ObjectID: account.ID, ObjectName: account.Name, Detail: "sign-up",
	}
	entry.Actor.UserID = user.ID
	err = g.store.CreateAccount(ctx, account, user, false, entry)
	switch {
	case errors.Is(err, socketxp.ErrConflict):
		g.auditTakenAddress(ctx, user.Email, actor, err)
	case err != nil:
		return nil, err
	default:
		g.log.Info("somebody signed up", "account", account.ID, "user", user.ID)
	}
	hold(ctx, start, g.rest.limits.refuseAfter)
	return nil, nil
}

var errNoSignUp = socketxp.Errorf(socketxp.CodeForbidden, "nobody can sign up at this gateway").WithHint("ask its owner for an account")

// auditTakenAddress records where its user can see it that somebody tried to sign up
// with an address that is theirs.
func (g *Gateway) auditTakenAddress(ctx context.Context, email string, actor socketxp.Actor, why error) {
	user, err := g.store.UserByEmail(ctx, email)
	if err != nil {
		return
	}
	entry := socketxp.AuditEntry{
		Actor: actor, Action: "account.create", ObjectKind: "user", ObjectID: user.ID, ObjectName: user.Email, Detail: "sign-up",
	}
	if members, err := g.store.MembershipsOf(ctx, user.ID); err == nil && len(members) > 0 {
		entry.AccountID = members[0].AccountID
	}
	g.auditRefusal(ctx, entry, why)
}
