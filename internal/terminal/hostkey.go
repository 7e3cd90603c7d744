package terminal

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"

	"golang.org/x/crypto/ssh"
)

// HostKey is the key that an SSH server has shown.
type HostKey struct {
	Type        string `json:"type"`
	Fingerprint string `json:"fingerprint"`
	// State is known, new or changed.
	State string `json:"state"`
	// KnownFingerprint is that of the key which is trusted in its place.
	KnownFingerprint string `json:"known_fingerprint,omitempty"`
	// Key is all of it, in authorized_keys form.
	Key string `json:"-"`
}

// The states of a HostKey.
const (
	HostKeyKnown   = "known"
	HostKeyNew     = "new"
	HostKeyChanged = "changed"
)

// ParseHostKey returns the host key in a line of authorized_keys form, as a known
// one.
func ParseHostKey(line string) (HostKey, error) {
	key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(bytes.TrimSpace(rest)) > 0 {
		return HostKey{}, errors.New("not one host key in authorized_keys form")
	}
	return newHostKey(key, HostKeyKnown), nil
}

func newHostKey(key ssh.PublicKey, state string) HostKey {
	return HostKey{
		Type: key.Type(), Fingerprint: ssh.FingerprintSHA256(key), State: state,
		Key: string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key))),
	}
}

// maxHostKey holds an RSA key of 16,384 bits.
const maxHostKey = 4 << 10

// hostKeyAlgorithms are those by which servers show keys. Certificates are not
// among them: there is no authority that both ends know.
var hostKeyAlgorithms = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
}

// algorithmsFor puts those of the known key first, so that a server of several keys
// shows that one.
func algorithmsFor(known *HostKey) []string {
	algorithms := slices.Clone(hostKeyAlgorithms)
	if known == nil {
		return algorithms
	}
	rank := func(a string) int {
		if a == known.Type || known.Type == ssh.KeyAlgoRSA && (a == ssh.KeyAlgoRSASHA512 || a == ssh.KeyAlgoRSASHA256) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(algorithms, func(a, b string) int { return rank(a) - rank(b) })
	return algorithms
}

// errUntrusted ends a handshake before anything secret is sent.
var errUntrusted = errors.New("the host key is not trusted")

// errMismatch is the same where nobody may trust the key.
var errMismatch = errors.New("the host key is not the one that the device has reported")

// checkHostKey is called in the middle of the handshake, before the first attempt to
// sign in, and whenever the connection changes its keys.
func (t *Terminal) checkHostKey(_ string, _ net.Addr, shown ssh.PublicKey) error {
	key := newHostKey(shown, HostKeyNew)
	if len(key.Key) > maxHostKey {
		return fmt.Errorf("a host key of %d bytes", len(key.Key))
	}
	known := t.known
	if known != nil {
		key.State, key.KnownFingerprint = HostKeyChanged, known.Fingerprint
		if known.Key == key.Key {
			key.State, key.KnownFingerprint = HostKeyKnown, ""
		}
	}
	t.mu.Lock()
	t.hostKey = &key
	if key.State == HostKeyKnown && t.state == stateConnecting {
		t.state = stateSigningIn
		t.wakeScreen()
	}
	t.mu.Unlock()
	switch {
	case key.State == HostKeyKnown:
		t.keySeenOnce()
		return nil
	case t.options.Sure:
		return errMismatch
	}
	return errUntrusted
}
