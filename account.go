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
	// FailedSignIns counts consecutive failures; a success sets it to 0.
	FailedSignIns int
	// RetryAt is when the next sign-in may be tried; zero or past: now.
	RetryAt time.Time
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

// The lives of a sign-in: it ends after SignInIdle without a request and
// SignInLife after it began; acts that show a secret again need a password
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
	// SetPassword replaces the hash, clears the failure count, and ends all of the
	// user's sign-ins but keepSignIn (which may be empty).
	SetPassword(ctx context.Context, userID, hash, keepSignIn string, entry AuditEntry) error
	// SetUserDisabled disables (at not zero) or enables (at zero) a user. Disabling
	// ends all sign-ins.
	SetUserDisabled(ctx context.Context, userID string, at time.Time, entry AuditEntry) error
	// SignInFailed adds one to the failure count and sets when the next try may
	// be; it returns the new count.
	SignInFailed(ctx context.Context, userID string, retryAt time.Time) (int, error)

	// CreateSignIn keeps a new sign-in and clears the user's failure count.
	CreateSignIn(ctx context.Context, s SignIn, entry AuditEntry) error
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
}
