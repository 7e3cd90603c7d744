package websocket

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what should be there at once.
const patience = 30 * time.Second

// server runs a TLS server whose /door is handled by h, and returns a function that
// dials it.
func server(t *testing.T, h http.HandlerFunc) (dial func() net.Conn, client *http.Client) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /door", h)
	s := httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	return func() net.Conn {
		t.Helper()
		raw, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		cfg := s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		cfg.ServerName = "example.com"
		conn := tls.Client(raw, cfg)
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		return conn
	}, s.Client()
}

// pair returns both ends of a WebSocket over TLS over TCP.
func pair(t *testing.T) (client, other *Conn) {
	t.Helper()
	accepted := make(chan *Conn, 1)
	dial, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		if err := Check(r); err != nil {
			t.Error(err)
		}
		c, err := Accept(w, r)
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	})
	client, err := Client(dial(), "gateway.example.com", "/door")
	if err != nil {
		t.Fatal(err)
	}
	other = <-accepted
	_ = client.SetDeadline(time.Time{})
	t.Cleanup(func() { _, _ = client.Close(), other.Close() })
	return client, other
}

func TestStream(t *testing.T) {
	for _, name := range []string{"from the client", "from the server"} {
		t.Run(name, func(t *testing.T) {
			from, to := pair(t)
			if name == "from the server" {
				from, to = to, from
			}
			want := make([]byte, 3<<20+7)
			_, _ = rand.Read(want)
			sent := make(chan error, 1)
			go func() {
				var err error
				for rest, size := want, 1; len(rest) > 0 && err == nil; size = size*3 + 1 {
					n := min(size, len(rest))
					_, err = from.Write(rest[:n])
					rest = rest[n:]
				}
				sent <- errors.Join(err, from.CloseWrite())
			}()
			got, err := io.ReadAll(to)
			if err := errors.Join(err, <-sent); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("%d bytes came of %d, or others", len(got), len(want))
			}
			// The other direction goes on.
			if _, err := to.Write([]byte("back")); err != nil {
				t.Fatal(err)
			}
			back := make([]byte, 4)
			if _, err := io.ReadFull(from, back); err != nil || string(back) != "back" {
				t.Fatalf("%q %v", back, err)
			}
			if _, err := from.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
				t.Errorf("after its end, Write says %v", err)
			}
			if _, err := to.Read(back); !errors.Is(err, io.EOF) {
				t.Errorf("after its end, Read says %v", err)
			}
		})
	}
}

func TestEnds(t *testing.T) {
	t.Run("Close is an end after all that was said", func(t *testing.T) {
		a, b := pair(t)
		_, _ = a.Write([]byte("last words"))
		_ = a.Close()
		if got, err := io.ReadAll(b); err != nil || string(got) != "last words" {
			t.Fatalf("%q %v", got, err)
		}
	})
	t.Run("a reset is none", func(t *testing.T) {
		a, b := pair(t)
		_ = a.SetLinger(0)
		_ = a.Close()
		if _, err := io.ReadAll(b); err == nil {
			t.Fatal("it looked like an orderly end")
		}
	})
	t.Run("the carrier's end is none", func(t *testing.T) {
		a, b := pair(t)
		_ = a.NetConn().Close() // with TLS's goodbye
		if _, err := io.ReadAll(b); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("it is %v", err)
		}
	})
	t.Run("a close in the middle is none", func(t *testing.T) {
		a, b := pair(t)
		a.writing.Lock()
		err := a.send(opClose, []byte{3, 0xe8})
		a.writing.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(b); err == nil || !strings.Contains(err.Error(), "1000") {
			t.Fatalf("it is %v", err)
		}
	})
	t.Run("Close twice", func(t *testing.T) {
		a, _ := pair(t)
		_ = a.Close()
		if err := a.Close(); !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
	})
	t.Run("Close does not wait for one who writes", func(t *testing.T) {
		a, _ := pair(t)
		stuck := make(chan error, 1)
		go func() {
			for {
				if _, err := a.Write(make([]byte, 1<<20)); err != nil {
					stuck <- err
					return
				}
			}
		}()
		deadline := time.After(patience)
		for a.writing.TryLock() { // until the writer has it
			a.writing.Unlock()
		}
		_ = a.Close()
		select {
		case err := <-stuck:
			if err == nil {
				t.Error("it wrote all of it")
			}
		case <-deadline:
			t.Fatal("the writer is still there")
		}
	})
}

func TestReadDeadline(t *testing.T) {
	a, b := pair(t)
	buf := make([]byte, 100)
	for range 3 { // breaks nothing, however often
		_ = b.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := b.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	// In the middle of a frame, too, wherever it is cut.
	frame := appendFrame(nil, opBinary, []byte("in many parts"), true)
	var got []byte
	for i := range frame {
		if _, err := a.carrier.Write(frame[i : i+1]); err != nil {
			t.Fatal(err)
		}
		_ = b.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		n, err := b.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	_ = b.SetReadDeadline(time.Now().Add(patience))
	for len(got) < len("in many parts") {
		n, err := b.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
	}
	if string(got) != "in many parts" {
		t.Fatalf("%q", got)
	}
}

func TestWriteDeadlineBreaks(t *testing.T) {
	a, _ := pair(t)
	_ = a.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	var err error
	for err == nil {
		_, err = a.Write(make([]byte, 1<<20)) // nobody reads
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("it looks as if one could go on")
	}
	_ = a.SetWriteDeadline(time.Time{})
	if _, again := a.Write([]byte("x")); again == nil {
		t.Error("one can go on in the middle of a frame")
	}
}

// pipes returns both ends over pipes, for a bubble of synctest.
func pipes() (client, other *Conn) {
	x, y := net.Pipe()
	return newConn(x, true, nil), newConn(y, false, nil)
}

func TestSignsOfLife(t *testing.T) {
	t.Run("one who waits is told, and one who was told nothing knows", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := pipes()
			defer func() { _, _ = a.Close(), b.Close() }()
			for _, c := range []*Conn{a, b} {
				c.KeepAlive()
				go func() { _, _ = c.Read(make([]byte, 1)) }()
			}
			time.Sleep(10*time.Minute + beatEvery/2) //nolint:forbidigo // in a bubble of synctest, and not while a sign is on its way
			if err := errors.Join(a.Dead(), b.Dead()); err != nil {
				t.Fatal(err)
			}
			a.mu.Lock()
			a.beat.Stop() // it has gone without a word
			a.mu.Unlock()
			time.Sleep(silenceLimit + time.Second) //nolint:forbidigo // in a bubble of synctest
			if b.Dead() == nil {
				t.Error("nobody noticed")
			}
			if err := a.Dead(); err != nil {
				t.Errorf("the one who heard the other: %v", err)
			}
		})
	})
	t.Run("one who does not read knows nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := pipes()
			defer func() { _, _ = a.Close(), b.Close() }()
			time.Sleep(time.Hour) //nolint:forbidigo // in a bubble of synctest
			if err := a.Dead(); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("without KeepAlive nothing is sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			x, y := net.Pipe()
			a := newConn(x, true, nil)
			heard := make(chan int, 1)
			go func() {
				n, _ := y.Read(make([]byte, 100))
				heard <- n
			}()
			time.Sleep(time.Hour) //nolint:forbidigo // in a bubble of synctest
			select {
			case n := <-heard:
				t.Errorf("%d bytes", n)
			default:
			}
			_ = y.Close()
			_ = a.Close()
		})
	})
	t.Run("a ping is answered with the next sign", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := pipes()
			a.KeepAlive()
			go func() { _, _ = a.Read(make([]byte, 1)) }()
			b.writing.Lock()
			if err := b.send(opPing, []byte("are you there?")); err != nil {
				t.Fatal(err)
			}
			b.writing.Unlock()
			f, err := b.in.next(b.receive)
			if err != nil || f.opcode != opPong || string(f.payload) != "are you there?" {
				t.Errorf("%+v %v", f, err)
			}
			_ = a.NetConn().Close()
			_, _ = a.Close(), b.Close()
		})
	})
}

// TestAgainstCoder is the same text read by somebody else.
func TestAgainstCoder(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	t.Run("their client", func(t *testing.T) {
		ended := make(chan error, 1)
		_, client := server(t, func(w http.ResponseWriter, r *http.Request) {
			if err := Check(r); err != nil {
				t.Error(err)
				return
			}
			c, err := Accept(w, r)
			if err != nil {
				t.Error(err)
				return
			}
			_, err = io.CopyN(c, c, int64(len(text)))
			ended <- err
			_ = c.Close()
		})
		url := "wss://example.com" + "/door"
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		theirs, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{"other", Protocol}}) //nolint:bodyclose // it has none, they say
		if err != nil {
			t.Fatal(err)
		}
		theirs.SetReadLimit(-1)
		go func() {
			w, err := theirs.Writer(ctx, websocket.MessageBinary) // a message of many frames
			for rest := text; len(rest) > 0 && err == nil; rest = rest[min(len(rest), 5000):] {
				_, err = w.Write(rest[:min(len(rest), 5000)])
			}
			if err == nil {
				err = w.Close()
			}
			if err != nil {
				t.Error(err)
			}
		}()
		var got []byte
		for len(got) < len(text) {
			kind, part, err := theirs.Read(ctx)
			if err != nil || kind != websocket.MessageBinary {
				t.Fatal(kind, err)
			}
			got = append(got, part...)
		}
		if !bytes.Equal(got, text) {
			t.Error("other bytes came back")
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if kind, part, err := theirs.Read(ctx); err != nil || kind != websocket.MessageBinary || len(part) != 0 {
			t.Errorf("the end is %v %q %v", kind, part, err)
		}
		if _, _, err := theirs.Read(ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
			t.Errorf("closed with %v", err)
		}
	})
	t.Run("their server", func(t *testing.T) {
		ended := make(chan error, 1)
		dial, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
			theirs, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{Protocol}})
			if err != nil {
				ended <- err
				return
			}
			theirs.SetReadLimit(-1)
			for err == nil {
				var part []byte
				if _, part, err = theirs.Read(r.Context()); err == nil && len(part) > 0 {
					err = theirs.Write(r.Context(), websocket.MessageBinary, part)
				} else if err == nil {
					err = theirs.Write(r.Context(), websocket.MessageBinary, nil)
				}
			}
			ended <- err
		})
		c, err := Client(dial(), "gateway.example.com", "/door")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := c.Write(text)
			if err := errors.Join(err, c.CloseWrite()); err != nil {
				t.Error(err)
			}
		}()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%d bytes came back: %v", len(got), err)
		}
		_ = c.Close()
		if err := <-ended; websocket.CloseStatus(err) != websocket.StatusNormalClosure {
			t.Errorf("it ended with %v", err)
		}
	})
}

func TestClientRefuses(t *testing.T) {
	page := "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 20\r\n\r\n<html>Pay here</html"
	for name, c := range map[string]struct {
		answer, want string
		html         bool
	}{
		"P-12 the page of a captive portal": {page, "a page for people", true},
		"P-12 N-17 its redirection":         {"HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\nContent-Type: text/html\r\n\r\n", "302", true},
		"no such route":                     {"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404", false},
		"another protocol":                  {"SSH-2.0-OpenSSH_9.9\r\n\r\n\r\n", "HTTP", false},
		"N-17 101 without a word":           {"HTTP/1.1 101 Switching Protocols\r\n\r\n", "no WebSocket", false},
		"N-17 101 to something else":        {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", "no WebSocket", false},
		"an answer to somebody else":        {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", "no WebSocket", false},
		"N-17 an interim answer":            {"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", "103", false},
		"N-17 headers without end":          {"HTTP/1.1 101 Switching Protocols\r\n" + strings.Repeat("X-Filler: 0123456789abcdef\r\n", 10_000), "HTTP", false},
	} {
		t.Run(name, func(t *testing.T) {
			x, y := net.Pipe()
			defer func() { _ = y.Close() }()
			go func() {
				_, _ = y.Read(make([]byte, 4096))
				_, _ = io.WriteString(y, c.answer)
			}()
			_ = x.SetDeadline(time.Now().Add(patience))
			_, err := Client(x, "gateway.example.com", "/door")
			_ = x.Close()
			var other *AnswerError
			if !errors.As(err, &other) || other.HTML != c.html || !strings.Contains(err.Error(), c.want) {
				t.Errorf("it is %v", err)
			}
		})
	}
}

func TestServerRefuses(t *testing.T) {
	good := func() *http.Request {
		r := httptest.NewRequest(http.MethodGet, "/door", nil)
		for k, v := range map[string]string{
			"Connection": "keep-alive, Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
			"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": Protocol,
		} {
			r.Header.Set(k, v)
		}
		return r
	}
	if err := Check(good()); err != nil {
		t.Fatalf("a good request: %v", err)
	}
	for name, change := range map[string]func(*http.Request){
		"no upgrade":            func(r *http.Request) { r.Header.Del("Upgrade") },
		"another upgrade":       func(r *http.Request) { r.Header.Set("Upgrade", "h2c") },
		"HTTP/2":                func(r *http.Request) { r.ProtoMajor, r.ProtoMinor = 2, 0 },
		"HTTP/1.0":              func(r *http.Request) { r.ProtoMinor = 0 },
		"another version":       func(r *http.Request) { r.Header.Set("Sec-WebSocket-Version", "8") },
		"a key that is none":    func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", "c2hvcnQ=") },
		"another protocol":      func(r *http.Request) { r.Header.Set("Sec-WebSocket-Protocol", "chat") },
		"a page's script":       func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
		"a page's script, fake": func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
	} {
		r := good()
		change(r)
		var no *RequestError
		if err := Check(r); !errors.As(err, &no) || no.Status < 400 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFramesRefused(t *testing.T) {
	for name, in := range map[string][]byte{
		"not masked":               {0x82, 0x01, 'x'},
		"reserved bit":             {0xc2, 0x80, 0, 0, 0, 0},
		"text":                     {0x81, 0x80, 0, 0, 0, 0},
		"unknown opcode":           {0x83, 0x80, 0, 0, 0, 0},
		"unknown control opcode":   {0x8b, 0x80, 0, 0, 0, 0},
		"a ping in parts":          {0x09, 0x80, 0, 0, 0, 0},
		"a long ping":              {0x89, 0xfe, 0, 126, 0, 0, 0, 0},
		"continues nothing":        {0x80, 0x80, 0, 0, 0, 0},
		"a message in another":     {0x02, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0},
		"a length in too many":     {0x82, 0xfe, 0, 125, 0, 0, 0, 0},
		"a length in far too many": {0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0},
		"too long":                 {0x82, 0xff, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0},
		"a negative length":        {0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0},
	} {
		r := frameReader{fromClient: true}
		read := bytes.NewReader(in).Read
		var err error
		for err == nil {
			_, err = r.next(read)
		}
		if !errors.Is(err, errFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := frameReader{}
	if _, err := r.next(bytes.NewReader(appendFrame(nil, opBinary, []byte("x"), true)).Read); !errors.Is(err, errFrame) {
		t.Errorf("a server's frame with a mask: %v", err)
	}
}

// FuzzFrames: whatever comes, and however the network cuts it, is read the same
// way, and a refusal is final.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("hello"), byte(3), true)
	f.Add(appendFrame(appendFrame(nil, opBinary, []byte("hello"), true), opPing, []byte("?"), true), byte(1), true)
	f.Add(append([]byte{0x02, 0x83, 1, 2, 3, 4, 'a', 'b', 'c'}, appendFrame(nil, opContinuation, nil, true)...), byte(2), true)
	f.Add(appendFrame(nil, opBinary, make([]byte, 70_000), false)[:24], byte(5), false)
	f.Add(appendFrame(nil, opClose, []byte{3, 0xe8, 'b', 'y', 'e'}, false), byte(7), false)
	f.Fuzz(func(t *testing.T, in []byte, cut byte, fromClient bool) {
		whole, err1 := readAll(in, len(in)+1, fromClient)
		parts, err2 := readAll(in, int(cut)+1, fromClient)
		if !bytes.Equal(whole, parts) || fmt.Sprint(err1) != fmt.Sprint(err2) {
			t.Fatalf("at once %q %v, in parts %q %v", whole, err1, parts, err2)
		}
		if len(whole) > len(in) {
			t.Fatalf("%d bytes out of %d", len(whole), len(in))
		}
	})
}

// readAll is what a Conn reads of in, when each read of the carrier gives at most
// cut bytes.
func readAll(in []byte, cut int, fromClient bool) ([]byte, error) {
	return io.ReadAll(newConn(&script{in: in, cut: cut}, !fromClient, nil))
}

// script is a connection on which all has been said.
type script struct {
	net.Conn
	in  []byte
	cut int
}

func (s *script) Read(b []byte) (int, error) {
	if len(s.in) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), s.cut)], s.in)
	s.in = s.in[n:]
	return n, nil
}

func (s *script) RemoteAddr() net.Addr { return nil }

func FuzzMask(f *testing.F) {
	f.Add([]byte("0123456789"), uint8(3), uint8(1))
	f.Fuzz(func(t *testing.T, in []byte, at, turn uint8) {
		mask := [4]byte{1, 2, 4, 8}
		want := make([]byte, len(in))
		for i := range in {
			want[i] = in[i] ^ mask[(int(turn&3)+i)&3]
		}
		got := bytes.Clone(in)
		cut := min(int(at), len(got))
		next := xor(got[:cut], mask, int(turn&3))
		xor(got[cut:], mask, next)
		if !bytes.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
	})
}

func BenchmarkMask(b *testing.B) {
	buf := make([]byte, maxSend)
	b.SetBytes(maxSend)
	for b.Loop() {
		xor(buf, [4]byte{1, 2, 3, 4}, 1)
	}
}
