package api_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/api"
)

// patience is how long a test waits for what should be there at once.
const patience = 30 * time.Second

// hostile is a gateway, known by its pin, that answers each request with what say
// writes; sent counts the bytes of it.
type hostile struct {
	addr socketxp.GatewayAddress
	sent atomic.Int64
}

// newHostile returns one for each of the ways in which a client comes to it.
func newHostile(t *testing.T, say func(w io.Writer) error) (*hostile, map[string]*api.Client) {
	t.Helper()
	h := &hostile{}
	plain := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	certificates := plain.TLS.Certificates
	pin := socketxp.PinOf(plain.Certificate())
	plain.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certificates, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil && say(writer(func(b []byte) (int, error) {
				n, err := c.Write(b)
				h.sent.Add(int64(n))
				return n, err
			})) == nil {
				_, _ = c.Read(make([]byte, 1)) // says nothing more until the client goes
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-ended
	})
	h.addr = socketxp.GatewayAddress{URL: "https://" + l.Addr().String(), Pin: pin}
	cfg, err := h.addr.TLSConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	clients := map[string]*api.Client{
		"by itself": api.NewClient(h.addr, cfg, secret),
		"by a dialer": api.NewClientBy(h.addr, func(ctx context.Context) (net.Conn, error) {
			return (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", l.Addr().String())
		}, secret),
	}
	for _, c := range clients {
		t.Cleanup(c.Close)
	}
	return h, clients
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// repeat writes text for as long as somebody reads it.
func repeat(w io.Writer, text string) error {
	block := strings.Repeat(text, 1+16<<10/len(text))
	for {
		if _, err := io.WriteString(w, block); err != nil {
			return err
		}
	}
}

// TestHostileAnswers calls a gateway, or what stands in its place, that answers with
// what HTTP allows and nobody needs.
func TestHostileAnswers(t *testing.T) {
	// What is under way in the kernel when the client has had enough comes on top of
	// what the client reads. An answer may have 8 MiB of content.
	const header, content = 4 << 20, 16 << 20
	for name, c := range map[string]struct {
		say  func(io.Writer) error
		most int64
	}{
		"N-17 101, and silence": {func(w io.Writer) error {
			_, err := io.WriteString(w, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
			return err
		}, header},
		"N-17 101, and bytes without end": {func(w io.Writer) error {
			_, _ = io.WriteString(w, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
			return repeat(w, "x")
		}, header},
		"N-17 headers without end": {func(w io.Writer) error {
			_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\n")
			return repeat(w, "X-Filler: 0123456789abcdef\r\n")
		}, header},
		"N-17 one header without end": {func(w io.Writer) error {
			_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nX-Filler: ")
			return repeat(w, "x")
		}, header},
		"N-17 a status line without end": {func(w io.Writer) error {
			_, _ = io.WriteString(w, "HTTP/1.1 200 ")
			return repeat(w, "x")
		}, header},
		"N-17 a flood of 100 Continue":    {func(w io.Writer) error { return repeat(w, "HTTP/1.1 100 Continue\r\n\r\n") }, header},
		"N-17 a flood of 103 Early Hints": {func(w io.Writer) error { return repeat(w, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n") }, header},
		"N-17 trailers without end": {func(w io.Writer) error {
			_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTrailer: X-Filler\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
			return repeat(w, "X-Filler: 0123456789abcdef\r\n")
		}, header},
		"N-17 a chunk's extension without end": {func(w io.Writer) error {
			_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2;x=")
			return repeat(w, "x")
		}, header},
		"N-17 content without end": {func(w io.Writer) error {
			_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
			return repeat(w, " ")
		}, content},
		"N-17 a problem without end": {func(w io.Writer) error {
			_, _ = io.WriteString(w, "HTTP/1.1 403 Forbidden\r\nContent-Type: application/problem+json\r\n\r\n")
			return repeat(w, " ")
		}, content},
	} {
		t.Run(name, func(t *testing.T) {
			h, clients := newHostile(t, c.say)
			for way, client := range clients {
				h.sent.Store(0)
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				_, err := client.Gateway(ctx)
				late := ctx.Err()
				cancel()
				var e *socketxp.Error
				if err == nil || errors.As(err, &e) || strings.Contains(err.Error(), secret) {
					t.Errorf("%s: it is %v", way, err)
				}
				if late != nil {
					t.Errorf("%s: it went on until it was called off", way)
				}
				if n := h.sent.Load(); n > c.most {
					t.Errorf("%s: %d bytes were taken", way, n)
				}
			}
		})
	}
}

// TestCallsEnd calls a gateway that falls silent in the middle of its answer.
func TestCallsEnd(t *testing.T) {
	for name, text := range map[string]string{
		"N-17 no answer":            "",
		"N-17 half a header":        "HTTP/1.1 200 OK\r\nX",
		"N-17 half of the content":  "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nContent-Type: application/json\r\n\r\n{",
		"N-17 100 and no more":      "HTTP/1.1 100 Continue\r\n\r\n",
		"N-17 a chunk and no more":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
		"N-17 half of a trailer":    "HTTP/1.1 200 OK\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX",
		"N-17 half of the problems": "HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\nContent-Type: application/problem+json\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			_, clients := newHostile(t, func(w io.Writer) error {
				_, err := io.WriteString(w, text)
				return err
			})
			for way, client := range clients {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				ended := make(chan error, 1)
				go func() {
					_, err := client.Gateway(ctx)
					ended <- err
				}()
				select {
				case err := <-ended:
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("%s: it is %v", way, err)
					}
				case <-time.After(patience):
					t.Fatalf("%s: the call does not end with its context", way)
				}
				cancel()
			}
		})
	}
}

// TestRedirects sends a client, and with it the token, elsewhere.
func TestRedirects(t *testing.T) {
	var came atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { came.Add(1) }))
	defer elsewhere.Close()
	for _, status := range []int{300, 301, 302, 303, 304, 305, 307, 308, 399} {
		for name, to := range map[string]string{
			"another host": elsewhere.URL, "another scheme": "http://localhost/", "a file": "file:///etc/passwd", "itself": "/api/v1/gateway", "its own loopback": "https://127.0.0.1:1/",
		} {
			t.Run(fmt.Sprintf("N-17 %d to %s", status, name), func(t *testing.T) {
				var asked atomic.Int64
				_, clients := newHostile(t, func(w io.Writer) error {
					asked.Add(1)
					_, err := fmt.Fprintf(w, "HTTP/1.1 %d Elsewhere\r\nLocation: %s\r\nRefresh: 0;url=%s\r\nAlt-Svc: h2=%q\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
						status, to, to, elsewhere.Listener.Addr())
					return errors.Join(err, io.EOF) // it ends the connection
				})
				for way, client := range clients {
					for what, call := range map[string]func() error{
						"reading": func() error { _, err := client.Gateway(t.Context()); return err },
						"writing": func() error { _, err := client.CreateGroup(t.Context(), "g"); return err },
						"streams": func() error { return client.StreamEvents(t.Context(), "", func(api.Event) error { return nil }) },
					} {
						asked.Store(0)
						var e *socketxp.Error
						if err := call(); err == nil || errors.As(err, &e) {
							t.Errorf("%s, %s: it is %v", way, what, err)
						}
						if n := asked.Load(); n != 1 {
							t.Errorf("%s, %s: it was asked %d times", way, what, n)
						}
					}
				}
			})
		}
	}
	if n := came.Load(); n != 0 {
		t.Errorf("N-17 somebody came elsewhere %d times", n)
	}
}
