package socketxp

import (
	"context"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Account is a tenant: it owns devices, groups, tokens and memberships, and
// nothing crosses from one account to another.
type Account struct {
	ID        string
	Name      string
	CreatedAt time.Time
	// BasicTokens says whether basic tokens may be made and used at all.
	BasicTokens bool
	// BasicLife is the longest life of a basic token, up to 365 days.
	BasicLife time.Duration
	// DeviceQuota is the largest number of devices; 0 allows none.
	DeviceQuota int
}

// The settings of a new account.
const (
	DefaultBasicLife   = 7 * 24 * time.Hour
	DefaultDeviceQuota = 10_000
)

// User is a person who signs in with an email address and a password.
type User struct {
	ID           string
	Email        string // as NormalizeEmail returns it; unique in the gateway
	Name         string
	PasswordHash string // PHC string, argon2id; never leaves the store and the sign-in
	CreatedAt    time.Time
	DisabledAt   time.Time // zero while the user may sign in
	// Strangers counts the wrong passwords of all who showed no known browser of the
	// user's. Only a new password sets it back.
	Strangers Tries
}

// Tries counts the wrong passwords of those who share a count.
type Tries struct {
	Wrong   int
	RetryAt time.Time // when the next try may be; zero or past: now
}

// Who tries passwords is held up after FreeTries wrong ones: for a second, then twice
// as long each time, up to LongestHold. After MaxTries nothing is tried any more until
// there is a new password (NIST SP 800-63B-4 section 3.2.2).
const (
	FreeTries   = 5
	LongestHold = 15 * time.Minute
	MaxTries    = 100
)

// Take returns t with one more try, which is counted as wrong until it has turned out
// right. If the try has to wait, t is returned as it is, and for how long. RetryAt only
// ever moves later.
func (t Tries) Take(now time.Time) (after Tries, wait time.Duration) {
	if t.Wrong >= MaxTries {
		return t, LongestHold
	}
	if wait := t.RetryAt.Sub(now); wait > 0 {
		return t, wait
	}
	t.Wrong++
	t.RetryAt = now.Add(holdAfter(t.Wrong))
	return t, 0
}

// holdAfter is how long the next try has to wait after so many wrong ones.
func holdAfter(wrong int) time.Duration {
	if wrong < FreeTries {
		return 0
	}
	if n := wrong - FreeTries; n < 10 {
		return min(time.Second<<n, LongestHold)
	}
	return LongestHold
}

// Try is one try of a password.
type Try struct {
	Wait time.Duration // over 0: it has to wait for so long, and was not counted
	// Known is the known browser by whose count it goes, as Entrance.Shown; zero for that
	// of strangers.
	Known [32]byte
}

// The known browsers of a user: in each, or on a command line, the user has signed in
// before, and it shows a random value that is kept under its SHA-256. It stands for no
// right at all, only for a count of wrong passwords of its own, so that strangers who
// guess can't lock the user out. The oldest beyond MaxKnownBrowsers is forgotten.
const (
	KnownBrowserLife = 90 * 24 * time.Hour
	MaxKnownBrowsers = 20
)

// Entrance is what a new sign-in rests on.
type Entrance struct {
	// PasswordHash is the one that the password was found right by.
	PasswordHash string
	// Shown is the SHA-256 of the value by which the browser was known, and Given that of
	// the one that takes its place; zero for none.
	Shown, Given [32]byte
}

// Role is what a person is within an account.
type Role string

// RoleOwner may do everything in the account.
const RoleOwner Role = "owner"

// Membership binds a user to an account.
type Membership struct {
	AccountID string
	UserID    string
	Role      Role
	CreatedAt time.Time
}

// SignIn is a portal session of a person: it lives on the server under the
// SHA-256 of a random cookie value.
type SignIn struct {
	ID         string
	SecretHash [32]byte
	AccountID  string
	UserID     string
	CreatedAt  time.Time
	LastSeenAt time.Time
	ExpiresAt  time.Time
	AuthAt     time.Time // when the password was last entered
	RemoteAddr string
	UserAgent  string
}

// The lives of a sign-in: it ends after SignInIdle without a request, or a key that is
// typed in a terminal, and SignInLife after it began; acts that show a secret again need a password
// entered within FreshAuth.
const (
	SignInIdle = 12 * time.Hour
	SignInLife = 7 * 24 * time.Hour
	FreshAuth  = 10 * time.Minute
)

// NormalizeEmail returns s trimmed and in lower case, or an error if it does not
// look like an address (one @, no spaces or control characters, 3 to 254 bytes).
func NormalizeEmail(s string) (string, error) {
	valid := utf8.ValidString(s) // asked first: ToLower replaces what isn't
	s = strings.ToLower(strings.TrimSpace(s))
	local, host, ok := strings.Cut(s, "@")
	bad := !valid || !ok || local == "" || host == "" || strings.Contains(host, "@") || len(s) > 254 ||
		strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) })
	if bad {
		return "", Errorf(CodeInvalid, "the email address is not valid")
	}
	return s, nil
}

// CheckPassword returns an error unless the password has 12 or more characters,
// at most 256 bytes, is valid UTF-8 and isn't the email address or its local
// part (NIST SP 800-63B-4 section 3.1.1: length counts, composition rules do
// not).
func CheckPassword(password, email string) error {
	local, _, _ := strings.Cut(email, "@")
	switch {
	case utf8.RuneCountInString(password) < 12:
		return Errorf(CodeInvalid, "the password is too short").WithHint("use 12 characters or more; a few unrelated words are good")
	case len(password) > 256 || !utf8.ValidString(password):
		return Errorf(CodeInvalid, "the password is too long or not valid UTF-8").WithHint("use at most 256 bytes")
	case strings.EqualFold(password, email) || strings.EqualFold(password, local):
		return Errorf(CodeInvalid, "the password is the email address").WithHint("choose one that can't be guessed from your name")
	}
	return nil
}

// CheckDisplayText returns an error unless s is valid UTF-8 of at most max
// characters with no control or formatting characters (bidirectional overrides
// and zero-width marks included).
func CheckDisplayText(what, s string, max int) error {
	if !utf8.ValidString(s) || utf8.RuneCountInString(s) > max {
		return Errorf(CodeInvalid, "the %s is not valid UTF-8 or longer than %d characters", what, max)
	}
	for _, r := range s {
		if r != ' ' && !unicode.IsGraphic(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Co, r) {
			return Errorf(CodeInvalid, "the %s has control or invisible characters", what)
		}
	}
	return nil
}

// AccountStore keeps accounts and memberships.
type AccountStore interface {
	// CreateAccount creates the account, its owner and the membership, all or
	// nothing. ErrConflict if the email address is taken by another user.
	// With onlyFirst, ErrConflict too if any user exists already: the check and
	// the insert are one transaction, so that set-up is done exactly once.
	CreateAccount(ctx context.Context, a Account, owner User, onlyFirst bool, entry AuditEntry) error
	// Account returns ErrNotFound if there is none of that id.
	Account(ctx context.Context, id string) (Account, error)
	// Membership returns the user's membership of the account, or ErrNotFound if
	// there is none, or the user is disabled.
	Membership(ctx context.Context, accountID, userID string) (Membership, error)
	// MembershipsOf lists a user's memberships, oldest first.
	MembershipsOf(ctx context.Context, userID string) ([]Membership, error)
	// DeleteMembership removes a membership; the sign-ins it carried end with it.
	// ErrNotFound if there is none; ErrConflict for the last owner.
	DeleteMembership(ctx context.Context, accountID, userID string, entry AuditEntry) error
}

// UserStore keeps users and their sign-ins. It holds for all accounts: a person
// may belong to several.
type UserStore interface {
	User(ctx context.Context, id string) (User, error)
	UserByEmail(ctx context.Context, email string) (User, error)
	// Users lists all users, oldest first.
	Users(ctx context.Context) ([]User, error)
	// CountUsers is 0 until the gateway has been set up.
	CountUsers(ctx context.Context) (int, error)
	// SetPassword replaces the hash, sets the count of strangers back, forgets the known
	// browsers, and ends all of the user's sign-ins. ErrNotFound if the hash is not old
	// any more; an old of "" replaces any.
	SetPassword(ctx context.Context, userID, old, hash string, entry AuditEntry) error
	// SetUserDisabled disables (at not zero) or enables (at zero) a user. Disabling
	// ends all sign-ins and forgets the known browsers.
	SetUserDisabled(ctx context.Context, userID string, at time.Time, entry AuditEntry) error

	// TakeTry counts a try of the user's password before it is judged: by the count of
	// the known browser that shows a value with this SHA-256, if it is the user's and has
	// tries left, or else by that of strangers. Tries at the same time are no more than
	// tries one after the other.
	TakeTry(ctx context.Context, userID string, known [32]byte, now time.Time) (Try, error)
	// ReturnTry takes a try out of its count again: it was right, or not judged. It does
	// nothing if the user has another password than that of passwordHash.
	ReturnTry(ctx context.Context, userID, passwordHash string, t Try) error

	// CreateSignIn keeps a new sign-in, and the browser as a known one. ErrNotFound if
	// the user is disabled, no member of the account, or has another password than that
	// of by.
	CreateSignIn(ctx context.Context, s SignIn, by Entrance, entry AuditEntry) error
	// SignInBySecret returns the sign-in whose secret has this SHA-256, with
	// ErrNotFound if it is unknown, expired or idle too long at now, its user is
	// disabled, or no longer a member of its account.
	SignInBySecret(ctx context.Context, secretHash [32]byte, now time.Time) (SignIn, error)
	// SignIns lists a user's live sign-ins in the account, newest first.
	SignIns(ctx context.Context, accountID, userID string, now time.Time) ([]SignIn, error)
	// TouchSignIn records use; freshAuth also records that the password was entered.
	TouchSignIn(ctx context.Context, id string, now time.Time, freshAuth bool) error
	// DeleteSignIn ends one sign-in of the user in the account. ErrNotFound if there is none.
	DeleteSignIn(ctx context.Context, accountID, userID, id string, entry AuditEntry) error
	// EndSignIns ends all sign-ins of a member of the account, in all accounts, and
	// forgets the user's known browsers. ErrNotFound if the user is no member.
	EndSignIns(ctx context.Context, accountID, userID string, entry AuditEntry) error
}
