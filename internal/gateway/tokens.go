package gateway

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"socketxp"
	"socketxp/internal/api"
	"socketxp/internal/token"
)

type tokensIn struct {
	Kind   socketxp.TokenKind `query:"kind" enum:"basic,api,registration,access"`
	Live   bool               `query:"live" doc:"only those that can be used now"`
	Cursor string             `query:"cursor" maxLength:"2048"`
	Limit  int                `query:"limit" default:"50" minimum:"1" maximum:"200"`
}

type tokensOut struct{ Body api.Page[api.Token] }

func (g *Gateway) listTokens(ctx context.Context, who caller, in *tokensIn) (*tokensOut, error) {
	after, err := decodeIDCursor(in.Cursor, "tokens")
	if err != nil {
		return nil, err
	}
	now := g.now()
	// One more than the page, to know whether there is another.
	q := socketxp.TokenQuery{Kind: in.Kind, After: after, Limit: in.Limit + 1}
	if in.Live {
		q.Live = now
	}
	found, err := g.store.Tokens(ctx, who.accountID, q)
	if err != nil {
		return nil, err
	}
	found, next := cut(found, in.Limit, func(t socketxp.Token) string { return encodeCursor("tokens", t.ID) })
	items := mapped(found, func(t socketxp.Token) api.Token { return api.NewToken(t, now) })
	return &tokensOut{api.Page[api.Token]{Items: items, NextCursor: next}}, nil
}

type idIn struct {
	ID string `path:"id" maxLength:"100"`
}

type tokenOut struct{ Body api.Token }

func (g *Gateway) showToken(ctx context.Context, who caller, in *idIn) (*tokenOut, error) {
	t, err := g.findRow(ctx, who, "token", in.ID)
	if err != nil {
		return nil, err
	}
	return &tokenOut{api.NewToken(t, g.now())}, nil
}

// findRow returns the row of a token in the caller's account.
func (g *Gateway) findRow(ctx context.Context, who caller, what, id string) (socketxp.Token, error) {
	if !socketxp.ValidID(id) {
		return socketxp.Token{}, missing(what)
	}
	t, err := g.store.Token(ctx, who.accountID, id)
	return t, orMissing(err, what)
}

// missing is the answer for what is not in the caller's account, whether or not it
// is in another one.
func missing(what string) error {
	return socketxp.Errorf(socketxp.CodeNotFound, "there is no such %s", what)
}

func orMissing(err error, what string) error {
	if socketxp.CodeOf(err) == socketxp.CodeNotFound {
		return missing(what)
	}
	return err
}

type createTokenIn struct{ Body api.CreateTokenRequest }

type createdTokenOut struct{ Body api.CreatedToken }

func (g *Gateway) createToken(ctx context.Context, who caller, in *createTokenIn) (*createdTokenOut, error) {
	account, err := g.store.Account(ctx, who.accountID)
	if err != nil {
		return nil, err
	}
	t, err := g.newToken(who, account, in.Body)
	if err != nil {
		return nil, err
	}
	if err := g.checkDevices(ctx, who, t.Scope.Devices); err != nil {
		return nil, err
	}
	entry := g.entry(who, "token.create", "token", t.ID, t.Name)
	entry.Detail = fmt.Sprintf("%s, until %s", t.Kind, t.ExpiresAt.Format(time.RFC3339))
	text, err := g.signAndStore(ctx, &t, func() error { return g.store.CreateToken(ctx, t, entry) })
	if err != nil {
		return nil, err
	}
	g.publishEvent(ctx, socketxp.Event{
		AccountID: who.accountID, Type: socketxp.EventTokenCreated, ObjectID: t.ID, Message: "the " + string(t.Kind) + " token " + t.Name + " was made",
	})
	return &createdTokenOut{api.CreatedToken{Token: api.NewToken(t, g.now()), Text: text}}, nil
}

// signAndStore makes a token of its row, which store keeps; once more if the signing
// key was replaced in the middle.
func (g *Gateway) signAndStore(ctx context.Context, t *socketxp.Token, store func() error) (string, error) {
	for try := 1; ; try++ {
		t.KeyID = g.tokens.SigningKeyID()
		text, err := g.sign(*t)
		if err == nil {
			err = store()
		}
		if err == nil {
			return text, nil
		}
		if refuses(err) {
			return "", err
		}
		if row, rerr := g.store.Token(ctx, t.AccountID, t.ID); rerr == nil && text != "" && row.KeyID == t.KeyID && row.Usable(g.now()) == nil {
			return text, nil
		}
		if try > 1 || !g.rotatedSince(ctx, t.KeyID) {
			return "", err
		}
	}
}

// checkDevices refuses a list of devices unless all of them are the account's.
func (g *Gateway) checkDevices(ctx context.Context, who caller, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	_, found, err := g.store.Devices(ctx, who.accountID, socketxp.DeviceQuery{IDs: ids, Limit: 1})
	if err == nil && found.Devices != len(ids) {
		return socketxp.Errorf(socketxp.CodeNotFound, "a device of the scope does not exist")
	}
	return err
}

func (g *Gateway) sign(t socketxp.Token) (string, error) {
	return g.tokens.Sign(token.Claims{
		ID: t.ID, Kind: t.Kind, AccountID: t.AccountID, UserID: t.CreatedBy, IssuedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt,
		Gateway: g.Address(), KeyID: t.KeyID,
	})
}

// entry begins the audit entry of an act by the caller.
func (g *Gateway) entry(who caller, action, kind, id, name string) socketxp.AuditEntry {
	return socketxp.AuditEntry{
		AccountID: who.accountID, At: g.now(), Actor: who.actor(), Action: action, ObjectKind: kind, ObjectID: id, ObjectName: name,
	}
}

// newToken returns the row of the token that is asked for, if the caller may make
// it: it never lasts longer or may do more than the credential it is made with.
func (g *Gateway) newToken(who caller, account socketxp.Account, req api.CreateTokenRequest) (socketxp.Token, error) {
	now := g.now().Truncate(time.Second)
	t := socketxp.Token{
		ID: socketxp.NewID(now), AccountID: who.accountID, Kind: req.Kind, Name: strings.TrimSpace(req.Name),
		CreatedBy: who.userID, CreatedAt: now, KeyUntil: socketxp.EndOfTime, // its key, signAndStore sees to, is active
	}
	if who.kind != socketxp.KindSignIn {
		t.ParentID = who.credentialID
	}
	if err := socketxp.CheckDisplayText("name", t.Name, 128); err != nil {
		return t, err
	}
	if t.Name == "" {
		return t, socketxp.Errorf(socketxp.CodeInvalid, "the token has no name")
	}
	strong := t.Kind == socketxp.TokenBasic || t.Kind == socketxp.TokenAPI
	if strong && !slices.Contains(who.rights, socketxp.RightTokensAdmin) {
		return t, socketxp.Errorf(socketxp.CodeForbidden, "making basic and api tokens needs the right %s", socketxp.RightTokensAdmin).WithHint("sign in to make one")
	}
	if t.Kind == socketxp.TokenBasic && !account.BasicTokens {
		return t, socketxp.Errorf(socketxp.CodeForbidden, "the account does not admit basic tokens").WithHint("make a token for the one purpose")
	}
	var err error
	if t.ExpiresAt, err = expiry(who, account, t, req.ExpiresIn); err != nil {
		return t, err
	}
	if t.MaxUses, err = maxUses(t.Kind, req.MaxUses); err != nil {
		return t, err
	}
	if req.Scope != nil {
		t.Scope = socketxp.TokenScope(*req.Scope)
	}
	if err := checkScope(t); err != nil {
		return t, err
	}
	return t, narrow(who, &t)
}

// expiry returns when a token ends. The error names the cap.
func expiry(who caller, account socketxp.Account, t socketxp.Token, expiresIn *int64) (time.Time, error) {
	normal, longest := t.Kind.TokenLife()
	if t.Kind == socketxp.TokenBasic {
		longest = min(account.BasicLife, 365*24*time.Hour)
	}
	left := longest
	if t.ParentID != "" {
		left = who.expiresAt().Sub(t.CreatedAt)
	}
	if expiresIn == nil {
		return t.CreatedAt.Add(min(normal, longest, left)), nil
	}
	switch n := *expiresIn; {
	case n < 1:
		return time.Time{}, socketxp.Errorf(socketxp.CodeInvalid, "a token lives for a second at least").WithHint(lifeHint(longest))
	case n > int64(longest/time.Second):
		return time.Time{}, socketxp.Errorf(socketxp.CodeInvalid, "%s token can't live for longer than %s", article(t.Kind), life(longest)).WithHint(lifeHint(longest))
	case n > int64(left/time.Second):
		return time.Time{}, socketxp.Errorf(socketxp.CodeInvalid, "a token can't outlive the one it is made with, which has %s left", life(left)).WithHint(lifeHint(left))
	default:
		return t.CreatedAt.Add(time.Duration(n) * time.Second), nil
	}
}

func article(k socketxp.TokenKind) string {
	if k == socketxp.TokenAPI || k == socketxp.TokenAccess {
		return "an " + string(k)
	}
	return "a " + string(k)
}

func lifeHint(d time.Duration) string {
	return fmt.Sprintf("expires_in is from 1 to %d", int64(d/time.Second))
}

func life(d time.Duration) string {
	if day := 24 * time.Hour; d >= day && d%day == 0 {
		return fmt.Sprintf("%d days", d/day)
	}
	return d.Truncate(time.Second).String()
}

// maxDevicesOfToken is as many as an account has at most by default.
const maxDevicesOfToken = socketxp.DefaultDeviceQuota

func maxUses(k socketxp.TokenKind, asked *int) (int, error) {
	switch {
	case k != socketxp.TokenRegistration && asked != nil:
		return 0, socketxp.Errorf(socketxp.CodeInvalid, "only registration tokens have max_uses")
	case k != socketxp.TokenRegistration:
		return 0, nil
	case asked == nil:
		return 1, nil
	case *asked < 1 || *asked > maxDevicesOfToken:
		return 0, socketxp.Errorf(socketxp.CodeInvalid, "max_uses is not from 1 to %d", maxDevicesOfToken)
	}
	return *asked, nil
}

// checkScope refuses what a kind can't be narrowed by: it would look as if it
// were.
func checkScope(t socketxp.Token) error {
	s := t.Scope
	narrows := map[socketxp.TokenKind][]string{
		socketxp.TokenBasic:        {"rights", "networks", "devices", "groups", "ports"},
		socketxp.TokenAPI:          {"rights", "networks"},
		socketxp.TokenRegistration: {"group", "name_pattern", "networks"},
		socketxp.TokenAccess:       {"networks", "devices", "groups", "ports"},
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"rights", s.Rights != nil},
		{"group", s.Group != ""},
		{"name_pattern", s.NamePattern != ""},
		{"networks", s.Networks != nil},
		{"devices", s.Devices != nil},
		{"groups", s.Groups != nil},
		{"ports", s.Ports != nil},
	} {
		if f.set && !slices.Contains(narrows[t.Kind], f.name) {
			return socketxp.Errorf(socketxp.CodeInvalid, "%s token can't be narrowed by %s", article(t.Kind), f.name).
				WithHint("it can by " + strings.Join(narrows[t.Kind], ", "))
		}
	}
	for _, r := range s.Rights {
		if !slices.Contains(socketxp.Rights, r) {
			return socketxp.Errorf(socketxp.CodeInvalid, "there is no right %q", clipText(string(r))).WithHint("rights are " + joinRights(socketxp.Rights))
		}
	}
	for _, n := range s.Networks {
		if p, err := netip.ParsePrefix(n); err != nil || p != p.Masked() || p.Addr().Is4In6() {
			return socketxp.Errorf(socketxp.CodeInvalid, "%q is not a network", clipText(n)).WithHint("it looks like 192.0.2.0/24 or 2001:db8::/32")
		}
	}
	for _, id := range s.Devices {
		if !socketxp.ValidID(id) {
			return socketxp.Errorf(socketxp.CodeInvalid, "%q is not the id of a device", clipText(id))
		}
	}
	for _, p := range s.Ports {
		if p < 1 || p > 65535 {
			return socketxp.Errorf(socketxp.CodeInvalid, "a port is not from 1 to 65535")
		}
	}
	groups := s.Groups
	if s.Group != "" {
		groups = append(slices.Clone(groups), s.Group)
	}
	for _, name := range groups {
		if err := socketxp.CheckGroup(name); err != nil {
			return err
		}
	}
	if _, err := path.Match(s.NamePattern, ""); err != nil {
		return socketxp.Errorf(socketxp.CodeInvalid, "the name pattern is not valid").WithHint("for example meter-* or pump-[0-9]")
	}
	return nil
}

func joinRights(rights []socketxp.Right) string {
	return strings.Join(mapped(rights, func(r socketxp.Right) string { return string(r) }), ", ")
}

// narrow sets the rights of a token that asked for none, and holds it to what the
// caller's own credential may do.
func narrow(who caller, t *socketxp.Token) error {
	reaches := len(t.Scope.Devices)+len(t.Scope.Groups)+len(t.Scope.Ports) > 0
	switch {
	case t.Kind == socketxp.TokenBasic && reaches && len(t.Scope.Rights) > 0:
		// The API knows no such limits: its rights would lead around them.
		return socketxp.Errorf(socketxp.CodeInvalid, "a token narrowed by devices, groups or ports can't have rights to the API").
			WithHint("leave rights out, or make an api token for them")
	case t.Scope.Rights == nil && !reaches:
		t.Scope.Rights = intersect(t.Kind.DefaultRights(), who.rights)
	}
	for _, r := range t.Scope.Rights {
		if !slices.Contains(who.rights, r) {
			return socketxp.Errorf(socketxp.CodeForbidden, "you can't give the right %s, which you don't have", r)
		}
	}
	own := who.token.Scope.Networks
	if len(own) == 0 {
		return nil
	}
	if len(t.Scope.Networks) == 0 {
		t.Scope.Networks = own
		return nil
	}
	for _, n := range t.Scope.Networks {
		if !slices.ContainsFunc(own, func(o string) bool { return contains(o, n) }) {
			return socketxp.Errorf(socketxp.CodeForbidden, "the network %s is not within those of your own token", n).WithHint("those are " + strings.Join(own, ", "))
		}
	}
	return nil
}

// contains reports whether network outer holds all of inner.
func contains(outer, inner string) bool {
	o, errOuter := netip.ParsePrefix(outer)
	i, errInner := netip.ParsePrefix(inner)
	return errOuter == nil && errInner == nil && o.Bits() <= i.Bits() && o.Contains(i.Addr())
}

func (g *Gateway) revokeToken(ctx context.Context, who caller, in *idIn) (*struct{}, error) {
	t, err := g.findRow(ctx, who, "token", in.ID)
	if err != nil {
		return nil, err
	}
	revoked, err := g.store.RevokeToken(ctx, who.accountID, t.ID, g.now(), g.entry(who, "token.revoke", "token", t.ID, t.Name))
	if err != nil {
		return nil, orMissing(err, "token")
	}
	for _, id := range revoked {
		g.cluster.Publish(socketxp.Hint{Kind: socketxp.HintTokenRevoked, AccountID: who.accountID, ID: id})
	}
	for _, id := range revoked {
		message := "the " + string(t.Kind) + " token " + t.Name + " was revoked"
		if id != t.ID {
			message = "a token was revoked with " + t.Name + ", which made it"
		}
		g.publishEvent(ctx, socketxp.Event{AccountID: who.accountID, Type: socketxp.EventTokenRevoked, ObjectID: id, Message: message})
	}
	return nil, nil
}

// confirmToken makes a token from before a restore good again. What it may do is
// judged at each use, as ever. One that would not be good then either, or that is good
// already, is a conflict: nobody is to think that a confirmation changed anything.
func (g *Gateway) confirmToken(ctx context.Context, who caller, in *idIn) (*tokenOut, error) {
	t, err := g.findRow(ctx, who, "token", in.ID)
	if err != nil {
		return nil, err
	}
	if who.role != socketxp.RoleOwner {
		return nil, socketxp.Errorf(socketxp.CodeForbidden, "only an owner can confirm a token")
	}
	switch state := api.NewToken(t, g.now()).State; state { //nolint:exhaustive // the default says the others
	case api.TokenUnconfirmed:
	case api.TokenLive:
		return nil, socketxp.Errorf(socketxp.CodeConflict, "the token is live: there is nothing to confirm")
	default:
		return nil, socketxp.Errorf(socketxp.CodeConflict, "the token is %s: a confirmation would not make it good", strings.ReplaceAll(string(state), "_", " ")).WithHint("make a new one")
	}
	if err := g.store.ConfirmToken(ctx, who.accountID, t.ID, g.entry(who, "token.confirm", "token", t.ID, t.Name)); err != nil {
		return nil, orMissing(err, "token")
	}
	return g.showToken(ctx, who, in)
}

// revealToken signs a token's claims again: the gateway keeps no token text, and
// the same claims give the same one.
func (g *Gateway) revealToken(ctx context.Context, who caller, in *idIn) (*createdTokenOut, error) {
	if !g.cfg.RevealTokens {
		return nil, socketxp.Errorf(socketxp.CodeForbidden, "this gateway does not show tokens again").WithHint("make a new one")
	}
	t, err := g.findRow(ctx, who, "token", in.ID)
	if err != nil {
		return nil, err
	}
	if t.CreatedBy != who.userID && who.role != socketxp.RoleOwner {
		return nil, socketxp.Errorf(socketxp.CodeForbidden, "only its maker or an owner can see a token again")
	}
	now := g.now()
	if err := t.Usable(now); err != nil {
		return nil, &socketxp.Error{Code: socketxp.CodeConflict, Message: clientError(err).Message, Hint: "make a new one"}
	}
	text, err := g.sign(t)
	if err != nil {
		return nil, &socketxp.Error{Code: socketxp.CodeConflict, Message: "the token was signed with a key that is no longer in use", Hint: "make a new one", Err: err}
	}
	// Before it is shown: a reveal that could not be recorded does not happen.
	if _, err := g.store.AppendAudit(ctx, g.entry(who, "token.reveal", "token", t.ID, t.Name)); err != nil {
		return nil, err
	}
	return &createdTokenOut{api.CreatedToken{Token: api.NewToken(t, now), Text: text}}, nil
}
