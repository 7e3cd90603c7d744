package gateway

import (
	"crypto/ed25519"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"socketxp"
	"socketxp/internal/api"
	"socketxp/internal/terminal"
)

// sshServer is a device's own sshd, as far as a terminal sees it.
type sshServer struct {
	t        *testing.T
	listener net.Listener
	running  sync.WaitGroup

	mu       sync.Mutex // guards the following
	hostKey  ssh.Signer
	password string
	key      ssh.PublicKey
	tried    []string // the methods of sign-in that were tried, in turn
	conns    []net.Conn
}

func newSSHServer(t *testing.T) *sshServer {
	t.Helper()
	s := &sshServer{t: t, listener: must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0")), password: "canary-of-a-password"}
	s.newHostKey()
	s.running.Go(func() {
		for {
			c, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.running.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = s.listener.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			_ = c.Close()
		}
		s.mu.Unlock()
		s.running.Wait()
	})
	return s
}

func (s *sshServer) newHostKey() {
	s.t.Helper()
	signer := must[ssh.Signer](s.t)(ssh.NewSignerFromKey(newKey(s.t)))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hostKey = signer
}

func (s *sshServer) port() int { return s.listener.Addr().(*net.TCPAddr).Port }

func (s *sshServer) methods() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.tried, " ")
}

func (s *sshServer) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	s.mu.Lock()
	cfg := &ssh.ServerConfig{
		PasswordCallback: func(_ ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			if string(password) != s.password {
				return nil, io.EOF
			}
			return nil, nil
		},
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.key == nil || string(key.Marshal()) != string(s.key.Marshal()) {
				return nil, io.EOF
			}
			return nil, nil
		},
		AuthLogCallback: func(_ ssh.ConnMetadata, method string, _ error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.tried = append(s.tried, method)
		},
	}
	cfg.AddHostKey(s.hostKey)
	s.mu.Unlock()
	conn, channels, requests, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		return
	}
	s.running.Go(func() { ssh.DiscardRequests(requests) })
	for n := range channels {
		ch, requests, err := n.Accept()
		if err != nil {
			return
		}
		s.running.Go(func() {
			for r := range requests {
				_ = r.Reply(true, nil)
				if r.Type == "shell" {
					s.running.Go(func() {
						_, _ = fmt.Fprintf(ch, "hello %s\r\n", conn.User())
						_, _ = io.Copy(ch, ch)
						_ = ch.Close()
					})
				}
			}
		})
	}
}

func TestTerminalSSHD(t *testing.T) {
	w := start(t, func(l *limits) {
		l.http.terminals = quota{1000, 1000}
		l.http.passwordWait = 500 * time.Millisecond
	})
	sshd := newSSHServer(t)
	d := w.agentDevice("pi", fmt.Sprintf("tcp://127.0.0.1:%d", sshd.port()))
	p := w.person()
	request := func(signIn any) string {
		return string(must[[]byte](t)(json.Marshal(map[string]any{"port": sshd.port(), "user": "pi", "sign_in": signIn})))
	}
	byPassword := request(map[string]any{"method": "password", "password": sshd.password})
	look := func(body string) (api.Terminal, *screen) {
		t.Helper()
		opened := p.open(d, body)
		return opened, p.attach(opened.ID, opened.Ticket, 0)
	}
	trusted := func() int { return w.audited(w.account.ID, "device.trust-host-key", "") }

	var fingerprint string
	t.Run("nothing is sent to a server whose key nobody has trusted", func(t *testing.T) {
		opened, s := look(byPassword)
		fingerprint = ssh.FingerprintSHA256(sshd.hostKey.PublicKey())
		if k := opened.HostKey; k.State != "new" || k.Fingerprint != fingerprint || k.Type != "ssh-ed25519" || k.KnownFingerprint != "" {
			t.Fatalf("host key %+v", k)
		}
		shown := s.state("host-key")["host_key"].(map[string]any)
		if shown["fingerprint"] != fingerprint || shown["state"] != "new" {
			t.Fatalf("shown %v", shown)
		}
		if tried := sshd.methods(); tried != "" {
			t.Fatalf("tried %q", tried)
		}
		s.say(map[string]any{"type": "trust"})
		s.state("open")
		s.seen("hello pi")
		if trusted() != 1 {
			t.Error("it is not audited")
		}
		k := must[socketxp.HostKey](t)(w.store.HostKey(t.Context(), w.account.ID, d.ID, sshd.port()))
		if k.TrustedBy != w.owner.ID || k.TrustedAt.IsZero() {
			t.Errorf("stored %+v", k)
		}
	})
	t.Run("the key is remembered", func(t *testing.T) {
		opened, s := look(byPassword)
		if opened.HostKey.State != "known" {
			t.Fatalf("host key %+v", opened.HostKey)
		}
		s.state("open")
	})
	t.Run("a wrong password is told after the attach", func(t *testing.T) {
		_, s := look(request(map[string]any{"method": "password", "password": "wrong"}))
		if end := s.state("ended"); end["reason"] != "refused" {
			t.Fatalf("ended %v", end)
		}
	})
	// Its passphrase costs one round: the 16 that the library makes take seconds with the
	// race detector.
	locked := string(must[[]byte](t)(os.ReadFile("testdata/key_with_passphrase")))
	private := *must[any](t)(ssh.ParseRawPrivateKeyWithPassphrase([]byte(locked), []byte("secret"))).(*ed25519.PrivateKey)
	sshd.mu.Lock()
	sshd.key = must[ssh.PublicKey](t)(ssh.NewPublicKey(private.Public()))
	sshd.mu.Unlock()
	open := string(pem.EncodeToMemory(must[*pem.Block](t)(ssh.MarshalPrivateKey(private, ""))))
	t.Run("by a key", func(t *testing.T) {
		for _, in := range []map[string]any{{"method": "key", "key": open}, {"method": "key", "key": locked, "passphrase": "secret"}} {
			_, s := look(request(in))
			s.state("open")
			s.typed("what is typed")
			s.seen("what is typed")
		}
	})
	t.Run("X-01 passphrases are tried one at a time, and no sign-in waits for them", func(t *testing.T) {
		leave, err := w.g.rest.passphrases.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		by := request(map[string]any{"method": "key", "key": locked, "passphrase": "secret"})
		p.rest.do(post, "/api/v1/devices/"+d.ID+"/terminals", by, cookie(p.cookie)...).want(t, http.StatusServiceUnavailable, socketxp.CodeUnavailable)
		if _, err := w.g.rest.passwords.hash(t.Context(), "somebody signs in"); err != nil {
			t.Error(err)
		}
		leave()
		_, s := look(by)
		s.state("open")
	})
	t.Run("what can't be a sign-in is refused at once", func(t *testing.T) {
		for _, in := range []map[string]any{
			{"method": "key", "key": locked},
			{"method": "key", "key": locked, "passphrase": "wrong"},
			{"method": "key", "key": "no key"},
			{"method": "key"},
			{"method": "password"},
			{"method": "password", "password": "x", "key": open},
			{"method": "grant"},
			{"method": "grant", "password": "x"},
			{"method": "other"},
		} {
			p.rest.do(post, "/api/v1/devices/"+d.ID+"/terminals", request(in), cookie(p.cookie)...).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
		}
	})
	t.Run("a device that allows no single-use keys says so", func(t *testing.T) {
		opened := p.rest.do(post, "/api/v1/devices/"+d.ID+"/terminals", request(nil), cookie(p.cookie)...)
		if opened.status != http.StatusForbidden || !strings.Contains(opened.body, "single-use") {
			t.Fatalf("%d %s", opened.status, opened.body)
		}
	})
	t.Run("another key is told, and nothing is sent before it is trusted", func(t *testing.T) {
		sshd.newHostKey()
		sshd.mu.Lock()
		sshd.tried = nil
		sshd.mu.Unlock()
		opened, s := look(byPassword)
		if k := opened.HostKey; k.State != "changed" || k.KnownFingerprint != fingerprint || k.Fingerprint == fingerprint {
			t.Fatalf("host key %+v", k)
		}
		s.state("host-key")
		if tried := sshd.methods(); tried != "" {
			t.Fatalf("tried %q", tried)
		}
		p.rest.do(remove, "/api/v1/terminals/"+opened.ID, "", cookie(p.cookie)...).want(t, http.StatusNoContent, "")
		if reason := s.closed(patience); reason != "closed" {
			t.Fatalf("it was told %q", reason)
		}
		if tried := sshd.methods(); tried != "" || trusted() != 1 {
			t.Fatalf("tried %q, trusted %d", tried, trusted())
		}
		_, s = look(byPassword)
		s.say(map[string]any{"type": "trust"})
		s.state("open")
		if trusted() != 2 {
			t.Error("it is not audited")
		}
	})
	t.Run("a port where nobody listens", func(t *testing.T) {
		_ = sshd.listener.Close()
		p.rest.do(post, "/api/v1/devices/"+d.ID+"/terminals", byPassword, cookie(p.cookie)...).want(t, http.StatusBadGateway, socketxp.CodeDialFailed)
	})
	t.Run("a port that is not published, and a device that is offline", func(t *testing.T) {
		p.rest.do(post, "/api/v1/devices/"+d.ID+"/terminals", `{"port":1}`, cookie(p.cookie)...).want(t, http.StatusNotFound, socketxp.CodeNotPublished)
		off, _ := w.register("off", "sensors")
		p.rest.do(post, "/api/v1/devices/"+off.ID+"/terminals", `{"port":22}`, cookie(p.cookie)...).want(t, http.StatusConflict, socketxp.CodeDeviceOffline)
	})
}

// TestTerminalOwnKey has the built-in server show another key than the device says.
func TestTerminalOwnKey(t *testing.T) {
	w := start(t)
	d := w.agentDevice("kiosk", builtIn)
	key := must[ssh.PublicKey](t)(ssh.NewPublicKey(newKey(t).Public()))
	r := socketxp.DeviceReport{At: w.g.now(), Tunnels: d.Tunnels, Facts: d.Facts, SSHHostKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), GatewayKnownBy: d.GatewayKnownBy}
	if err := w.store.DeviceConnected(t.Context(), w.account.ID, d.ID, r); err != nil {
		t.Fatal(err)
	}
	p := w.person()
	a := p.rest.do(post, "/api/v1/devices/"+d.ID+"/terminals", `{"port":22}`, cookie(p.cookie)...).want(t, http.StatusForbidden, socketxp.CodeForbidden)
	if !strings.Contains(a.body, "host key") {
		t.Errorf("%s", a.body)
	}
	if _, err := terminal.ParseHostKey(r.SSHHostKey); err != nil {
		t.Error(err)
	}
}
