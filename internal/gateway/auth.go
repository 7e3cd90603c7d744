package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"socketxp"
	"socketxp/internal/token"
)

// caller is who is calling, as proved: what it may do is judged from this and
// the object in hand.
type caller struct {
	kind         socketxp.Kind
	accountID    string
	userID       string
	credentialID string // token or sign-in id
	remote       netip.Addr
	role         socketxp.Role
	rights       []socketxp.Right // the token's, cut down to what its maker may do today
	token        socketxp.Token   // of the token kinds
	signIn       socketxp.SignIn  // of KindSignIn
}

// actor returns the caller for an audit entry.
func (c caller) actor() socketxp.Actor {
	return socketxp.Actor{Kind: c.kind, UserID: c.userID, CredentialID: c.credentialID, RemoteAddr: c.remote.String()}
}

// expiresAt is when the caller's credential ends by itself.
func (c caller) expiresAt() time.Time {
	if c.kind == socketxp.KindSignIn {
		return c.signIn.ExpiresAt
	}
	return c.token.ExpiresAt
}

// errNotValid is all that a client learns about a credential that is none.
var errNotValid = socketxp.Errorf(socketxp.CodeUnauthenticated, "the token is not valid")

// authenticateToken returns the caller that a token's text stands for, if the
// token is genuine, live in the database, of a kind that is good for p, its scope
// admits remote, the account admits its kind, and its maker may still act in the
// account. Else the error says what a client may know, and the refusal has been
// audited.
func (g *Gateway) authenticateToken(ctx context.Context, text string, p socketxp.Purpose, remote netip.Addr) (caller, error) {
	who, err := g.findToken(ctx, text, remote)
	if err == nil {
		err = g.judgeToken(ctx, &who, p)
	}
	if err != nil {
		g.auditRefusal(ctx, socketxp.AuditEntry{
			AccountID: who.accountID, Actor: who.actor(), Action: "token.use",
			ObjectKind: "token", ObjectID: who.credentialID, ObjectName: who.token.Name, Detail: "for " + string(p),
		}, err)
		return caller{}, err
	}
	g.touchToken(ctx, who.token)
	return who, nil
}

// findToken returns the caller that a genuine token names, and its row. With an
// error it returns what is known for the audit.
func (g *Gateway) findToken(ctx context.Context, text string, remote netip.Addr) (caller, error) {
	who := caller{remote: remote}
	claims, err := g.tokens.Verify(text, g.now())
	if err != nil && claims.ID == "" {
		return who, err
	}
	ctx, cancel := g.asked(ctx)
	defer cancel()
	row, rowErr := g.store.Token(ctx, claims.AccountID, claims.ID)
	switch {
	case errors.Is(rowErr, socketxp.ErrNotFound):
		return who, errNotValid // the account may be gone too: it is audited as nobody's
	case rowErr != nil:
		g.stats.storeError()
		return who, unavailable(rowErr)
	case !sameToken(claims, row):
		return who, errNotValid
	}
	who.kind, who.accountID, who.userID, who.credentialID, who.token = socketxp.Kind(row.Kind), row.AccountID, row.CreatedBy, row.ID, row
	return who, err
}

// sameToken reports whether a row is of the token that the claims speak of.
func sameToken(c token.Claims, t socketxp.Token) bool {
	return c.ID == t.ID && c.Kind == t.Kind && c.AccountID == t.AccountID && c.UserID == t.CreatedBy &&
		c.KeyID == t.KeyID && c.IssuedAt.Equal(t.CreatedAt) && c.ExpiresAt.Equal(t.ExpiresAt)
}

// judgeToken judges who.token as it is today, and sets what it may do.
func (g *Gateway) judgeToken(ctx context.Context, who *caller, p socketxp.Purpose) error {
	t := who.token
	if err := t.Usable(g.now()); err != nil {
		return err
	}
	ctx, cancel := g.asked(ctx)
	defer cancel()
	member, err := g.store.Membership(ctx, t.AccountID, t.CreatedBy)
	switch {
	case errors.Is(err, socketxp.ErrNotFound):
		return socketxp.Errorf(socketxp.CodeTokenRevoked, "the token's maker was removed from the account")
	case err != nil:
		g.stats.storeError()
		return unavailable(err)
	}
	if !socketxp.MayUse(who.kind, p) {
		return wrongPurpose(who.kind, p)
	}
	if t.Kind == socketxp.TokenBasic {
		switch account, err := g.store.Account(ctx, t.AccountID); {
		case err != nil:
			g.stats.storeError()
			return unavailable(err)
		case !account.BasicTokens:
			return socketxp.Errorf(socketxp.CodeForbidden, "the account does not admit basic tokens").WithHint("make a token for the one purpose")
		}
	}
	if !t.Scope.AllowsFrom(who.remote) {
		return socketxp.Errorf(socketxp.CodeForbidden, "the token is not for this network")
	}
	who.role = member.Role
	who.rights = intersect(t.Scope.Rights, member.Role.Rights())
	return nil
}

// purposes says what a purpose is, and which kind of token is made for it.
var purposes = map[socketxp.Purpose]struct{ what, use string }{
	socketxp.PurposeAPI:      {"use the REST API", "use an api token"},
	socketxp.PurposePortal:   {"do this", "sign in"},
	socketxp.PurposeRegister: {"register a device", "use a registration token"},
	socketxp.PurposeVisit:    {"reach a device", "use an access token"},
}

func wrongPurpose(k socketxp.Kind, p socketxp.Purpose) error {
	what := "a sign-in"
	switch k { //nolint:exhaustive // the default says the others
	case socketxp.KindSignIn:
	case socketxp.KindAPI, socketxp.KindAccess:
		what = "an " + string(k) + " token"
	default:
		what = "a " + string(k) + " token"
	}
	return socketxp.Errorf(socketxp.CodeWrongPurpose, "%s can't %s", what, purposes[p].what).WithHint(purposes[p].use)
}

func intersect(a, b []socketxp.Right) []socketxp.Right {
	var out []socketxp.Right
	for _, r := range a {
		if slices.Contains(b, r) && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// touchEvery is how exact the time of last use is kept: a write for every request
// would cost more than most requests.
const touchEvery = time.Minute

func (g *Gateway) touchToken(ctx context.Context, t socketxp.Token) {
	now := g.now()
	if now.Sub(t.LastUsedAt) < touchEvery {
		return
	}
	ctx, cancel := g.asked(ctx)
	defer cancel()
	if err := g.store.TouchToken(ctx, t.AccountID, t.ID, now); err != nil && !errors.Is(err, socketxp.ErrNotFound) {
		g.stats.storeError()
		g.log.Warn("the use of a token was not stored", "token", t.ID, "error", err)
	}
}

// cookieName has the prefix by which a browser takes the cookie only over TLS, for
// this host alone and all its paths (RFC 6265bis section 4.1.3.2).
const cookieName = "__Host-socketxp"

// cookieSecretSize is that of the random value in a cookie.
const cookieSecretSize = 32

// parseCookie returns the hash under which a cookie's value is kept.
func parseCookie(value string) (hash [32]byte, ok bool) {
	secret, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil || len(secret) != cookieSecretSize || strings.ContainsAny(value, "\r\n") {
		return hash, false
	}
	return sha256.Sum256(secret), true
}

var errSignInEnded = socketxp.Errorf(socketxp.CodeUnauthenticated, "you are not signed in").WithHint("sign in")

// authenticateSignIn returns the caller that a cookie's value stands for, as
// authenticateToken does.
func (g *Gateway) authenticateSignIn(ctx context.Context, value string, p socketxp.Purpose, remote netip.Addr) (caller, error) {
	who := caller{remote: remote}
	hash, ok := parseCookie(value)
	if !ok {
		return who, errSignInEnded
	}
	if err := g.judgeSignIn(ctx, &who, hash, p); err != nil {
		g.auditRefusal(ctx, socketxp.AuditEntry{
			AccountID: who.accountID, Actor: who.actor(), Action: "signin.use", ObjectKind: "signin", ObjectID: who.credentialID, Detail: "for " + string(p),
		}, err)
		return caller{}, err
	}
	g.touchSignIn(ctx, who.signIn)
	return who, nil
}

// touchSignIn records that a sign-in was used that is known to be good.
func (g *Gateway) touchSignIn(ctx context.Context, s socketxp.SignIn) {
	now := g.now()
	if now.Sub(s.LastSeenAt) < touchEvery {
		return
	}
	ctx, cancel := g.asked(ctx)
	defer cancel()
	if err := g.store.TouchSignIn(ctx, s.ID, now, false); err != nil && !errors.Is(err, socketxp.ErrNotFound) {
		g.stats.storeError()
		g.log.Warn("the use of a sign-in was not stored", "signin", s.ID, "error", err)
	}
}

// judgeSignIn judges the sign-in whose secret has this hash as it is today, and
// sets who it is and what it may do.
func (g *Gateway) judgeSignIn(ctx context.Context, who *caller, hash [32]byte, p socketxp.Purpose) error {
	ctx, cancel := g.asked(ctx)
	defer cancel()
	s, err := g.store.SignInBySecret(ctx, hash, g.now())
	switch {
	case errors.Is(err, socketxp.ErrNotFound):
		return errSignInEnded
	case err != nil:
		g.stats.storeError()
		return unavailable(err)
	}
	who.kind, who.accountID, who.userID, who.credentialID, who.signIn = socketxp.KindSignIn, s.AccountID, s.UserID, s.ID, s
	member, err := g.store.Membership(ctx, s.AccountID, s.UserID)
	switch {
	case errors.Is(err, socketxp.ErrNotFound):
		return errSignInEnded
	case err != nil:
		g.stats.storeError()
		return unavailable(err)
	}
	if !socketxp.MayUse(socketxp.KindSignIn, p) {
		return wrongPurpose(socketxp.KindSignIn, p)
	}
	who.role, who.rights = member.Role, member.Role.Rights()
	return nil
}

// judgeAgain judges a caller that was let in before, by what the database says now.
func (g *Gateway) judgeAgain(ctx context.Context, who caller, p policy) error {
	var err error
	if who.kind == socketxp.KindSignIn {
		err = g.judgeSignIn(ctx, &who, who.signIn.SecretHash, p.purpose)
	} else {
		asked, cancel := g.asked(ctx)
		defer cancel()
		who.token, err = g.store.Token(asked, who.accountID, who.credentialID)
		if err == nil {
			err = g.judgeToken(ctx, &who, p.purpose)
		}
	}
	if err != nil {
		return err
	}
	return p.judge(who, g.now())
}

// auditRefusal records that something was refused, with err's code as the reason.
// It never fails the caller; a flood of refusals of one account is sampled, and
// what was left out is counted in the next record. What could not be judged for
// want of a database is no refusal.
func (g *Gateway) auditRefusal(ctx context.Context, entry socketxp.AuditEntry, err error) {
	if !refuses(err) {
		return
	}
	left, ok := g.rest.refusals.take(entry.AccountID)
	if !ok {
		return
	}
	entry.At, entry.Reason = g.now(), socketxp.CodeOf(err)
	if left > 0 {
		entry.Detail = strings.TrimPrefix(entry.Detail+fmt.Sprintf("; %d refusals before this one were not recorded", left), "; ")
	}
	ctx, cancel := g.asked(ctx)
	defer cancel()
	if _, err := g.store.AppendAudit(ctx, entry); err != nil {
		g.rest.refusals.leaveOut(entry.AccountID, left+1)
		g.stats.storeError()
		g.log.Error("a refusal was not audited", "account", entry.AccountID, "action", entry.Action, "error", err)
	}
}

// refusals samples the refusals of each account, so that nobody can push what
// matters out of sight, or fill the disk. It holds a record for each account that
// exists and one for nobody's.
type refusals struct {
	quota quota

	mu       sync.Mutex // guards the following
	accounts map[string]*sampled
}

type sampled struct {
	limiter *rate.Limiter
	left    int // refusals that were not recorded since the last one that was
}

func newRefusals(q quota) *refusals {
	return &refusals{quota: q, accounts: make(map[string]*sampled)}
}

// take reports whether a refusal is to be recorded, and how many were not before.
func (r *refusals) take(accountID string) (left int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.accounts[accountID]
	if s == nil {
		s = &sampled{limiter: rate.NewLimiter(r.quota.perSecond, r.quota.burst)}
		r.accounts[accountID] = s
	}
	if !s.limiter.Allow() {
		s.left++
		return 0, false
	}
	left, s.left = s.left, 0
	return left, true
}

func (r *refusals) leaveOut(accountID string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.accounts[accountID]; s != nil {
		s.left += n
	}
}
