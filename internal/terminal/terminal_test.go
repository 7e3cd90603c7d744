package terminal

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
	"pgregory.net/rapid"

	"socketxp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what should be there at once.
const patience = 30 * time.Second

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-tick.C
	}
}

func TestRing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 20<<10).Draw(t, "limit")
		r := ring{limit: limit}
		var all []byte
		for range rapid.IntRange(1, 30).Draw(t, "writes") {
			p := rapid.SliceOfN(rapid.Byte(), 0, 10<<10).Draw(t, "p")
			r.write(p)
			all = append(all, p...)
			if r.end != int64(len(all)) || r.start() != int64(max(0, len(all)-limit)) || len(r.buf) > limit {
				t.Fatalf("%d to %d of %d bytes in %d", r.start(), r.end, len(all), len(r.buf))
			}
			at := rapid.Int64Range(r.start(), r.end).Draw(t, "at")
			got := make([]byte, rapid.IntRange(1, limit).Draw(t, "n"))
			got = got[:r.read(at, got)]
			if want := all[at:min(int64(len(all)), at+int64(cap(got)))]; !bytes.Equal(got, want) && len(want) > 0 {
				t.Fatalf("from %d: %d bytes, want %d", at, len(got), len(want))
			}
		}
	})
}

func FuzzMessage(f *testing.F) {
	for _, s := range []string{
		`{"type":"attach","from":0}`, `{"type":"attach","from":-1}`, `{"type":"resize","columns":80,"rows":24}`, `{"type":"ack","bytes":9007199254740993}`, `{"type":"trust"}`,
		`{"type":"trust","from":1}`, `{"type":"ack"}`, `{"type":"attach","from":1,"from":2}`, `{"TYPE":"trust"}`, `[]`, `{"type":"resize","columns":1e9,"rows":-5}`, "\xff",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			return
		}
		switch {
		case len(b) > maxText:
			t.Fatal("too long")
		case m.Type == "attach" && *m.From < 0, m.Type == "ack" && *m.Bytes < 0:
			t.Fatal("negative")
		case m.Type == "resize":
			if s := (Size{*m.Columns, *m.Rows}).Clamp(); s.Columns < 1 || s.Columns > maxSide || s.Rows < 1 || s.Rows > maxSide {
				t.Fatalf("size %+v", s)
			}
		case m.Type != "attach" && m.Type != "ack" && m.Type != "trust":
			t.Fatalf("type %q", m.Type)
		}
	})
}

func TestMessages(t *testing.T) {
	for text, ok := range map[string]bool{
		`{"type":"attach","from":5}`: true, `{"type":"attach"}`: false, `{"type":"attach","from":-1}`: false, `{"type":"attach","from":1,"bytes":1}`: false,
		`{"type":"ack","bytes":5}`: true, `{"type":"ack","bytes":-5}`: false, `{"type":"ack"}`: false,
		`{"type":"resize","columns":1,"rows":1}`: true, `{"type":"resize","columns":1}`: false, `{"type":"trust"}`: true, `{"type":"trust","rows":1}`: false,
		`{"type":"other"}`: false, `{}`: false, `{"type":"trust","more":1}`: false, `{"type":"trust","type":"ack"}`: false, strings.Repeat(" ", maxText+1) + `{"type":"trust"}`: false,
	} {
		if _, err := parseMessage([]byte(text)); (err == nil) != ok {
			t.Errorf("%.60s: %v", text, err)
		}
	}
}

func FuzzKey(f *testing.F) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pem.EncodeToMemory(block), []byte(""))
	// One that has a passphrase is in testdata, as ssh-keygen -a 1 makes it: the library
	// makes them of 16 rounds only, which take seconds with the race detector.
	f.Add([]byte("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END OPENSSH PRIVATE KEY-----\n"), []byte("x"))
	f.Fuzz(func(t *testing.T, text, passphrase []byte) {
		in, err := Key(text, passphrase)
		if err == nil && in.signer == nil {
			t.Fatal("no key and no error")
		}
		if err != nil && socketxp.CodeOf(err) != socketxp.CodeInvalid {
			t.Fatalf("the error is %v", err)
		}
	})
}

func TestKeyOfTooManyRounds(t *testing.T) {
	options := ssh.Marshal(struct {
		Salt   string
		Rounds uint32
	}{"0123456789abcdef", maxRounds + 1})
	body := append([]byte(opensshMagic), ssh.Marshal(struct{ Cipher, KDF, Options string }{"aes256-ctr", "bcrypt", string(options)})...)
	text := pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: body})
	if _, err := Key(text, []byte("x")); err == nil || !strings.Contains(err.Error(), "too many rounds") {
		t.Fatalf("%v", err)
	}
}

func TestSecretsAreWiped(t *testing.T) {
	in, err := Password([]byte("canary"))
	if err != nil {
		t.Fatal(err)
	}
	held := in.password
	in.wipe()
	if bytes.Contains(held, []byte("can")) || in.password != nil {
		t.Fatal("the password is still there")
	}
}

// bench is a terminal, the SSH server that it is on, and what serves both.
type bench struct {
	testing.TB
	*Terminal
	hostKey ssh.Signer
	over    chan struct{}
	ran     chan struct{}
	program func(ssh.Channel)
	running sync.WaitGroup
	stop    context.CancelFunc
}

func newBench(t testing.TB, program func(ssh.Channel), change ...func(*Options)) *bench {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{TB: t, hostKey: signer, over: make(chan struct{}), ran: make(chan struct{}), program: program}
	known := newHostKey(signer.PublicKey(), HostKeyKnown)
	o := Options{
		Dial: b.dial, User: "pi", Size: Size{80, 24}, SignIn: Grant(), Known: &known, Sure: true, Limits: DefaultLimits(),
		Trust: func(context.Context, HostKey) error { return nil }, Why: func() *socketxp.Error { return nil }, Over: func() { close(b.over) },
		Fault: func(v any) { t.Errorf("fault: %v", v) },
	}
	for _, f := range change {
		f(&o)
	}
	b.Terminal = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	go func() {
		defer close(b.ran)
		b.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-b.ran
		b.running.Wait()
	})
	return b
}

func (b *bench) dial(context.Context) (net.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.Close() }()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	server, err := l.Accept()
	if err != nil {
		return nil, err
	}
	b.running.Go(func() { b.serve(server) })
	return conn, nil
}

func (b *bench) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	cfg := &ssh.ServerConfig{NoClientAuth: true}
	cfg.AddHostKey(b.hostKey)
	_, channels, requests, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		return
	}
	b.running.Go(func() { ssh.DiscardRequests(requests) })
	for n := range channels {
		ch, requests, err := n.Accept()
		if err != nil {
			return
		}
		b.running.Go(func() {
			for r := range requests {
				_ = r.Reply(true, nil)
				if r.Type == "shell" {
					b.running.Go(func() {
						b.program(ch)
						_ = ch.Close()
					})
				}
			}
		})
	}
}

// page is a person's end.
type page struct {
	in     chan []byte // text messages begin with {
	closed chan struct{}
	close  func()
	attend sync.WaitGroup

	mu     sync.Mutex // guards the following
	output []byte
	count  int64
	said   []map[string]any
	keep   bool
}

func (b *bench) look(from int64) *page {
	p := &page{in: make(chan []byte, 100), closed: make(chan struct{}), keep: true}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	p.say(`{"type":"attach","from":` + jsonOf(from) + `}`)
	p.attend.Go(func() { b.Attach(context.Background(), p) })
	b.Cleanup(func() {
		p.Close()
		p.attend.Wait()
	})
	return p
}

func jsonOf(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

func (p *page) say(text string) { p.in <- []byte(text) }

func (p *page) Read(ctx context.Context) (bool, []byte, error) {
	select {
	case b := <-p.in:
		return bytes.HasPrefix(b, []byte("{")), b, nil
	case <-p.closed:
		return false, nil, io.EOF
	case <-ctx.Done():
		return false, nil, ctx.Err()
	}
}

func (p *page) Write(_ context.Context, text bool, message []byte) error {
	select {
	case <-p.closed:
		return io.ErrClosedPipe
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !text {
		p.count += int64(len(message))
		if p.keep {
			p.output = append(p.output, message...)
		}
		return nil
	}
	var m map[string]any
	if err := json.Unmarshal(message, &m); err != nil {
		return err
	}
	p.said = append(p.said, m)
	return nil
}

func (p *page) Close() { p.close() }

func (p *page) bytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// reason is why the page was told that the terminal is over; "" before.
func (p *page) reason() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.said {
		if m["state"] == stateEnded {
			return m["reason"].(string)
		}
	}
	return ""
}

func flood(ch ssh.Channel) {
	block := bytes.Repeat([]byte("0123456789abcdef"), 2<<10)
	for {
		if _, err := ch.Write(block); err != nil {
			return
		}
	}
}

func echo(ch ssh.Channel) { _, _ = io.Copy(ch, ch) }

func TestFlowControl(t *testing.T) {
	b := newBench(t, flood)
	p := b.look(0)
	still := func() int64 {
		last, since := p.bytes(), time.Now()
		eventually(t, "the program is held up", func() bool {
			if n := p.bytes(); n != last {
				last, since = n, time.Now()
			}
			return last > 0 && time.Since(since) > 200*time.Millisecond
		})
		return last
	}
	first := still()
	if first < window || first > keep {
		t.Fatalf("%d bytes came without one being taken", first)
	}
	p.say(`{"type":"ack","bytes":` + jsonOf(first) + `}`)
	if second := still(); second < first+window || second > first+keep {
		t.Fatalf("%d bytes came after %d were taken", second, first)
	}
	t.Run("and nothing of what was not taken is lost", func(t *testing.T) {
		p.Close()
		p.attend.Wait()
		again := b.look(first)
		eventually(t, "it goes on", func() bool { return again.bytes() > 0 })
		again.mu.Lock()
		defer again.mu.Unlock()
		p.mu.Lock()
		defer p.mu.Unlock()
		if offset := again.said[0]["offset"]; offset != float64(first) {
			t.Fatalf("it goes on from %v, not %d", offset, first)
		}
		n := min(len(p.output[first:]), len(again.output))
		if !bytes.Equal(p.output[first:][:n], again.output[:n]) {
			t.Error("it goes on with other bytes")
		}
	})
}

func TestAttach(t *testing.T) {
	t.Run("more is taken than was sent", func(t *testing.T) {
		b := newBench(t, echo)
		p := b.look(0)
		p.say(`{"type":"ack","bytes":1}`)
		eventually(t, "the end", func() bool { return p.reason() == ReasonMisuse })
		if b.Over() {
			t.Error("it has cost the terminal")
		}
	})
	t.Run("trust that was not asked for", func(t *testing.T) {
		p := newBench(t, echo).look(0)
		p.say(`{"type":"trust"}`)
		eventually(t, "the end", func() bool { return p.reason() == ReasonMisuse })
	})
	t.Run("a program that does not read", func(t *testing.T) {
		p := newBench(t, func(ssh.Channel) { <-t.Context().Done() }).look(0)
		for range 200 {
			select {
			case p.in <- make([]byte, 64<<10):
			case <-p.closed:
			}
		}
		eventually(t, "the end", func() bool { return p.reason() == ReasonMisuse })
	})
	t.Run("the first message is another one", func(t *testing.T) {
		b := newBench(t, echo)
		p := &page{in: make(chan []byte, 1), closed: make(chan struct{})}
		p.close = sync.OnceFunc(func() { close(p.closed) })
		p.say(`{"type":"trust"}`)
		b.Attach(context.Background(), p)
		if len(p.said) != 0 || b.Attached() {
			t.Errorf("it was let in: %v", p.said)
		}
	})
	t.Run("nobody looks", func(t *testing.T) {
		b := newBench(t, echo, func(o *Options) { o.Limits.Detached = 100 * time.Millisecond })
		select {
		case <-b.ran:
		case <-time.After(patience):
			t.Fatal("it lives")
		}
		if b.ending.Reason != ReasonDetached {
			t.Errorf("ended %+v", b.ending)
		}
		<-b.over
	})
	t.Run("nobody trusts the key", func(t *testing.T) {
		b := newBench(t, echo, func(o *Options) { o.Known, o.Sure, o.Limits.Trust = nil, false, 100*time.Millisecond })
		if k, err := b.HostKey(t.Context()); err != nil || k.State != HostKeyNew {
			t.Fatalf("%+v, %v", k, err)
		}
		p := b.look(0)
		eventually(t, "the end", func() bool { return p.reason() == ReasonNotTrusted })
	})
	t.Run("a key that can't be stored is not trusted", func(t *testing.T) {
		b := newBench(t, echo, func(o *Options) {
			o.Known, o.Sure = nil, false
			o.Trust = func(context.Context, HostKey) error { return errors.New("down") }
		})
		p := b.look(0)
		eventually(t, "the question", func() bool { return strings.Contains(jsonOf(p.lastSaid()), stateHostKey) })
		p.say(`{"type":"trust"}`)
		eventually(t, "the end", func() bool { return p.reason() == string(socketxp.CodeInternal) })
	})
	t.Run("not a byte after a cut", func(t *testing.T) {
		b := newBench(t, flood)
		p := b.look(0)
		eventually(t, "output", func() bool { return p.bytes() > 0 })
		b.Cut(Ending{Reason: "x", Message: "y"})
		eventually(t, "the end", func() bool { return p.reason() == "x" })
		p.attend.Wait()
		n := p.bytes()
		<-b.ran
		if p.bytes() != n {
			t.Error("more came")
		}
	})
}

func TestUsed(t *testing.T) {
	b := newBench(t, echo)
	p := b.look(0)
	// arrived waits until all that was said before was taken.
	n := 0
	arrived := func(typed string) {
		t.Helper()
		p.in <- []byte(typed)
		n += len(typed)
		eventually(t, "it is echoed", func() bool { return p.bytes() == int64(n) })
	}
	p.say(`{"type":"resize","columns":70,"rows":20}`)
	arrived("\x1b[?62;4c") // what a screen says that was asked what it is
	if b.Used() {
		t.Error("nobody has typed")
	}
	arrived("l")
	arrived("\x1b[A")
	if !b.Used() {
		t.Error("somebody has typed")
	}
	if b.Used() {
		t.Error("nobody has typed since")
	}
}

func (p *page) lastSaid() map[string]any {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.said) == 0 {
		return nil
	}
	return p.said[len(p.said)-1]
}

// BenchmarkOutput has a program put out what it can, and a screen that takes it.
func BenchmarkOutput(b *testing.B) {
	bench := newBench(b, flood)
	p := bench.look(0)
	p.mu.Lock()
	p.keep = false
	p.mu.Unlock()
	eventually(b, "output", func() bool { return p.bytes() > 0 })
	const block = 256 << 10
	b.SetBytes(block)
	b.ResetTimer()
	from := p.bytes()
	for i := range b.N {
		for want := from + int64(i+1)*block; p.bytes() < want; {
			n := p.bytes()
			p.say(`{"type":"ack","bytes":` + jsonOf(n) + `}`)
			runtime.Gosched()
		}
	}
}

func TestNotTaken(t *testing.T) {
	for text, want := range map[string]bool{
		"ssh: handshake failed: ssh: unable to authenticate, attempted methods [none password], no supported methods remain": true,
		"ssh: handshake failed: ssh: unexpected message type 51 (expected 60)":                                               true,
		"ssh: handshake failed: EOF": false,
		"ssh: handshake failed: ssh: unexpected message type 51 (expected 20)": false,
		"ssh: overflow reading version string":                                 false,
	} {
		if got := notTaken(errors.New(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}
