package gateway

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"sync"
	"time"

	"socketxp"
	"socketxp/internal/api"
)

// Who tries passwords is held up after freeTries wrong ones in a row: for a second,
// then twice as long each time, up to longestHold. After maxTries nobody gets in
// any more until an administrator sets a new password (NIST SP 800-63B-4 section
// 3.2.2).
const (
	freeTries   = 5
	longestHold = 15 * time.Minute
	maxTries    = 100
)

// holdAfter is how long the next try has to wait after so many wrong ones.
func holdAfter(failures int) time.Duration {
	if failures < freeTries {
		return 0
	}
	if n := failures - freeTries; n < 10 {
		return min(time.Second<<n, longestHold)
	}
	return longestHold
}

// The one answer to a wrong password, an unknown address, and a user who may not
// sign in.
var errWrongPassword = socketxp.Errorf(socketxp.CodeUnauthenticated, "the email address or the password is wrong")

type signInIn struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      api.SignInRequest
}

type meOut struct {
	SetCookie string `header:"Set-Cookie" doc:"the cookie of the sign-in"`
	Body      api.Me
}

// signIn signs a person in. What the answer says, and when it comes, is the same
// whether the address is known or not.
func (g *Gateway) signIn(ctx context.Context, _ caller, in *signInIn) (*meOut, error) {
	c := callOf(ctx)
	if err := g.rest.signIns.take(network(c.remote)).err(); err != nil {
		return nil, err
	}
	start := time.Now()
	user, err := g.checkSignIn(ctx, in.Body.Email, in.Body.Password)
	if err != nil {
		g.auditWrongPassword(ctx, user, c, err)
		hold(ctx, start, g.rest.limits.refuseAfter)
		return nil, err
	}
	members, err := g.store.MembershipsOf(ctx, user.ID)
	if err != nil {
		return nil, err
	}
	if len(members) == 0 {
		return nil, errWrongPassword
	}
	return g.startSignIn(ctx, user, members[0].AccountID, in.UserAgent, "signin.create")
}

// hold lets a refusal leave a fixed time after it was asked for.
func hold(ctx context.Context, start time.Time, d time.Duration) {
	wait(ctx, d-time.Since(start))
}

// checkSignIn returns the user of an address if the password is theirs. With an
// error it returns the user for the audit, if there is one.
func (g *Gateway) checkSignIn(ctx context.Context, email, password string) (socketxp.User, error) {
	normal, err := socketxp.NormalizeEmail(email)
	if err != nil {
		normal = email
	}
	user, err := g.store.UserByEmail(ctx, normal)
	if errors.Is(err, socketxp.ErrNotFound) || socketxp.CodeOf(err) == socketxp.CodeInvalid {
		return socketxp.User{}, g.refuseUnknown(ctx, normal, password)
	}
	if err != nil {
		g.stats.storeError()
		return socketxp.User{}, unavailable(err)
	}
	return user, g.checkPassword(ctx, user, password)
}

// checkPassword returns nil if the password is the user's. A try is counted as a
// failure before it is judged, so that tries made at the same time can't be more
// than tries made one after the other.
func (g *Gateway) checkPassword(ctx context.Context, user socketxp.User, password string) error {
	now := g.now()
	if err := held(now, user.FailedSignIns, user.RetryAt); err != nil {
		return err
	}
	n, err := g.store.SignInFailed(ctx, user.ID, now.Add(holdAfter(user.FailedSignIns+1)))
	if err != nil {
		g.stats.storeError()
		return unavailable(err)
	}
	if n > maxTries || n > freeTries && n != user.FailedSignIns+1 { // another try took this turn
		return held(now, n, now.Add(holdAfter(n)))
	}
	ok, err := g.rest.passwords.matches(ctx, password, user.PasswordHash)
	switch {
	case err != nil:
		return err
	case !ok, !user.DisabledAt.IsZero():
		return errWrongPassword
	}
	return nil
}

func held(now time.Time, failures int, retryAt time.Time) error {
	wait := retryAt.Sub(now)
	if failures >= maxTries {
		wait = longestHold
	}
	if wait <= 0 {
		return nil
	}
	return later(socketxp.CodeRateLimited, wait, "too many wrong passwords")
}

// refuseUnknown does for an address that nobody has what is done for one that
// somebody has.
func (g *Gateway) refuseUnknown(ctx context.Context, email, password string) error {
	if err := g.rest.strangers.try(sha256.Sum256([]byte(email)), g.now()); err != nil {
		return err
	}
	if _, err := g.rest.passwords.matches(ctx, password, unknownHash); err != nil {
		return err
	}
	return errWrongPassword
}

// strangers holds up tries with addresses that nobody has, as the database does
// with users.
type strangers struct {
	mu    sync.Mutex // guards the following
	tries map[[32]byte]stranger
}

type stranger struct {
	failures int
	retryAt  time.Time
}

// maxStrangers bounds the memory: about 1 MiB. Beyond, the one that happens to come
// up first is forgotten.
const maxStrangers = 8192

func newStrangers() *strangers { return &strangers{tries: make(map[[32]byte]stranger)} }

func (s *strangers) try(email [32]byte, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, known := s.tries[email]
	if err := held(now, t.failures, t.retryAt); err != nil {
		return err
	}
	if !known && len(s.tries) >= maxStrangers {
		for k := range s.tries {
			delete(s.tries, k)
			break
		}
	}
	t.failures++
	t.retryAt = now.Add(holdAfter(t.failures))
	s.tries[email] = t
	return nil
}

// auditWrongPassword records a refused sign-in where its user can see it. What was
// typed as an address is not recorded for strangers: people type passwords there.
func (g *Gateway) auditWrongPassword(ctx context.Context, user socketxp.User, c *call, err error) {
	entry := socketxp.AuditEntry{
		Action: "signin.create", ObjectKind: "user", ObjectID: user.ID, ObjectName: user.Email,
		Actor: socketxp.Actor{Kind: socketxp.KindSignIn, UserID: user.ID, RemoteAddr: c.remote.String()},
	}
	if user.ID != "" {
		if members, err := g.store.MembershipsOf(ctx, user.ID); err == nil && len(members) > 0 {
			entry.AccountID = members[0].AccountID
		}
	}
	g.auditRefusal(ctx, entry, err)
}

// startSignIn makes a new sign-in with a new cookie, and ends the one that the
// browser had: no value that was there before is ever good afterwards.
func (g *Gateway) startSignIn(ctx context.Context, user socketxp.User, accountID, userAgent, action string) (*meOut, error) {
	c := callOf(ctx)
	var secret [signInSecretSize]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return nil, err
	}
	now := g.now()
	s := socketxp.SignIn{
		ID: socketxp.NewID(now), SecretHash: sha256.Sum256(secret[:]), AccountID: accountID, UserID: user.ID,
		CreatedAt: now, LastSeenAt: now, ExpiresAt: now.Add(socketxp.SignInLife), AuthAt: now,
		RemoteAddr: c.remote.String(), UserAgent: displayText(userAgent),
	}
	who := caller{
		kind: socketxp.KindSignIn, accountID: accountID, userID: user.ID, credentialID: s.ID, remote: c.remote, signIn: s,
	}
	if err := g.store.CreateSignIn(ctx, s, g.entry(who, action, "user", user.ID, user.Email)); err != nil {
		if errors.Is(err, socketxp.ErrNotFound) { // disabled or removed in between
			return nil, errWrongPassword
		}
		return nil, err
	}
	if action == "signin.reauth" {
		g.terminals.move(c.who.credentialID, s)
	}
	if err := g.endReplaced(ctx, c.cookie); err != nil {
		return nil, err
	}
	member, err := g.store.Membership(ctx, accountID, user.ID)
	if err != nil {
		return nil, err
	}
	who.role, who.rights = member.Role, member.Role.Rights()
	me, err := g.describeCaller(ctx, who)
	if err != nil {
		return nil, err
	}
	return &meOut{SetCookie: newCookie(base64.RawURLEncoding.EncodeToString(secret[:]), socketxp.SignInLife).String(), Body: me}, nil
}

// endReplaced ends the sign-in that a browser had before it got another one.
func (g *Gateway) endReplaced(ctx context.Context, cookie string) error {
	hash, ok := parseCookie(cookie)
	if !ok {
		return nil
	}
	old, err := g.store.SignInBySecret(ctx, hash, g.now())
	if errors.Is(err, socketxp.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	who := caller{kind: socketxp.KindSignIn, accountID: old.AccountID, userID: old.UserID, credentialID: old.ID, remote: callOf(ctx).remote}
	return g.endSignIn(ctx, who, old.ID, "signin.replace")
}

// endSignIn ends a sign-in of the caller's user, and what is open by it.
func (g *Gateway) endSignIn(ctx context.Context, who caller, id, action string) error {
	err := g.store.DeleteSignIn(ctx, who.accountID, who.userID, id, g.entry(who, action, "signin", id, ""))
	if err != nil {
		return orMissing(err, "sign-in")
	}
	g.cluster.Publish(socketxp.Hint{Kind: socketxp.HintSignInEnded, AccountID: who.accountID, ID: id})
	return nil
}

// displayText cuts text that a browser sent down to what is shown.
func displayText(s string) string {
	out := make([]rune, 0, 128)
	for _, r := range s {
		if len(out) == cap(out) {
			break
		}
		if socketxp.CheckDisplayText("", string(r), 1) != nil {
			r = '?'
		}
		out = append(out, r)
	}
	return string(out)
}

func newCookie(value string, life time.Duration) *http.Cookie {
	return &http.Cookie{
		Name: cookieName, Value: value, Path: "/", MaxAge: int(life / time.Second),
		Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	}
}

type cookieOut struct {
	SetCookie string `header:"Set-Cookie"`
}

func (g *Gateway) signOut(ctx context.Context, who caller, _ *struct{}) (*cookieOut, error) {
	if err := g.endSignIn(ctx, who, who.credentialID, "signin.end"); err != nil {
		return nil, err
	}
	return &cookieOut{newCookie("", -time.Second).String()}, nil // a life that is over removes it
}

type reauthIn struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      api.ReauthRequest
}

// reauth takes the password again, and gives a new sign-in for the one there was.
func (g *Gateway) reauth(ctx context.Context, who caller, in *reauthIn) (*meOut, error) {
	user, err := g.checkOwnPassword(ctx, who, in.Body.Password)
	if err != nil {
		return nil, err
	}
	return g.startSignIn(ctx, user, who.accountID, in.UserAgent, "signin.reauth")
}

// checkOwnPassword returns the caller's user if the password is theirs.
func (g *Gateway) checkOwnPassword(ctx context.Context, who caller, password string) (socketxp.User, error) {
	c := callOf(ctx)
	if err := g.rest.signIns.take(network(c.remote)).err(); err != nil {
		return socketxp.User{}, err
	}
	start := time.Now()
	user, err := g.store.User(ctx, who.userID)
	if err != nil {
		return user, err
	}
	if err := g.checkPassword(ctx, user, password); err != nil {
		hold(ctx, start, g.rest.limits.refuseAfter)
		if errors.Is(err, errWrongPassword) {
			err = socketxp.Errorf(socketxp.CodeForbidden, "the password is wrong")
		}
		return user, err
	}
	return user, nil
}

type passwordIn struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      api.PasswordRequest
}

// setPassword changes the caller's password. All sign-ins of before end, also the
// one it was done with, in whose place there is a new one.
func (g *Gateway) setPassword(ctx context.Context, who caller, in *passwordIn) (*meOut, error) {
	user, err := g.checkOwnPassword(ctx, who, in.Body.Current)
	if err != nil {
		return nil, err
	}
	if err := socketxp.CheckPassword(in.Body.New, user.Email); err != nil {
		return nil, err
	}
	hash, err := g.rest.passwords.hash(ctx, in.Body.New)
	if err != nil {
		return nil, err
	}
	others, err := g.store.SignIns(ctx, who.accountID, who.userID, g.now())
	if err != nil {
		return nil, err
	}
	if err := g.store.SetPassword(ctx, user.ID, hash, "", g.entry(who, "user.set-password", "user", user.ID, user.Email)); err != nil {
		return nil, err
	}
	for _, s := range others {
		g.cluster.Publish(socketxp.Hint{Kind: socketxp.HintSignInEnded, AccountID: who.accountID, ID: s.ID})
	}
	return g.startSignIn(ctx, user, who.accountID, in.UserAgent, "signin.create")
}

type meOnlyOut struct{ Body api.Me }

func (g *Gateway) me(ctx context.Context, who caller, _ *struct{}) (*meOnlyOut, error) {
	me, err := g.describeCaller(ctx, who)
	if err != nil {
		return nil, err
	}
	return &meOnlyOut{me}, nil
}

func (g *Gateway) describeCaller(ctx context.Context, who caller) (api.Me, error) {
	user, err := g.store.User(ctx, who.userID)
	if err != nil {
		return api.Me{}, err
	}
	account, err := g.store.Account(ctx, who.accountID)
	if err != nil {
		return api.Me{}, err
	}
	me := api.Me{
		User: api.User{ID: user.ID, Email: user.Email, Name: user.Name},
		Account: api.Account{
			ID: account.ID, Name: account.Name, BasicTokens: account.BasicTokens,
			BasicTokenLife: int64(account.BasicLife / time.Second), DeviceQuota: account.DeviceQuota,
		},
		Role:       who.role,
		Credential: api.Credential{Kind: who.kind, ID: who.credentialID, ExpiresAt: who.expiresAt()},
		Rights:     mapped(who.rights, func(r socketxp.Right) socketxp.Right { return r }),
	}
	if who.kind == socketxp.KindSignIn {
		if until := who.signIn.AuthAt.Add(socketxp.FreshAuth); g.now().Before(until) {
			me.Credential.FreshUntil = &until
		}
	}
	return me, nil
}

type signInsOut struct{ Body api.Page[api.SignIn] }

func (g *Gateway) listSignIns(ctx context.Context, who caller, _ *struct{}) (*signInsOut, error) {
	found, err := g.store.SignIns(ctx, who.accountID, who.userID, g.now())
	if err != nil {
		return nil, err
	}
	items := mapped(found, func(s socketxp.SignIn) api.SignIn { return api.NewSignIn(s, who.credentialID) })
	return &signInsOut{api.Page[api.SignIn]{Items: items}}, nil
}

func (g *Gateway) deleteSignIn(ctx context.Context, who caller, in *idIn) (*struct{}, error) {
	if !socketxp.ValidID(in.ID) {
		return nil, missing("sign-in")
	}
	return nil, g.endSignIn(ctx, who, in.ID, "signin.end")
}
