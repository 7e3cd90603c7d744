package link

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"socketxp"
)

// shakeHands lets both ends do their handshake and then one round trip of a
// connection, and returns how each fared.
func shakeHands(t *testing.T, r *relayed, asVisitor, asDevice func(raw net.Conn) (*Link, error)) (visitorErr, deviceErr error) {
	t.Helper()
	rawV, rawD := r.raw()
	var both sync.WaitGroup
	both.Go(func() {
		visitorErr = func() error {
			l, err := asVisitor(rawV)
			if err != nil {
				return err
			}
			defer func() { _ = l.Close() }()
			c, err := l.Open()
			if err != nil {
				return err
			}
			if _, err := c.Write([]byte("x")); err != nil {
				return err
			}
			_, err = c.Read(make([]byte, 1))
			return err
		}()
	})
	both.Go(func() {
		deviceErr = func() error {
			l, err := asDevice(rawD)
			if err != nil {
				return err
			}
			defer func() { _ = l.Close() }()
			c, err := l.Accept()
			if err != nil {
				return err
			}
			if _, err := c.Read(make([]byte, 1)); err != nil {
				return err
			}
			_, err = c.Write([]byte("x"))
			if err == nil {
				_, err = c.Read(make([]byte, 1)) // until the visitor has gone
				if err != nil && !errors.Is(err, net.ErrClosed) {
					err = nil
				}
			}
			return err
		}()
	})
	within(t, "the handshake", both.Wait)
	return visitorErr, deviceErr
}

func visit(key ed25519.PrivateKey, deviceKey ed25519.PublicKey, destination string) func(net.Conn) (*Link, error) {
	return func(raw net.Conn) (*Link, error) {
		return Visit(context.Background(), raw, ticket, key, deviceKey, destination)
	}
}

func serve(key ed25519.PrivateKey, visitorKey ed25519.PublicKey, destination string) func(net.Conn) (*Link, error) {
	return func(raw net.Conn) (*Link, error) {
		return Serve(context.Background(), raw, ticket, key, visitorKey, destination)
	}
}

func TestHandshake(t *testing.T) {
	k, other := newKeys(), newKeys()
	r := newRelayed(t, nil)
	good := func() { // the frame of these tests works at all
		t.Helper()
		if v, d := shakeHands(t, r, visit(k.visitor, public(k.device), destination), serve(k.device, public(k.visitor), destination)); v != nil || d != nil {
			t.Fatal(v, d)
		}
	}
	good()
	t.Run("another device than expected", func(t *testing.T) {
		v, d := shakeHands(t, r, visit(k.visitor, public(other.device), destination), serve(k.device, public(k.visitor), destination))
		if !errors.Is(v, ErrWrongKey) || d == nil {
			t.Fatal(v, d)
		}
	})
	t.Run("another visitor than expected", func(t *testing.T) {
		v, d := shakeHands(t, r, visit(k.visitor, public(k.device), destination), serve(k.device, public(other.visitor), destination))
		if v == nil || !errors.Is(d, ErrWrongKey) {
			t.Fatal(v, d)
		}
	})
	t.Run("N-11 another destination than offered", func(t *testing.T) {
		v, d := shakeHands(t, r, visit(k.visitor, public(k.device), "tcp://localhost:5432"), serve(k.device, public(k.visitor), destination))
		if v == nil || socketxp.CodeOf(d) != socketxp.CodeProtocol {
			t.Fatal(v, d)
		}
	})
	t.Run("N-11 a relay that swaps two links of the same keys", func(t *testing.T) {
		// Two visits of one visitor to two tunnels of one device: the relay crosses
		// their halves.
		var both sync.WaitGroup
		for _, d := range [][2]string{{"tcp://localhost:1", "tcp://localhost:2"}, {"tcp://localhost:2", "tcp://localhost:1"}} {
			both.Go(func() {
				v, d := shakeHands(t, r, visit(k.visitor, public(k.device), d[0]), serve(k.device, public(k.visitor), d[1]))
				if v == nil || socketxp.CodeOf(d) != socketxp.CodeProtocol {
					t.Error(v, d)
				}
			})
		}
		both.Wait()
	})
	t.Run("arguments", func(t *testing.T) {
		for name, f := range map[string]func(net.Conn) (*Link, error){
			"no key":         visit(nil, public(k.device), destination),
			"no device key":  visit(k.visitor, nil, destination),
			"no visitor key": serve(k.device, nil, destination),
			"no destination": serve(k.device, public(k.visitor), ""),
			"no ticket": func(raw net.Conn) (*Link, error) {
				return Visit(context.Background(), raw, nil, k.visitor, public(k.device), destination)
			},
		} {
			raw, far := tcpPair(t)
			if _, err := f(raw); err == nil {
				t.Error(name, "was accepted")
			}
			if _, err := far.Read(make([]byte, 1)); err == nil {
				t.Error(name, "left the connection open")
			}
		}
	})
	t.Run("a context that ends", func(t *testing.T) {
		raw, far := tcpPair(t)
		ctx, cancel := context.WithCancelCause(context.Background())
		why := errors.New("the visitor left")
		done := make(chan error, 1)
		go func() {
			_, err := Serve(ctx, raw, ticket, k.device, public(k.visitor), destination)
			done <- err
		}()
		if _, err := io.ReadFull(far, make([]byte, PrefaceSize)); err != nil {
			t.Fatal(err)
		}
		cancel(why)
		if err := <-done; !errors.Is(err, why) {
			t.Fatal(err)
		}
	})
	good()
}

// TestTLSProfile: a device refuses visitors that speak TLS in another way than a
// link's, and the other way round.
func TestTLSProfile(t *testing.T) {
	k := newKeys()
	profile := func(key ed25519.PrivateKey, change func(*tls.Config)) *tls.Config {
		cfg, err := config(key, nil)
		if err != nil {
			t.Fatal(err)
		}
		cfg.VerifyConnection = nil
		change(cfg)
		return cfg
	}
	for name, change := range map[string]func(*tls.Config){
		"TLS 1.2":        func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"no ALPN":        func(c *tls.Config) { c.NextProtos = nil },
		"another ALPN":   func(c *tls.Config) { c.NextProtos = []string{"socketxp-control/1"} },
		"no certificate": func(c *tls.Config) { c.Certificates, c.ClientAuth = nil, tls.NoClientCert },
	} {
		t.Run("device: "+name, func(t *testing.T) {
			raw, far := tcpPair(t)
			go func() {
				_, _ = io.ReadFull(far, make([]byte, PrefaceSize))
				_ = tls.Client(far, profile(k.visitor, change)).Handshake()
			}()
			if _, err := serve(k.device, public(k.visitor), destination)(raw); err == nil {
				t.Fatal("accepted")
			}
		})
		t.Run("visitor: "+name, func(t *testing.T) {
			raw, far := tcpPair(t)
			go func() {
				_, _ = io.ReadFull(far, make([]byte, PrefaceSize))
				_ = tls.Server(far, profile(k.device, change)).Handshake()
			}()
			if _, err := visit(k.visitor, public(k.device), destination)(raw); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}

func TestNoPlaintextOnTheWire(t *testing.T) {
	var mu sync.Mutex
	var seen bytes.Buffer
	v, d := newRelayed(t, func(_ bool, _ int64, b []byte) {
		mu.Lock()
		defer mu.Unlock()
		seen.Write(b)
	}).links(newKeys())
	vc, dc := open(t, v, d)
	secret := bytes.Repeat([]byte("the reactor's password. "), 10_000)
	go func() {
		_, _ = vc.Write(secret)
		_ = vc.CloseWrite()
	}()
	got, err := io.ReadAll(dc)
	if err != nil || !bytes.Equal(got, secret) {
		t.Fatal(len(got), err)
	}
	mu.Lock()
	defer mu.Unlock()
	if seen.Len() < len(secret) {
		t.Fatal("the relay saw only", seen.Len(), "bytes")
	}
	for _, word := range []string{"reactor", "localhost", "tcp:"} {
		if bytes.Contains(seen.Bytes(), []byte(word)) {
			t.Errorf("the relay saw %q", word)
		}
	}
}

// TestFlippedByte: wherever a relay changes a byte, neither end takes anything for
// true that the other has not said, and both find out.
func TestFlippedByte(t *testing.T) {
	k := newKeys()
	text := bytes.Repeat([]byte("0123456789"), 10_000)
	// In each direction: the handshake's parts, then records of a connection.
	offsets := []int64{0, 1, 3, 5, 6, 10, 50, 100, 200, 500, 1000, 1200, 1300, 1400, 1500, 1600, 2000, 3000, 20_000, 60_000, 90_000}
	for _, toDevice := range []bool{true, false} {
		for _, offset := range offsets {
			r := newRelayed(t, func(direction bool, at int64, b []byte) {
				if i := offset - at; direction == toDevice && i >= 0 && i < int64(len(b)) {
					b[i] ^= 0x40
				}
			})
			rawV, rawD := r.raw()
			var failed [2]error
			var both sync.WaitGroup
			// A changed length makes an end wait for what never comes.
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			end := func(failed *error, shake func() (*Link, error), next func(*Link) (*Conn, error)) {
				both.Go(func() {
					l, err := shake()
					if err != nil {
						*failed = err
						return
					}
					defer func() { _ = l.Close() }()
					c, err := next(l)
					if err != nil {
						*failed = err
						return
					}
					_ = c.SetDeadline(time.Now().Add(time.Second))
					go func() {
						_, _ = c.Write(text)
						_ = c.CloseWrite()
					}()
					got, err := io.ReadAll(c)
					if !bytes.HasPrefix(text, got) {
						t.Errorf("to device %v, byte %d: an end has read what was never sent", toDevice, offset)
					}
					*failed = err
				})
			}
			end(&failed[0], func() (*Link, error) {
				return Visit(ctx, rawV, ticket, k.visitor, public(k.device), destination)
			}, (*Link).Open)
			end(&failed[1], func() (*Link, error) {
				return Serve(ctx, rawD, ticket, k.device, public(k.visitor), destination)
			}, (*Link).Accept)
			within(t, "a flipped byte", both.Wait)
			if failed[0] == nil && failed[1] == nil {
				t.Errorf("to device %v, byte %d: nobody noticed", toDevice, offset)
			}
		}
	}
}

// TestHandshakeEnds: a peer that says nothing does not hold an end for ever.
func TestHandshakeEnds(t *testing.T) {
	k := newKeys()
	for name, f := range map[string]func(net.Conn) (*Link, error){
		"visitor": visit(k.visitor, public(k.device), destination),
		"device":  serve(k.device, public(k.visitor), destination),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				raw, far := net.Pipe()
				go func() { _, _ = io.Copy(io.Discard, far) }()
				start := time.Now()
				if _, err := f(raw); !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				if took := time.Since(start); took != handshakeLimit {
					t.Error("it took", took)
				}
			})
		})
	}
}
