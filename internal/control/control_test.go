package control

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"socketxp"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	anID      = "01a20baf-20ae-7456-abf9-67d074fdbbf2"
	anotherID = "01a20baf-20ae-7cd7-bd94-a53a4dd76c2f"
)

var (
	ticket = bytes.Repeat([]byte{7}, socketxp.LinkTicketSize)
	pubKey = bytes.Repeat([]byte{9}, ed25519.PublicKeySize)

	signature = bytes.Repeat([]byte{5}, ed25519.SignatureSize)
)

// Two pins of a gateway's keys.
const (
	aPin       = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
	anotherPin = "AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
)

// samples holds one good message of each type, with every field set.
var samples = []Message{
	Hello{Version: 1, Role: RoleDevice, Agent: "1.0"},
	Report{
		Facts: socketxp.Facts{
			OS: "linux", Arch: "arm64", Kernel: "6.12.0", Hostname: "pi", Version: "1.0", LocalAddrs: []string{"192.168.1.7", "fd00::7"},
		},
		SSHHostKey: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJ",
		Tunnels:    []ReportTunnel{{Destination: "tcp://localhost:22", SSH: true}, {Destination: "https://[::1]:8443"}},

		GatewayKnownBy: aPin + " " + anotherPin,
		Sequence:       ticket, // of the same size
	},
	Welcome{Version: 1, Gateway: "1.0", DeviceID: anID, DeviceName: "sensor12345", DeviceGroup: "temp-sensor", Nonce: pubKey, GatewayPins: []string{aPin, anotherPin}, Heartbeat: 60},
	Refused{Code: socketxp.CodeDeviceDisabled, Message: "the device is disabled", Hint: "ask an owner", RetryAfter: 60},
	GoAway{Message: "the gateway restarts", RetryAfter: 5},
	Offer{SessionID: anID, Ticket: ticket, VisitorKey: pubKey, Destination: "tcp://localhost:22"},
	OfferRefused{Ticket: ticket, Code: socketxp.CodeNotPublished, Message: "not published"},
	Logout{},
	LoggedOut{},
	Visit{Visit: 1, Token: "a.b.c", DeviceName: "sensor12345", Host: "localhost", Port: 22},
	Granted{
		Visit: 1, SessionID: anotherID, DeviceID: anID, DeviceName: "sensor12345", DeviceKey: pubKey, SSHHostKey: "ssh-ed25519 AAAA",
		Vouchers:    []Voucher{{Key: pubKey, Vouch: signature}, {Key: pubKey, Vouch: signature}},
		Destination: "tcp://localhost:22", SSH: true, ExpiresAt: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC),
	},
	Ended{Visit: 1, Code: socketxp.CodeSessionEnded, Message: "ended", Hint: "ask"},
	Leave{Visit: 1},
	LinkRequest{Visit: 1, Link: 2},
	LinkTicket{Visit: 1, Link: 2, Ticket: ticket},
	LinkRefused{Visit: 1, Link: 2, Code: socketxp.CodeDeviceOffline, Message: "offline", Hint: "later"},
	GatewayKeys{Pins: []string{aPin, anotherPin}},
	SequenceNext{Next: ticket},
	SequenceKept{Next: ticket},
	SequenceCheck{Nonce: pubKey}, // of the same size
	SequenceHeld{Nonce: pubKey},
	KeyDue{},
	KeyChange{Next: pubKey, Proof: signature, Vouch: signature},
	KeyStaged{Next: pubKey},
	KeyRefused{Code: socketxp.CodeConflict, Message: "no", Hint: "later"},
	PlaceKey{ID: anID, Destination: "tcp://localhost:22", User: "pi", PublicKey: pubKey, Life: 30},
	KeyPlaced{ID: anID, User: "pi"},
	KeyNotPlaced{ID: anID, Code: socketxp.CodeForbidden, Message: "no", Hint: "later"},
	RemoveKey{ID: anID},
	KeyRemoved{ID: anID},
}

// sampleFor returns a good message of r's type as it is on a channel of role.
func sampleFor(r *rule, role Role) Message {
	for _, m := range samples {
		if reflect.TypeOf(m) != reflect.TypeOf(r.sample) {
			continue
		}
		switch m := m.(type) {
		case Hello:
			m.Role = role
			return m
		case Welcome:
			if role == RoleVisitor {
				m.Nonce = nil
				m.DeviceID, m.DeviceName, m.DeviceGroup = "", "", ""
			}
			return m
		}
		return m
	}
	return nil
}

// transports are the ways in which two ends are put together.
var transports = map[string]func(t *testing.T) (agent, gateway net.Conn){
	"pipe": func(t *testing.T) (net.Conn, net.Conn) {
		a, g := net.Pipe()
		closeAfter(t, a, g)
		return a, g
	},
	"TCP": tcpPair,
	"TCP byte by byte": func(t *testing.T) (net.Conn, net.Conn) {
		a, g := tcpPair(t)
		return dribble{a}, dribble{g}
	},
	"TLS": func(t *testing.T) (net.Conn, net.Conn) {
		a, g := tcpPair(t)
		return tlsPair(t, a, g)
	},
}

func closeAfter(t *testing.T, conns ...net.Conn) {
	t.Cleanup(func() {
		for _, c := range conns {
			_ = c.Close()
		}
	})
}

func tcpPair(t *testing.T) (net.Conn, net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	g, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, a, g)
	return a, g
}

func tlsPair(t *testing.T, a, g net.Conn) (net.Conn, net.Conn) {
	cert, err := socketxp.KeyCertificate(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	client := tls.Client(a, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{ALPN}})
	server := tls.Server(g, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{ALPN}})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// dribble writes one byte at a time.
type dribble struct{ net.Conn }

func (d dribble) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := d.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

// say sends messages from one end and checks that they arrive at the other.
func say(t *testing.T, from, to *Conn, messages ...Message) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		for _, m := range messages {
			if err := from.Send(t.Context(), m); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for _, want := range messages {
		if got, err := to.Receive(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("received %+v, %v, want %+v", got, err, want)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

// opened returns two ends over conns that have come to the state open.
func opened(t *testing.T, role Role, a, g net.Conn, o Options) (agent, gateway *Conn) {
	t.Helper()
	agent, gateway = NewAgent(a, role, o), NewGateway(g, o)
	t.Cleanup(func() { _, _ = agent.Close(), gateway.Close() })
	say(t, agent, gateway, sampleFor(ruleByType[reflect.TypeFor[Hello]()], role))
	if role == RoleDevice {
		say(t, agent, gateway, Report{Tunnels: []ReportTunnel{}})
		say(t, gateway, agent, SequenceCheck{Nonce: pubKey})
		say(t, agent, gateway, SequenceHeld{Nonce: pubKey})
		say(t, gateway, agent, SequenceNext{Next: ticket})
		say(t, agent, gateway, SequenceKept{Next: ticket})
	}
	welcome := sampleFor(ruleByType[reflect.TypeFor[Welcome]()], role).(Welcome)
	welcome.Heartbeat = int(o.Heartbeat / time.Second)
	if o.Heartbeat > MaxHeartbeat {
		welcome.Heartbeat = 0
	}
	say(t, gateway, agent, welcome)
	return agent, gateway
}

func pipe(t *testing.T) (net.Conn, net.Conn) { return transports["pipe"](t) }

func TestConversations(t *testing.T) {
	for name, connect := range transports {
		t.Run(name+"/device", func(t *testing.T) {
			ac, gc := connect(t)
			agent, gateway := opened(t, RoleDevice, ac, gc, Options{})
			offer := sampleFor(ruleByType[reflect.TypeFor[Offer]()], RoleDevice)
			say(t, gateway, agent, offer, offer, samples[4], samples[16])
			say(t, agent, gateway, samples[6], samples[1])
			say(t, agent, gateway, Logout{})
			say(t, gateway, agent, offer)
			say(t, agent, gateway, samples[6])
			say(t, gateway, agent, LoggedOut{})
			closing(t, gateway, agent)
		})
		t.Run(name+"/visitor", func(t *testing.T) {
			ac, gc := connect(t)
			agent, gateway := opened(t, RoleVisitor, ac, gc, Options{})
			say(t, agent, gateway, samples[9])
			say(t, gateway, agent, samples[10])
			say(t, agent, gateway, samples[13])
			say(t, gateway, agent, samples[14], samples[15], samples[11], samples[4], samples[16])
			say(t, agent, gateway, samples[12])
			closing(t, agent, gateway)
		})
		t.Run(name+"/refused", func(t *testing.T) {
			ac, gc := connect(t)
			agent, gateway := NewAgent(ac, RoleDevice, Options{}), NewGateway(gc, Options{})
			say(t, agent, gateway, samples[0], samples[1])
			say(t, gateway, agent, samples[3])
			closing(t, gateway, agent)
		})
	}
}

// closing checks that the one end sees the other one's orderly close.
func closing(t *testing.T, first, second *Conn) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := second.Receive(t.Context())
		done <- err
	}()
	if err := errors.Join(first.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, io.EOF) {
		t.Errorf("the other end got %v, want EOF", err)
	}
	if _, err := first.Receive(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Receive after Close = %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

func TestConcurrentSend(t *testing.T) {
	ac, gc := tcpPair(t)
	agent, gateway := opened(t, RoleVisitor, ac, gc, Options{})
	const senders, each = 8, 50
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				if err := agent.Send(t.Context(), LinkRequest{Visit: uint32(s), Link: uint32(i)}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	next := make([]uint32, senders)
	for range senders * each {
		m, err := gateway.Receive(t.Context())
		r, ok := m.(LinkRequest)
		if err != nil || !ok || r.Link != next[r.Visit] {
			t.Fatalf("received %+v, %v", m, err)
		}
		next[r.Visit]++
	}
	wg.Wait()
}

func TestContext(t *testing.T) {
	for _, end := range []string{"agent", "gateway"} {
		t.Run("Receive/"+end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ac, gc := pipe(t)
				agent, gateway := opened(t, RoleDevice, ac, gc, Options{})
				c := map[string]*Conn{"agent": agent, "gateway": gateway}[end]
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := c.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Receive = %v", err)
				}
				if _, err := c.Receive(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Receive again = %v, want why it was closed", err)
				}
			})
		})
		t.Run("Send/"+end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ac, gc := pipe(t)
				agent, gateway := opened(t, RoleDevice, ac, gc, Options{})
				c, m := agent, samples[6]
				if end == "gateway" {
					c, m = gateway, samples[5]
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := c.Send(ctx, m); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Send = %v", err)
				}
			})
		})
	}
	t.Run("Close wakes Receive", func(t *testing.T) {
		ac, gc := tcpPair(t)
		agent, gateway := opened(t, RoleDevice, ac, gc, Options{})
		done := make(chan error, 2)
		for _, c := range []*Conn{agent, gateway} {
			go func() {
				_, err := c.Receive(t.Context())
				done <- err
			}()
		}
		_ = gateway.Close()
		for range 2 {
			if err := <-done; !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		}
	})
}

// An idle device must cost the gateway the goroutine that is in Receive and no
// other.
func TestIdleGoroutines(t *testing.T) {
	const devices = 50
	ctx, cancel := context.WithCancel(t.Context())
	var gateways []*Conn
	var agents []*Conn
	for range devices {
		ac, gc := pipe(t)
		agent, gateway := opened(t, RoleDevice, ac, gc, Options{})
		gateways, agents = append(gateways, gateway), append(agents, agent)
	}
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	for _, c := range gateways {
		wg.Go(func() { _, _ = c.Receive(ctx) })
	}
	if n := runtime.NumGoroutine() - before; n != devices {
		t.Errorf("%d idle devices have %d goroutines", devices, n)
	}
	cancel()
	wg.Wait()
	for _, c := range agents {
		_ = c.Close()
	}
}

func TestSendRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		gateway bool
		m       Message
	}{
		"nil":                           {false, nil},
		"a pointer":                     {false, &OfferRefused{Ticket: ticket, Code: "invalid"}},
		"a message of the other end":    {false, samples[5]},
		"a message of another role":     {false, samples[9]},
		"a message of another state":    {true, LoggedOut{}},
		"a field out of bounds":         {true, Offer{SessionID: anID, Ticket: ticket[1:], VisitorKey: pubKey, Destination: "tcp://localhost:22"}},
		"a destination not canonical":   {false, Report{Tunnels: []ReportTunnel{{Destination: "tcp://LOCALHOST:22"}}}},
		"a second Hello":                {false, samples[0]},
		"a host key that is no line":    {false, Report{SSHHostKey: "ssh-ed25519 AAAA\ncommand=x"}},
		"a refusal without a code":      {true, Refused{Message: "x"}},
		"a refusal with a strange code": {true, Refused{Code: "\x1b[2J", Message: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			ac, gc := pipe(t)
			agent, gateway := opened(t, RoleDevice, ac, gc, Options{})
			end := agent
			if c.gateway {
				end = gateway
			}
			if err := end.Send(t.Context(), c.m); err == nil {
				t.Error("it was sent")
			}
			if _, err := end.Receive(t.Context()); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("the channel is still open: %v", err)
			}
		})
	}
	t.Run("Hello of another role", func(t *testing.T) {
		ac, _ := pipe(t)
		agent := NewAgent(ac, RoleVisitor, Options{})
		if err := agent.Send(t.Context(), samples[0]); err == nil {
			t.Error("it was sent")
		}
	})
}

// What comes from an operating system or an error text must not end a channel.
func TestHostileTextIsTidied(t *testing.T) {
	hostile := "\x1b[2J\u202e\x00\n\xff" + strings.Repeat("ü", 1000)
	ac, gc := tcpPair(t)
	agent, gateway := NewAgent(ac, RoleDevice, Options{}), NewGateway(gc, Options{})
	t.Cleanup(func() { _, _ = agent.Close(), gateway.Close() })
	addrs := make([]string, 40)
	for i := range addrs {
		addrs[i] = hostile
	}
	report := Report{
		Facts:   socketxp.Facts{OS: hostile, Arch: hostile, Kernel: hostile, Hostname: hostile, Version: hostile, LocalAddrs: addrs},
		Tunnels: []ReportTunnel{},
	}
	for _, m := range []Message{samples[0], report} {
		if err := agent.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		got, err := gateway.Receive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r, ok := got.(Report); ok && (!strings.HasPrefix(r.Facts.Hostname, "?[2J????ü") || len(r.Facts.LocalAddrs) != 16) {
			t.Errorf("received %+v", r.Facts)
		}
	}
	if err := gateway.Send(t.Context(), Refused{Code: "internal", Message: hostile, Hint: hostile}); err != nil {
		t.Fatal(err)
	}
	got, err := agent.Receive(t.Context())
	r, ok := got.(Refused)
	if err != nil || !ok || !strings.HasPrefix(r.Message, "?[2J????ü") || len([]rune(r.Hint)) != 500 {
		t.Errorf("received %+v, %v", got, err)
	}
	if report.Facts.LocalAddrs[0] != hostile {
		t.Error("the caller's message was changed")
	}
}

// The largest messages that pass the checks fit their frames.
func TestLargestMessages(t *testing.T) {
	wide, escaped := strings.Repeat("𐀀", maxText), strings.Repeat("<", maxText)
	addrs := make([]string, maxAddrs)
	for i := range addrs {
		addrs[i] = escaped[:maxFact]
	}
	fact := escaped[:maxFact]
	report := Report{
		Facts:      socketxp.Facts{OS: fact, Arch: fact, Kernel: fact, Hostname: fact, Version: fact, LocalAddrs: addrs},
		SSHHostKey: strings.Repeat("<", maxHostKey),
	}
	host := strings.Repeat(strings.Repeat("a", 62)+".", 4)[:248]
	for i := range socketxp.MaxTunnels {
		d := socketxp.Destination{Scheme: "https", Host: host, Port: 65535 - i}
		report.Tunnels = append(report.Tunnels, ReportTunnel{Destination: d.String(), SSH: true})
	}
	ac, gc := tcpPair(t)
	agent, gateway := NewAgent(ac, RoleDevice, Options{}), NewGateway(gc, Options{})
	t.Cleanup(func() { _, _ = agent.Close(), gateway.Close() })
	say(t, agent, gateway, samples[0], report)
	say(t, gateway, agent, samples[2])
	for _, text := range []string{wide, escaped} {
		say(t, agent, gateway, OfferRefused{Ticket: ticket, Code: "invalid", Message: text})
	}
	say(t, gateway, agent, Refused{Code: "invalid", Message: wide, Hint: escaped, RetryAfter: maxRetryAfter})
}

func wantCode(t *testing.T, err error, code socketxp.Code) {
	t.Helper()
	if socketxp.CodeOf(err) != code {
		t.Errorf("error %v, want code %s", err, code)
	}
}

// BenchmarkOffer is the message that each new link costs, from end to end.
func BenchmarkOffer(b *testing.B) {
	a, g := net.Pipe()
	agent, gateway := NewAgent(a, RoleDevice, Options{}), NewGateway(g, Options{})
	defer func() { _ = errors.Join(agent.Close(), gateway.Close()) }()
	ctx := b.Context()
	got := make(chan error, 1)
	receive := func(c *Conn) {
		_, err := c.Receive(ctx)
		got <- err
	}
	for _, m := range samples {
		var from, to *Conn
		switch m.(type) {
		case Hello, Report:
			from, to = agent, gateway
		case Welcome:
			from, to = gateway, agent
		default:
			continue
		}
		go receive(to)
		if err := errors.Join(from.Send(ctx, m), <-got); err != nil {
			b.Fatal(err)
		}
	}
	offer := Offer{SessionID: anID, Ticket: ticket, VisitorKey: pubKey, Destination: "tcp://localhost:22"}
	b.ReportAllocs()
	for b.Loop() {
		go receive(agent)
		if err := errors.Join(gateway.Send(ctx, offer), <-got); err != nil {
			b.Fatal(err)
		}
	}
}
