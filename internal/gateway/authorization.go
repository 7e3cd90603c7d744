package gateway

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"socketxp"
	"socketxp/internal/api"
)

// deviceCodeSize is that of the random value in a device code: 256 bits.
const deviceCodeSize = 32

// cliPage is where a person enters a user code.
const cliPage = "/cli"

type authorizeIn struct {
	Body api.DeviceAuthorizationRequest
}

type authorizeOut struct{ Body api.DeviceAuthorization }

// authorizeDevice begins the sign-in of a program that a person is to confirm.
func (g *Gateway) authorizeDevice(ctx context.Context, _ caller, in *authorizeIn) (*authorizeOut, error) {
	c := callOf(ctx)
	if err := g.rest.authorizations.take(network(c.remote)).err(); err != nil {
		return nil, err
	}
	var secret [deviceCodeSize]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return nil, err
	}
	now := g.now()
	a := socketxp.DeviceAuthorization{
		ID: socketxp.NewID(now), DeviceHash: sha256.Sum256(secret[:]), Host: strings.TrimSpace(displayText(in.Body.Host)), RemoteAddr: c.remote.String(),
		CreatedAt: now, ExpiresAt: now.Add(socketxp.AuthorizationLife),
	}
	if a.TokenLife, _ = socketxp.TokenAPI.TokenLife(); in.Body.ExpiresIn != nil {
		a.TokenLife = time.Duration(*in.Body.ExpiresIn) * time.Second
	}
	if a.Host == "" {
		a.Host = "a machine without a name"
	}
	if err := g.keepAuthorization(ctx, &a); err != nil {
		return nil, err
	}
	page := g.Address().URL + cliPage
	return &authorizeOut{api.DeviceAuthorization{
		DeviceCode: base64.RawURLEncoding.EncodeToString(secret[:]), UserCode: a.UserCode,
		// In the fragment, which is sent to nobody and stands in no log.
		VerificationURI: page, VerificationURIComplete: page + "#" + a.UserCode,
		ExpiresIn: int64(socketxp.AuthorizationLife / time.Second), Interval: int64(socketxp.AuthorizationInterval / time.Second),
	}}, nil
}

// keepAuthorization gives it a user code that nobody has.
func (g *Gateway) keepAuthorization(ctx context.Context, a *socketxp.DeviceAuthorization) error {
	const tries = 3 // with 10,000 in use, one in 2.5 million codes is taken
	for try := 1; ; try++ {
		a.UserCode = socketxp.NewUserCode()
		err := g.store.CreateAuthorization(ctx, *a)
		if !errors.Is(err, socketxp.ErrConflict) || try == tries {
			return err
		}
	}
}

type pollIn struct{ Body api.DeviceTokenRequest }

type pollOut struct{ Body api.DeviceToken }

var errExpiredCode = socketxp.Errorf(socketxp.CodeExpiredToken, "the sign-in has run out, or was used").WithHint("begin again")

// pollAuthorization answers with the token, once, if a person has approved.
func (g *Gateway) pollAuthorization(ctx context.Context, _ caller, in *pollIn) (*pollOut, error) {
	secret, err := base64.RawURLEncoding.Strict().DecodeString(in.Body.DeviceCode)
	if err != nil || len(secret) != deviceCodeSize || strings.ContainsAny(in.Body.DeviceCode, "\r\n") {
		return nil, errExpiredCode
	}
	a, err := g.store.AuthorizationByDevice(ctx, sha256.Sum256(secret), g.now())
	if errors.Is(err, socketxp.ErrNotFound) {
		return nil, errExpiredCode
	}
	if err != nil {
		return nil, err
	}
	if !g.rest.polls.take(a.ID).ok {
		return nil, socketxp.Errorf(socketxp.CodeSlowDown, "asked again too soon").WithHint("wait for 5 s more between two polls from now on")
	}
	switch a.State {
	case socketxp.AuthorizationPending:
		return nil, socketxp.Errorf(socketxp.CodeAuthorizationPending, "nobody has confirmed the sign-in yet")
	case socketxp.AuthorizationDenied:
		return nil, socketxp.Errorf(socketxp.CodeAccessDenied, "the sign-in was denied")
	case socketxp.AuthorizationApproved:
		return g.useAuthorization(ctx, a)
	case socketxp.AuthorizationUsed:
	}
	return nil, errExpiredCode
}

// useAuthorization makes the token of an approved authorization: for the person who
// approved, and no more than they, and the token they did it with, may do now.
func (g *Gateway) useAuthorization(ctx context.Context, a socketxp.DeviceAuthorization) (*pollOut, error) {
	who, err := g.approver(ctx, a)
	if err != nil {
		return nil, err
	}
	now := g.now()
	t, err := g.authorizedToken(who, a)
	if err != nil {
		return nil, err
	}
	entry := g.entry(who, "token.create", "token", t.ID, t.Name)
	entry.Actor.RemoteAddr = callOf(ctx).remote.String()
	entry.Detail = fmt.Sprintf("%s, until %s, for the sign-in that was approved from %s", t.Kind, t.ExpiresAt.Format(time.RFC3339), a.Approver.RemoteAddr)
	text, err := g.signAndStore(ctx, &t, func() error { return g.store.UseAuthorization(ctx, a.ID, t, now, entry) })
	if errors.Is(err, socketxp.ErrNotFound) { // another poll was first
		return nil, errExpiredCode
	}
	if err != nil {
		return nil, err
	}
	g.publishEvent(ctx, socketxp.Event{
		AccountID: a.AccountID, Type: socketxp.EventTokenCreated, ObjectID: t.ID, Message: "the token " + t.Name + " was made by a confirmed sign-in",
	})
	return &pollOut{api.DeviceToken{AccessToken: text, TokenType: "Bearer", ExpiresIn: int64(t.ExpiresAt.Sub(now) / time.Second), TokenID: t.ID}}, nil
}

// approver returns who approved, judged as they are now. The sign-in in a browser by
// which it was done may have ended since: its person has said yes.
func (g *Gateway) approver(ctx context.Context, a socketxp.DeviceAuthorization) (caller, error) {
	who := caller{kind: a.Approver.Kind, accountID: a.AccountID, userID: a.Approver.UserID, credentialID: a.Approver.CredentialID}
	if who.kind != socketxp.KindSignIn {
		row, err := g.store.Token(ctx, a.AccountID, who.credentialID)
		if err != nil {
			return who, orMissing(err, "token")
		}
		who.token = row
		who.remote, _ = netip.ParseAddr(a.Approver.RemoteAddr) // if it is none, no network admits it
		return who, g.judgeToken(ctx, &who, socketxp.PurposeAPI)
	}
	member, err := g.store.Membership(ctx, a.AccountID, who.userID)
	if errors.Is(err, socketxp.ErrNotFound) {
		return who, socketxp.Errorf(socketxp.CodeAccessDenied, "who approved the sign-in was removed from the account")
	}
	if err != nil {
		return who, err
	}
	who.role, who.rights = member.Role, member.Role.Rights()
	return who, nil
}

// authorizedToken returns the row of the token for a program whose sign-in who
// approves.
func (g *Gateway) authorizedToken(who caller, a socketxp.DeviceAuthorization) (socketxp.Token, error) {
	now := g.now().Truncate(time.Second)
	t := socketxp.Token{
		ID: socketxp.NewID(now), AccountID: who.accountID, Kind: socketxp.TokenAPI, Name: "CLI on " + a.Host,
		CreatedBy: who.userID, CreatedAt: now, ExpiresAt: now.Add(a.TokenLife), KeyUntil: socketxp.EndOfTime,
		Scope: socketxp.TokenScope{Rights: slices.Clone(who.rights)},
	}
	if name := []rune(t.Name); len(name) > 128 {
		t.Name = string(name[:128])
	}
	if who.kind != socketxp.KindSignIn {
		if !slices.Contains(who.rights, socketxp.RightTokensAdmin) {
			return t, socketxp.Errorf(socketxp.CodeForbidden, "a token that approves sign-ins needs the right %s", socketxp.RightTokensAdmin).WithHint("approve it in the browser")
		}
		t.ParentID = who.credentialID
		if end := who.expiresAt(); t.ExpiresAt.After(end) {
			t.ExpiresAt = end
		}
	}
	return t, narrow(who, &t)
}

// pending returns the authorization of a user code that the caller entered. Wrong
// ones count against the quota of the person and of the address; a right one does
// not, but is taken for wrong until that is known: tries at the same time are no
// more than tries one after the other.
func (g *Gateway) pending(ctx context.Context, who caller, text string) (socketxp.DeviceAuthorization, error) {
	code, err := socketxp.ParseUserCode(text)
	if err != nil {
		return socketxp.DeviceAuthorization{}, err
	}
	for _, v := range []verdict{g.rest.codesByUser.take(who.userID), g.rest.codesByAddress.take(network(who.remote))} {
		if err := v.err(); err != nil {
			return socketxp.DeviceAuthorization{}, err
		}
	}
	a, err := g.store.AuthorizationByCode(ctx, code, g.now())
	if errors.Is(err, socketxp.ErrNotFound) {
		return a, errNoSuchCode
	}
	if err == nil {
		g.rest.codesByUser.giveBack(who.userID)
		g.rest.codesByAddress.giveBack(network(who.remote))
	}
	return a, err
}

var errNoSuchCode = socketxp.Errorf(socketxp.CodeNotFound, "no sign-in waits for this code").
	WithHint("compare it with what the program shows; a code is good for 10 minutes, and once")

type userCodeIn struct{ Body api.UserCodeRequest }

type pendingOut struct{ Body api.PendingAuthorization }

func (g *Gateway) showAuthorization(ctx context.Context, who caller, in *userCodeIn) (*pendingOut, error) {
	a, err := g.pending(ctx, who, in.Body.UserCode)
	if err != nil {
		return nil, err
	}
	t, err := g.authorizedToken(who, a)
	if err != nil {
		return nil, err
	}
	return &pendingOut{api.PendingAuthorization{
		UserCode: a.UserCode, Host: a.Host, RemoteAddr: a.RemoteAddr, CreatedAt: a.CreatedAt, ExpiresAt: a.ExpiresAt, TokenExpiresAt: t.ExpiresAt,
	}}, nil
}

type confirmIn struct{ Body api.ConfirmRequest }

func (g *Gateway) confirmAuthorization(ctx context.Context, who caller, in *confirmIn) (*struct{}, error) {
	a, err := g.pending(ctx, who, in.Body.UserCode)
	if err != nil {
		return nil, err
	}
	action := "authorization.deny"
	a.State, a.AccountID, a.Approver = socketxp.AuthorizationDenied, who.accountID, who.actor()
	if in.Body.Approve {
		if _, err := g.authorizedToken(who, a); err != nil {
			return nil, err
		}
		action, a.State = "authorization.approve", socketxp.AuthorizationApproved
	}
	entry := g.entry(who, action, "authorization", a.ID, a.Host)
	entry.Detail = "asked for from " + a.RemoteAddr
	err = g.store.DecideAuthorization(ctx, a, g.now(), entry)
	if errors.Is(err, socketxp.ErrNotFound) {
		return nil, errNoSuchCode
	}
	return nil, err
}
