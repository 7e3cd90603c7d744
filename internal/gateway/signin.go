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

// The one answer to a wrong password, an unknown address, and a user who may not
// sign in.
var errWrongPassword = socketxp.Errorf(socketxp.CodeUnauthenticated, "the email address or the password is wrong")

type signInIn struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      api.SignInRequest
}

type meOut struct {
	SetCookie []string `header:"Set-Cookie" doc:"the cookie of the sign-in, and the one by which the browser is known when it signs in again"`
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
	if err == nil {
		var out *meOut
		if out, err = g.signInUser(ctx, user, in.UserAgent); err == nil {
			return out, nil
		}
	}
	g.auditWrongPassword(ctx, user, c, err)
	hold(ctx, start, g.rest.limits.refuseAfter)
	return nil, err
}

// signInUser signs in a user whose password was right, to the first of their accounts.
func (g *Gateway) signInUser(ctx context.Context, user socketxp.User, userAgent string) (*meOut, error) {
	members, err := g.store.MembershipsOf(ctx, user.ID)
	if err != nil {
		return nil, err
	}
	if len(members) == 0 {
		return nil, errWrongPassword
	}
	return g.startSignIn(ctx, user, members[0].AccountID, userAgent, "signin.create")
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

// checkPassword returns nil if the password is the user's. A try is counted as wrong
// before it is judged, so that tries made at the same time can't be more than tries
// made one after the other.
func (g *Gateway) checkPassword(ctx context.Context, user socketxp.User, password string) error {
	known, _ := parseCookie(callOf(ctx).known)
	try, err := g.store.TakeTry(ctx, user.ID, known, g.now())
	if err != nil {
		g.stats.storeError()
		return unavailable(err)
	}
	if try.Wait > 0 {
		return tooManyTries(try.Wait)
	}
	ok, err := g.rest.passwords.matches(ctx, password, user.PasswordHash)
	if err == nil && (!ok || !user.DisabledAt.IsZero()) {
		return errWrongPassword
	}
	if returned := g.store.ReturnTry(ctx, user.ID, user.PasswordHash, try); returned != nil {
		g.stats.storeError()
		return unavailable(errors.Join(err, returned))
	}
	return err
}

func tooManyTries(wait time.Duration) error {
	return later(socketxp.CodeRateLimited, wait, "too many wrong passwords")
}

// refuseUnknown does for an address that nobody has what is done for one that
// somebody has.
func (g *Gateway) refuseUnknown(ctx context.Context, email, password string) error {
	address := sha256.Sum256([]byte(email))
	if wait := g.rest.strangers.take(address, g.now()); wait > 0 {
		return tooManyTries(wait)
	}
	if _, err := g.rest.passwords.matches(ctx, password, unknownHash); err != nil {
		g.rest.strangers.giveBack(address)
		return err
	}
	return errWrongPassword
}

// strangers holds up tries with addresses that nobody has, as the database does
// with users.
type strangers struct {
	mu    sync.Mutex // guards the following
	tries map[[32]byte]socketxp.Tries
}

// maxStrangers bounds the memory: about 1 MiB. Beyond, the one that happens to come
// up first is forgotten.
const maxStrangers = 8192

func newStrangers() *strangers { return &strangers{tries: make(map[[32]byte]socketxp.Tries)} }

// take counts a try, or returns how long it has to wait.
func (s *strangers) take(email [32]byte, now time.Time) (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, known := s.tries[email]
	next, wait := t.Take(now)
	if wait > 0 {
		return wait
	}
	if !known && len(s.tries) >= maxStrangers {
		for k := range s.tries {
			delete(s.tries, k)
			break
		}
	}
	s.tries[email] = next
	return 0
}

// giveBack undoes a take, of a try that was not judged.
func (s *strangers) giveBack(email [32]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tries[email]; t.Wrong > 0 {
		t.Wrong--
		s.tries[email] = t
	}
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
// browser had: no value that was there before is ever good afterwards. The password
// that user has must be the one that was found right.
func (g *Gateway) startSignIn(ctx context.Context, user socketxp.User, accountID, userAgent, action string) (*meOut, error) {
	c := callOf(ctx)
	secret, hash, err := newCookieValue()
	if err != nil {
		return nil, err
	}
	by := socketxp.Entrance{PasswordHash: user.PasswordHash}
	known := ""
	if known, by.Given, err = newCookieValue(); err != nil {
		return nil, err
	}
	by.Shown, _ = parseCookie(c.known)
	now := g.now()
	s := socketxp.SignIn{
		ID: socketxp.NewID(now), SecretHash: hash, AccountID: accountID, UserID: user.ID,
		CreatedAt: now, LastSeenAt: now, ExpiresAt: now.Add(socketxp.SignInLife), AuthAt: now,
		RemoteAddr: c.remote.String(), UserAgent: displayText(userAgent),
	}
	who := caller{
		kind: socketxp.KindSignIn, accountID: accountID, userID: user.ID, credentialID: s.ID, remote: c.remote, signIn: s,
	}
	if err := g.store.CreateSignIn(ctx, s, by, g.entry(who, action, "user", user.ID, user.Email)); err != nil {
		if errors.Is(err, socketxp.ErrNotFound) { // disabled, removed, or with another password since
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
	return &meOut{SetCookie: []string{
		newCookie(cookieName, secret, socketxp.SignInLife).String(), newCookie(api.KnownCookie, known, socketxp.KnownBrowserLife).String(),
	}, Body: me}, nil
}

// newCookieValue returns a random value for a cookie, and the hash it is kept under.
func newCookieValue() (value string, hash [32]byte, err error) {
	var secret [cookieSecretSize]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return "", hash, err
	}
	return base64.RawURLEncoding.EncodeToString(secret[:]), sha256.Sum256(secret[:]), nil
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

func newCookie(name, value string, life time.Duration) *http.Cookie {
	return &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: int(life / time.Second),
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
	return &cookieOut{newCookie(cookieName, "", -time.Second).String()}, nil // a life that is over removes it
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
	err = g.endingSignIns(ctx, who, func() error {
		return g.store.SetPassword(ctx, user.ID, user.PasswordHash, hash, g.entry(who, "user.set-password", "user", user.ID, user.Email))
	})
	if errors.Is(err, socketxp.ErrNotFound) {
		return nil, socketxp.Errorf(socketxp.CodeConflict, "the password was changed by somebody else just now").WithHint("sign in again")
	}
	if err != nil {
		return nil, err
	}
	user.PasswordHash = hash
	return g.startSignIn(ctx, user, who.accountID, in.UserAgent, "signin.create")
}

// endingSignIns does what ends all sign-ins of the caller's user, and then cuts what is
// open by them.
func (g *Gateway) endingSignIns(ctx context.Context, who caller, do func() error) error {
	ended, err := g.store.SignIns(ctx, who.accountID, who.userID, g.now())
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	for _, s := range ended {
		g.cluster.Publish(socketxp.Hint{Kind: socketxp.HintSignInEnded, AccountID: who.accountID, ID: s.ID})
	}
	return nil
}

// signOutEverywhere ends all sign-ins of the caller's user, and no browser is known
// afterwards: for who has lost one.
func (g *Gateway) signOutEverywhere(ctx context.Context, who caller, _ *struct{}) (*cookieOut, error) {
	err := g.endingSignIns(ctx, who, func() error {
		return g.store.EndSignIns(ctx, who.accountID, who.userID, g.entry(who, "signin.end-all", "user", who.userID, ""))
	})
	if err != nil {
		return nil, orMissing(err, "user")
	}
	return &cookieOut{newCookie(cookieName, "", -time.Second).String()}, nil
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
