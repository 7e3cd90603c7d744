package control

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"socketxp"
)

// The bounds of fields; SPEC.md lists them.
const (
	maxText       = 500   // characters of a message or hint for people
	maxProgram    = 64    // characters of a program's version
	maxHost       = 253   // bytes of a host name
	maxHostKey    = 1024  // bytes of an authorized_keys line; an RSA key of 4096 bits has 724
	maxRetryAfter = 86400 // seconds
	maxVersion    = 1 << 16
	maxFact       = 256 // characters, as socketxp.Facts.Check
	maxAddrs      = 16  // as socketxp.Facts.Check
	maxUser       = 64  // bytes of a user's name; Linux takes 32
)

// MaxKeyLife is the longest that a device leaves a single-use key in place.
const MaxKeyLife = 60 * time.Second

// NonceSize is the number of random bytes of a nonce.
const NonceSize = 32

func (m Hello) check() error {
	if m.Version < 1 || m.Version > maxVersion {
		return errors.New("the version is not 1 to 65536")
	}
	if m.Role != RoleDevice && m.Role != RoleVisitor {
		return errors.New("the role is neither device nor visitor")
	}
	return socketxp.CheckDisplayText("agent's version", m.Agent, maxProgram)
}

func (m Report) check() error {
	if err := m.Facts.Check(); err != nil {
		return err
	}
	if len(m.Tunnels) > socketxp.MaxTunnels {
		return errors.New("there are more tunnels than one device may publish")
	}
	if len(m.Sequence) != 0 && len(m.Sequence) != socketxp.SequenceSize {
		return errors.New("the sequence is not 16 bytes")
	}
	seen := make(map[string]bool, len(m.Tunnels))
	for _, t := range m.Tunnels {
		if err := checkDestination(t.Destination); err != nil {
			return err
		}
		if seen[t.Destination] {
			return errors.New("a destination is published twice")
		}
		seen[t.Destination] = true
	}
	if m.GatewayKnownBy != "" {
		if err := socketxp.CheckKnownBy(m.GatewayKnownBy); err != nil {
			return err
		}
	}
	return checkHostKey(m.SSHHostKey)
}

func (m SequenceNext) check() error  { return checkSize("sequence", m.Next, socketxp.SequenceSize) }
func (m SequenceKept) check() error  { return checkSize("sequence", m.Next, socketxp.SequenceSize) }
func (m SequenceCheck) check() error { return checkSize("nonce", m.Nonce, NonceSize) }
func (m SequenceHeld) check() error  { return checkSize("nonce", m.Nonce, NonceSize) }

func (m Welcome) check() error {
	if m.Version < OldestVersion || m.Version > Version {
		return errors.New("the version is not one that was offered")
	}
	if err := socketxp.CheckDisplayText("gateway's version", m.Gateway, maxProgram); err != nil {
		return err
	}
	if m.GatewayPins != nil {
		if err := checkPins(m.GatewayPins); err != nil {
			return err
		}
	}
	if h := m.Heartbeat; h != 0 && (h < int(MinHeartbeat/time.Second) || h > int(MaxHeartbeat/time.Second)) {
		return errors.New("the heartbeat is not 10 to 900 seconds")
	}
	if m.DeviceID == "" { // a visitor's
		if m.DeviceName != "" || m.DeviceGroup != "" || len(m.Nonce) != 0 {
			return errors.New("a device is named without its id")
		}
		return nil
	}
	if len(m.Nonce) != 0 && len(m.Nonce) != NonceSize {
		return errors.New("the nonce is not 32 bytes")
	}
	if err := checkIDs(m.DeviceID); err != nil {
		return err
	}
	if err := socketxp.CheckDeviceName(m.DeviceName); err != nil {
		return err
	}
	return socketxp.CheckGroup(m.DeviceGroup)
}

func (KeyDue) check() error { return nil }

func (m KeyChange) check() error {
	return errors.Join(
		checkSize("next key", m.Next, ed25519.PublicKeySize),
		checkSize("proof", m.Proof, ed25519.SignatureSize),
		checkSize("vouch", m.Vouch, ed25519.SignatureSize),
	)
}

func (m KeyStaged) check() error  { return checkSize("next key", m.Next, ed25519.PublicKeySize) }
func (m KeyRefused) check() error { return checkReason(m.Code, m.Message, m.Hint) }

func (m PlaceKey) check() error {
	if m.Life < 1 || m.Life > int(MaxKeyLife/time.Second) {
		return errors.New("the life is not 1 to 60 seconds")
	}
	if m.User != "" {
		if err := CheckUser(m.User); err != nil {
			return err
		}
	}
	return errors.Join(
		checkIDs(m.ID),
		checkDestination(m.Destination),
		checkSize("public key", m.PublicKey, ed25519.PublicKeySize),
	)
}

func (m KeyPlaced) check() error { return errors.Join(checkIDs(m.ID), CheckUser(m.User)) }
func (m KeyNotPlaced) check() error {
	return errors.Join(checkIDs(m.ID), checkReason(m.Code, m.Message, m.Hint))
}
func (m RemoveKey) check() error  { return checkIDs(m.ID) }
func (m KeyRemoved) check() error { return checkIDs(m.ID) }

// CheckUser takes names of users that are not mistaken for anything else, wherever
// they come to stand: no separators, no path, no option.
func CheckUser(name string) error {
	if name == "" || len(name) > maxUser || name[0] == '-' || strings.Trim(name, ".") == "" || strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-@", r)
	}) {
		return errors.New("the user's name is not 1 to 64 of letters, digits and ._-@")
	}
	return nil
}

func (m Refused) check() error {
	if err := checkRetry(m.RetryAfter); err != nil {
		return err
	}
	return checkReason(m.Code, m.Message, m.Hint)
}

func (m GoAway) check() error {
	if err := checkRetry(m.RetryAfter); err != nil {
		return err
	}
	return socketxp.CheckDisplayText("message", m.Message, maxText)
}

func (m GatewayKeys) check() error { return checkPins(m.Pins) }

func checkPins(pins []string) error {
	if len(pins) != 1 && (len(pins) != 2 || pins[0] == pins[1]) {
		return errors.New("the gateway's keys are not one or two")
	}
	for _, p := range pins {
		if err := socketxp.CheckPin(p); err != nil {
			return err
		}
	}
	return nil
}

func (m Offer) check() error {
	if len(m.VisitorKey) != ed25519.PublicKeySize {
		return errors.New("the visitor's key is not 32 bytes")
	}
	if err := checkIDs(m.SessionID); err != nil {
		return err
	}
	if err := checkTicket(m.Ticket); err != nil {
		return err
	}
	return checkDestination(m.Destination)
}

func (m OfferRefused) check() error {
	if err := checkTicket(m.Ticket); err != nil {
		return err
	}
	return checkReason(m.Code, m.Message, "")
}

func (Logout) check() error    { return nil }
func (LoggedOut) check() error { return nil }

func (m Visit) check() error {
	if m.Port < 1 || m.Port > 65535 {
		return errors.New("the port is not 1 to 65535")
	}
	if m.Token == "" || len(m.Token) > socketxp.MaxTokenBytes || strings.ContainsFunc(m.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("the token is not 1 to 4096 printable ASCII characters")
	}
	if len(m.Host) > maxHost {
		return errors.New("the host is longer than 253 bytes")
	}
	if err := socketxp.CheckDisplayText("host", m.Host, maxHost); err != nil {
		return err
	}
	switch {
	case (m.DeviceID == "") == (m.DeviceName == ""):
		return errors.New("not exactly one of device id and device name is given")
	case m.DeviceID != "":
		return checkIDs(m.DeviceID)
	}
	return socketxp.CheckDeviceName(m.DeviceName)
}

func (m Granted) check() error {
	if len(m.DeviceKey) != ed25519.PublicKeySize {
		return errors.New("the device's key is not 32 bytes")
	}
	if m.ExpiresAt.IsZero() {
		return errors.New("the grant has no end")
	}
	if len(m.Vouchers) > socketxp.MaxVouchers {
		return errors.New("there are more than 32 vouchers")
	}
	for _, v := range m.Vouchers {
		if err := errors.Join(checkSize("key", v.Key, ed25519.PublicKeySize), checkSize("vouch", v.Vouch, ed25519.SignatureSize)); err != nil {
			return err
		}
	}
	if err := checkIDs(m.SessionID, m.DeviceID); err != nil {
		return err
	}
	if err := socketxp.CheckDeviceName(m.DeviceName); err != nil {
		return err
	}
	if err := checkHostKey(m.SSHHostKey); err != nil {
		return err
	}
	return checkDestination(m.Destination)
}

func (m Ended) check() error { return checkReason(m.Code, m.Message, m.Hint) }

func (Leave) check() error       { return nil }
func (LinkRequest) check() error { return nil }

func (m LinkTicket) check() error  { return checkTicket(m.Ticket) }
func (m LinkRefused) check() error { return checkReason(m.Code, m.Message, m.Hint) }

func checkIDs(ids ...string) error {
	for _, id := range ids {
		if !socketxp.ValidID(id) {
			return errors.New("an id is not a UUID")
		}
	}
	return nil
}

func checkSize(what string, b []byte, size int) error {
	if len(b) != size {
		return fmt.Errorf("the %s is not %d bytes", what, size)
	}
	return nil
}

func checkTicket(ticket []byte) error {
	if len(ticket) != socketxp.LinkTicketSize {
		return errors.New("the ticket is not 16 bytes")
	}
	return nil
}

// checkDestination takes the canonical form only, so that both ends and the
// gateway between them may compare destinations as text.
func checkDestination(s string) error {
	d, err := socketxp.ParseDestination(s)
	if err != nil {
		return err
	}
	if d.String() != s {
		return errors.New("a destination is not in its canonical form")
	}
	return nil
}

func checkHostKey(s string) error {
	if len(s) > maxHostKey {
		return errors.New("the host key is longer than 1024 bytes")
	}
	return socketxp.CheckDisplayText("host key", s, maxHostKey)
}

func checkRetry(seconds int) error {
	if seconds < 0 || seconds > maxRetryAfter {
		return errors.New("the time to retry is not 0 to 86400 seconds")
	}
	return nil
}

// checkReason checks what a peer gives as a reason: people will read it on a
// terminal.
func checkReason(code socketxp.Code, message, hint string) error {
	if code == "" || len(code) > 64 || strings.ContainsFunc(string(code), func(r rune) bool { return (r < 'a' || r > 'z') && r != '_' }) {
		return errors.New("the code is not 1 to 64 of a-z and _")
	}
	if err := socketxp.CheckDisplayText("message", message, maxText); err != nil {
		return err
	}
	return socketxp.CheckDisplayText("hint", hint, maxText)
}

// tidy returns m with the texts made acceptable that come from elsewhere (the
// operating system, an error): a peer would close the channel over them.
func tidy(m Message) Message {
	switch m := m.(type) {
	case Report:
		f := &m.Facts
		for _, s := range []*string{&f.OS, &f.Arch, &f.Kernel, &f.Hostname, &f.Version} {
			*s = printable(*s, maxFact)
		}
		var addrs []string // not the caller's
		for _, a := range f.LocalAddrs[:min(len(f.LocalAddrs), maxAddrs)] {
			addrs = append(addrs, printable(a, maxFact))
		}
		f.LocalAddrs = addrs
		return m
	case Refused:
		m.Message, m.Hint = printable(m.Message, maxText), printable(m.Hint, maxText)
		return m
	case GoAway:
		m.Message = printable(m.Message, maxText)
		return m
	case OfferRefused:
		m.Message = printable(m.Message, maxText)
		return m
	case KeyRefused:
		m.Message, m.Hint = printable(m.Message, maxText), printable(m.Hint, maxText)
		return m
	case KeyNotPlaced:
		m.Message, m.Hint = printable(m.Message, maxText), printable(m.Hint, maxText)
		return m
	case Ended:
		m.Message, m.Hint = printable(m.Message, maxText), printable(m.Hint, maxText)
		return m
	case LinkRefused:
		m.Message, m.Hint = printable(m.Message, maxText), printable(m.Hint, maxText)
		return m
	}
	return m
}

// printable returns s with what socketxp.CheckDisplayText refuses replaced by
// question marks, cut to limit characters.
func printable(s string, limit int) string {
	if socketxp.CheckDisplayText("", s, limit) == nil {
		return s
	}
	var b strings.Builder
	for n := 0; s != "" && n < limit; n++ {
		r, size := utf8.DecodeRuneInString(s)
		if socketxp.CheckDisplayText("", s[:size], 1) != nil {
			r = '?'
		}
		b.WriteRune(r)
		s = s[size:]
	}
	return b.String()
}
