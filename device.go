package socketxp

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
	"time"
)

// Device is a registered machine. It is known by its public key; trust in it
// hangs on this row alone, never again on the token that registered it.
type Device struct {
	ID          string
	AccountID   string
	Name        string // unique in the account; see CheckDeviceName
	DisplayName string // free text, may be empty
	Group       string // see CheckGroup; never empty
	PublicKey   ed25519.PublicKey
	KeySince    time.Time // when it became the device's key
	CreatedAt   time.Time
	CreatedBy   string    // user id: the maker of the token, or of the pre-registration
	TokenID     string    // the token that registered it; empty if pre-registered
	DisabledAt  time.Time // zero while enabled
	// QuarantinedAt is when a second holder of the device's key was found; zero while
	// there was none. Nobody is let in with the key from then on.
	QuarantinedAt    time.Time
	QuarantineReason string    // one line for people
	LastSeenAt       time.Time // zero if it has never connected
	RemoteAddr       string    // of its last control channel
	Facts            Facts
	// SSHHostKey is the public host key of the built-in SSH server in
	// authorized_keys form, or empty if it has none.
	SSHHostKey string
	// GatewayKnownBy is what it verifies the gateway by, as
	// GatewayAddress.KnownBy says it; empty if it never said.
	GatewayKnownBy string
	Tunnels        []Tunnel // as last reported
	Sequence       Sequence // never leaves the gateway but to the device itself
}

// Facts is what an agent says about its machine. It is untrusted text.
type Facts struct {
	OS         string   `json:"os,omitempty"`
	Arch       string   `json:"arch,omitempty"`
	Kernel     string   `json:"kernel,omitempty"`
	Hostname   string   `json:"hostname,omitempty"`
	Version    string   `json:"version,omitempty"`     // of the agent
	LocalAddrs []string `json:"local_addrs,omitempty"` // at most 16
}

// Check returns an error if a field is not printable text of at most 256
// characters or there are more than 16 addresses.
func (f Facts) Check() error {
	if len(f.LocalAddrs) > 16 {
		return Errorf(CodeInvalid, "more than 16 local addresses")
	}
	for _, s := range append([]string{f.OS, f.Arch, f.Kernel, f.Hostname, f.Version}, f.LocalAddrs...) {
		if err := CheckDisplayText("device fact", s, 256); err != nil {
			return err
		}
	}
	return nil
}

// DefaultGroup is the group of a device that asked for none.
const DefaultGroup = "default"

// reservedNames can't be device names: they would read as something of ours.
var reservedNames = []string{"admin", "api", "gateway", "localhost", "portal", "socketxp", "www"}

func checkLabel(what, s string) error {
	ok := len(s) >= 1 && len(s) <= 63 && s[0] != '-'
	for i := range len(s) {
		c := s[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if ok {
		return nil
	}
	e := Errorf(CodeInvalid, "the %s is not valid: it has 1 to 63 of a-z, 0-9 and -, and does not start with -", what)
	if fixed := MakeLabel(s); fixed != "" && fixed != s {
		return e.WithHint("for example: " + fixed)
	}
	return e
}

// CheckDeviceName returns an error unless s matches [a-z0-9][a-z0-9-]{0,62} and
// isn't reserved.
func CheckDeviceName(s string) error {
	if err := checkLabel("device name", s); err != nil {
		return err
	}
	if slices.Contains(reservedNames, s) {
		return Errorf(CodeInvalid, "the device name %q is reserved", s).WithHint("choose another, for example " + s + "-1")
	}
	return nil
}

// CheckGroup returns an error unless s matches [a-z0-9][a-z0-9-]{0,62}.
func CheckGroup(s string) error { return checkLabel("device group", s) }

// MakeLabel bends s (a hostname, say) into a valid device name or group, or
// returns "" if nothing of it can be used. A reserved name gets "-1" added.
func MakeLabel(s string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(s) {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
		if b.Len() == 63 {
			break
		}
	}
	label := strings.TrimRight(b.String(), "-")
	if slices.Contains(reservedNames, label) {
		label += "-1"
	}
	return label
}

// Fingerprint returns the SHA-256 of an Ed25519 public key as "SHA256:" and
// unpadded base64, the way ssh shows keys.
func Fingerprint(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// registrationContext separates this signature from all others of a device key.
const registrationContext = "socketxp-registration/1\x00"

// RegistrationProof returns what a device signs with its key to register:
// possession of the key, bound to this one token. A replay can only register
// the same key again, which changes nothing.
func RegistrationProof(token string, key ed25519.PublicKey) []byte {
	sum := sha256.Sum256([]byte(token))
	return slices.Concat([]byte(registrationContext), sum[:], key)
}

// Registration is one device being added.
type Registration struct {
	Device Device
	// TokenID is the registration or basic token that is used; empty for a
	// pre-registration by the API. A registration token's use count goes up by one.
	TokenID string
	// AnyName lets the store add "-2", "-3" … to a name that is taken; otherwise a
	// taken name is ErrConflict.
	AnyName bool
}

// DeviceStore keeps devices, their groups and tunnels. Each method but
// DeviceByKey names the account; what is in another one is ErrNotFound.
type DeviceStore interface {
	// RegisterDevice adds the device, its group if new, and takes one use of the
	// token, in one transaction; a registration that fails uses nothing. The same key
	// registering again in the same account gets the device it has and uses
	// nothing (again is true): even when the token has no use left. But if r asks for
	// another name (unless AnyName) or group than that device has:
	// CodeAlreadyRegister. A key of another account: ErrConflict. Token not usable
	// at now: the error of Token.Usable. No use left: ErrUsesExhausted. Quota
	// reached: CodeQuota. An empty group asks for none: DefaultGroup for a new device.
	RegisterDevice(ctx context.Context, r Registration, now time.Time, entry AuditEntry) (d Device, again bool, err error)
	Device(ctx context.Context, accountID, id string) (Device, error)
	DeviceByName(ctx context.Context, accountID, name string) (Device, error)
	// DeviceByKey is for the control door, which knows no account yet. State says what
	// the key is to the device, whose PublicKey is the current one.
	DeviceByKey(ctx context.Context, key ed25519.PublicKey) (d Device, state DeviceKeyState, err error)
	// StageKey makes a key the device's next one: from then on both are good. Staging
	// the same again changes nothing. Current not the device's key, next known to be
	// anybody's, or another key staged in the last KeyStageLife: ErrConflict.
	StageKey(ctx context.Context, accountID, id string, s KeySuccession, entry AuditEntry) error
	// PromoteKey makes the device's next key its current one: the one before is retired.
	// ErrConflict if next is not staged.
	PromoteKey(ctx context.Context, accountID, id string, next ed25519.PublicKey, entry AuditEntry) (Device, error)
	// ReplaceKey gives the device that has, or had, a key a new one, retires all others,
	// and ends quarantine and sequence. It takes one use of the token, as RegisterDevice
	// does and with its errors; repeated with the same keys it changes nothing (again is
	// true) and takes none. A key that the account has no device of: ErrNotFound. A new
	// key that is known to be another's: ErrConflict.
	ReplaceKey(ctx context.Context, r KeyReplacement, now time.Time, entry AuditEntry) (d Device, again bool, err error)
	// KeyVouchers lists how the device's key came from the ones before, oldest first,
	// as far back as each is vouched for by the one before it, at most MaxVouchers.
	KeyVouchers(ctx context.Context, accountID, id string) ([]KeyVoucher, error)
	// Devices lists a page of devices and the number of all that match. Those that have
	// to be looked at one by one (of a search, of more than MaxCounted IDs, of Offline,
	// of a group and a version) are counted to MaxCounted.
	Devices(ctx context.Context, accountID string, q DeviceQuery) (page []Device, total Total, err error)
	// UpdateDevice changes what u sets. A taken name is ErrConflict.
	UpdateDevice(ctx context.Context, accountID, id string, u DeviceUpdate, entry AuditEntry) (Device, error)
	// DeleteDevice removes the device and its tunnels; its sessions and audit stay.
	DeleteDevice(ctx context.Context, accountID, id string, entry AuditEntry) error
	// DeviceConnected records what a device reported on its control channel; it
	// replaces the facts, host key and tunnels of before.
	DeviceConnected(ctx context.Context, accountID, id string, r DeviceReport) error
	// KeyKnowledge counts, for each account with devices, those that would take the
	// gateway's key of that pin for its own. Recent are those seen at seenSince or
	// later and not disabled.
	KeyKnowledge(ctx context.Context, pin string, seenSince time.Time) ([]KeyKnowledge, error)
	// MoveSequences replaces sequences, all or none of it in one transaction, and
	// reports for each whether it was moved: it is not if it is no longer From, or if
	// the device is quarantined or gone.
	MoveSequences(ctx context.Context, moves []SequenceMove) ([]bool, error)
	// QuarantineDevice quarantines the device if its sequence is still seen;
	// ErrConflict if it is another by now, or the device is quarantined already.
	QuarantineDevice(ctx context.Context, accountID, id string, seen Sequence, reason string, entry AuditEntry) error
	// ReleaseDevice ends a quarantine and the sequence: whoever connects next begins
	// a new one.
	ReleaseDevice(ctx context.Context, accountID, id string, entry AuditEntry) (Device, error)
	// TouchDevices records when devices were last seen. It may be lost.
	TouchDevices(ctx context.Context, seen []DeviceSeen) error

	// Groups lists the groups by name, with the number of devices in each.
	Groups(ctx context.Context, accountID string) ([]Group, error)
	CreateGroup(ctx context.Context, g Group, entry AuditEntry) error
	// RenameGroup renames a group and moves its devices along.
	RenameGroup(ctx context.Context, accountID, name, newName string, entry AuditEntry) error
	// DeleteGroup removes an empty group; ErrConflict if devices are in it.
	DeleteGroup(ctx context.Context, accountID, name string, entry AuditEntry) error
	// Tunnels lists the tunnels of all devices of the account, by device name and
	// destination; afterDevice and afterDestination are those of the last row of
	// the page before.
	Tunnels(ctx context.Context, accountID, deviceID, afterDevice, afterDestination string, limit int) ([]DeviceTunnel, error)
}

// DeviceReport is what a device says when its control channel opens, and when
// its tunnels change.
type DeviceReport struct {
	At         time.Time
	RemoteAddr string
	Facts      Facts
	SSHHostKey string
	// GatewayKnownBy is as in Device.
	GatewayKnownBy string
	Tunnels        []Tunnel
}

// KeyKnowledge says of an account how many of its devices know a key of the
// gateway, by its pin or because authorities vouch for it.
type KeyKnowledge struct {
	AccountID, AccountName string
	Devices                int
	Know                   int
	RecentDont             int // don't, and will be locked out when it changes to that key
}

// DeviceSeen is when a device was last known to be connected.
type DeviceSeen struct {
	AccountID, DeviceID string
	At                  time.Time
}

// DeviceUpdate changes a device; nil fields stay as they are.
type DeviceUpdate struct {
	Name        *string
	DisplayName *string
	Group       *string
	DisabledAt  *time.Time // zero time enables
}

// DeviceSort is a column to sort devices by.
type DeviceSort string

// The columns devices can be sorted by.
const (
	SortByName     DeviceSort = "name"
	SortByGroup    DeviceSort = "group"
	SortByCreated  DeviceSort = "created_at"
	SortByLastSeen DeviceSort = "last_seen_at"
)

// MaxCounted is how far devices are counted that have to be looked at one by one.
const MaxCounted = 1000

// Total is how many devices match a query.
type Total struct {
	Devices int
	OrMore  bool // there are more, that were not counted
}

// DeviceQuery selects a page of devices. Zero fields select all.
type DeviceQuery struct {
	Search   string // part of name, display name, group, hostname or id; case does not matter
	Group    string
	Disabled *bool
	// Quarantined selects those that are, or are not, in quarantine.
	Quarantined *bool
	IDs         []string // not nil: only these
	// Online, if not nil, are the devices that are online: only these, or with Offline
	// none of these.
	Online  DeviceSet
	Offline bool
	Version string
	Sort    DeviceSort // SortByName if empty
	Desc    bool
	After   *DeviceCursor
	Limit   int // 1 to 200
}

// DeviceCursor is the place of the last device of a page in the sort order.
type DeviceCursor struct {
	Value string // of the sort column; times as decimal Unix microseconds
	ID    string
}

// Group is a label that devices share.
type Group struct {
	AccountID string
	Name      string
	CreatedAt time.Time
	Devices   int
}

// DeviceTunnel is a tunnel with the device that publishes it.
type DeviceTunnel struct {
	DeviceID, DeviceName string
	Tunnel
}
