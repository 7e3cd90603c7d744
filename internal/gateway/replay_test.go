package gateway

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"socketxp"
	"socketxp/internal/control"
)

// signer stands for a device's key in a handshake, and signs as sign says.
type signer struct {
	key  ed25519.PrivateKey
	sign func(challenge []byte) []byte
}

func (s signer) Public() crypto.PublicKey { return s.key.Public() }

func (s signer) Sign(_ io.Reader, challenge []byte, _ crypto.SignerOpts) ([]byte, error) {
	return s.sign(challenge), nil
}

// signedWith comes to the control door with the certificate of key and such a
// signature, and says whether it was let in as the device.
func (w *world) signedWith(key ed25519.PrivateKey, sign func(challenge []byte) []byte) (in bool) {
	w.Helper()
	cfg := w.clientTLS(key)
	cfg.Certificates[0].PrivateKey = signer{key, sign}
	c := tls.Client(w.dialRaw(), cfg)
	if c.HandshakeContext(w.Context()) != nil {
		return false
	}
	conn := control.NewAgent(c, control.RoleDevice, control.Options{})
	defer func() { _ = conn.Close() }()
	if conn.Send(w.Context(), control.Hello{Version: control.Version, Role: control.RoleDevice}) != nil {
		return false
	}
	a := &agent{w: w, key: key, conn: conn}
	_ = conn.Send(w.Context(), control.Report{Tunnels: []control.ReportTunnel{}, Sequence: w.held.get(key)})
	_, err := a.receive()
	return err == nil
}

// challengeOf is what the gateway has a key sign, and the signature.
func (w *world) challengeOf(key ed25519.PrivateKey) (challenge, signature []byte) {
	w.Helper()
	var mu sync.Mutex
	if !w.signedWith(key, func(c []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		challenge, signature = bytes.Clone(c), ed25519.Sign(key, c)
		return signature
	}) {
		w.Fatal("a good signature was refused: the rest of this test means nothing")
	}
	mu.Lock()
	defer mu.Unlock()
	return challenge, signature
}

// TestReplayAtTheControlDoor shows old answers to the control door's challenge:
// TLS's CertificateVerify, which signs all that was said on this connection before.
func TestReplayAtTheControlDoor(t *testing.T) {
	w, elsewhere := start(t), start(t)
	d, key := w.register("cam", "default")
	_, other := w.register("other", "default")
	// The key is known to both gateways, as it would be to one that was copied.
	now := w.g.now()
	if _, _, err := elsewhere.store.RegisterDevice(t.Context(), socketxp.Registration{Device: socketxp.Device{
		ID: d.ID, AccountID: elsewhere.account.ID, Name: "cam", PublicKey: publicOf(key), CreatedAt: now, CreatedBy: elsewhere.owner.ID,
	}}, now, elsewhere.entry("device.register")); err != nil {
		t.Fatal(err)
	}
	challenge, old := w.challengeOf(key)
	again, _ := w.challengeOf(key)
	_, foreign := elsewhere.challengeOf(key)
	_, others := w.challengeOf(other)
	if bytes.Equal(challenge, again) {
		t.Fatal("the same challenge twice")
	}
	before := w.deviceNow(d).Sequence

	for name, sign := range map[string]func(challenge []byte) []byte{
		"an old one":                 func([]byte) []byte { return old },
		"one for another gateway":    func([]byte) []byte { return foreign },
		"one of another device":      func([]byte) []byte { return others },
		"another device's key":       func(c []byte) []byte { return ed25519.Sign(other, c) },
		"zeros":                      func([]byte) []byte { return make([]byte, ed25519.SignatureSize) },
		"none":                       func([]byte) []byte { return nil },
		"cut short":                  func(c []byte) []byte { return ed25519.Sign(key, c)[:ed25519.SignatureSize-1] },
		"one byte more":              func(c []byte) []byte { return append(ed25519.Sign(key, c), 0) },
		"over a truncated context":   func(c []byte) []byte { return ed25519.Sign(key, c[:len(c)-1]) },
		"over the transcript alone":  func(c []byte) []byte { return ed25519.Sign(key, c[len(c)-32:]) },
		"over zeros":                 func(c []byte) []byte { return ed25519.Sign(key, make([]byte, len(c))) },
		"over the challenge, beside": func(c []byte) []byte { return ed25519.Sign(key, append(bytes.Clone(c), 0)) },
		// A device's end of a link is a TLS server: nobody may pass its word on here.
		"over what a server signs": func(c []byte) []byte {
			return ed25519.Sign(key, bytes.Replace(c, []byte("client CertificateVerify"), []byte("server CertificateVerify"), 1))
		},
	} {
		t.Run("K-12 "+name, func(t *testing.T) {
			if w.signedWith(key, sign) {
				t.Error("let in")
			}
		})
	}
	t.Run("K-12 all that was sent, again", func(t *testing.T) {
		rec := &recordingConn{Conn: must[net.Conn](t)(w.open())}
		c := tls.Client(rec, w.clientTLS(key))
		conn := control.NewAgent(c, control.RoleDevice, control.Options{})
		a := &agent{w: w, key: key, conn: conn}
		a.send(control.Hello{Version: control.Version, Role: control.RoleDevice, Agent: "test"})
		a.welcome(report("tcp://127.0.0.1:22"))
		_ = conn.Close()
		before = w.deviceNow(d).Sequence
		raw := w.dialRaw()
		_, _ = raw.Write(rec.all())
		readEnd(t, raw)
	})
	if after := w.deviceNow(d).Sequence; !before.Equal(after) {
		t.Errorf("the sequence moved: %+v, was %+v", after, before)
	}
	w.connect(d, key, echo) // the genuine device is none the worse for it
}

// recordingConn keeps what is written.
type recordingConn struct {
	net.Conn
	mu   sync.Mutex // guards the following
	sent []byte
}

func (r *recordingConn) Write(b []byte) (int, error) {
	r.mu.Lock()
	r.sent = append(r.sent, b...)
	r.mu.Unlock()
	return r.Conn.Write(b)
}

func (r *recordingConn) all() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.sent)
}

// TestReplayOfKeyChange shows a gateway old and bent proofs for a device's next key.
func TestReplayOfKeyChange(t *testing.T) {
	w := start(t)
	d, key := w.register("cam", "default")
	other, otherKey := w.register("other", "default")
	next := newKey(t)
	_, old := w.online(d, key)
	_, elsewhere := w.online(other, otherKey)
	if len(old.Nonce) < 16 || bytes.Equal(old.Nonce, elsewhere.Nonce) || bytes.Equal(old.Nonce, make([]byte, len(old.Nonce))) {
		t.Fatalf("K-12 nonces %x and %x", old.Nonce, elsewhere.Nonce)
	}
	text := func(id string, nonce []byte) []byte {
		return socketxp.KeyChangeProof(id, publicOf(key), publicOf(next), nonce)
	}
	for name, proof := range map[string]func(nonce []byte) []byte{
		"with the nonce of an old channel":           func([]byte) []byte { return ed25519.Sign(next, text(d.ID, old.Nonce)) },
		"with the nonce of another device's channel": func([]byte) []byte { return ed25519.Sign(next, text(d.ID, elsewhere.Nonce)) },
		"with a nonce of zeros":                      func(n []byte) []byte { return ed25519.Sign(next, text(d.ID, make([]byte, len(n)))) },
		"without a nonce":                            func([]byte) []byte { return ed25519.Sign(next, text(d.ID, nil)) },
		"with a part of the nonce":                   func(n []byte) []byte { return ed25519.Sign(next, text(d.ID, n[:len(n)-1])) },
		"with the nonce twice":                       func(n []byte) []byte { return ed25519.Sign(next, text(d.ID, append(bytes.Clone(n), n...))) },
		"for another device":                         func(n []byte) []byte { return ed25519.Sign(next, text(other.ID, n)) },
		"over a truncated context":                   func(n []byte) []byte { return ed25519.Sign(next, text(d.ID, n)[1:]) },
		"without its context":                        func(n []byte) []byte { return ed25519.Sign(next, slices.Concat(publicOf(key), publicOf(next), n)) },
		"with an end of zeros": func(n []byte) []byte {
			return append(ed25519.Sign(next, text(d.ID, n))[:ed25519.SignatureSize-16], make([]byte, 16)...)
		},
		"of zeros": func([]byte) []byte { return make([]byte, ed25519.SignatureSize) },
	} {
		t.Run("K-12 "+name, func(t *testing.T) {
			a, welcome := w.online(d, key) // each on a channel of its own: none may ask too often
			defer func() { _ = a.conn.Close() }()
			m := keyChange(d, key, next, welcome.Nonce)
			m.Proof = proof(welcome.Nonce)
			a.send(m)
			if m := expect[control.KeyRefused](a); m.Code != socketxp.CodeForbidden {
				t.Errorf("%+v", m)
			}
		})
	}
	if n := w.audited(w.account.ID, "device.stage-key", ""); n != 0 {
		t.Fatalf("%d keys were staged", n)
	}
	a, welcome := w.online(d, key)
	a.send(keyChange(d, key, next, welcome.Nonce))
	expect[control.KeyStaged](a)
}
