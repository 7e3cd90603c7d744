package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"socketxp"
)

// dialHTTPS opens a connection through the HTTPS door that speaks one protocol.
func (w *world) dialHTTPS(protocol string) *tls.Conn {
	w.Helper()
	cfg := must[*tls.Config](w.T)(w.g.Address().TLSConfig(nil))
	cfg.NextProtos = []string{protocol}
	raw := w.dialRaw()
	// What the kernel takes in for a client that reads nothing is little then: it
	// could be 32 MiB.
	_ = raw.(*net.TCPConn).SetReadBuffer(64 << 10)
	c := tls.Client(raw, cfg)
	if err := c.HandshakeContext(w.Context()); err != nil {
		w.Fatal(err)
	}
	return c
}

// quickHTTP shortens the times of the HTTPS door. What has to go right within them
// is not timed by the tests.
func quickHTTP(l *limits) {
	l.http.headers, l.http.body, l.http.answer, l.http.stuck = 300*time.Millisecond, 600*time.Millisecond, 600*time.Millisecond, 600*time.Millisecond
}

// drip writes a little again and again until the connection is cut.
func drip(c io.Writer, text string) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := io.WriteString(c, text); err != nil {
			return
		}
	}
}

func TestX07SlowPeers(t *testing.T) {
	t.Parallel()
	t.Run("X-07 the times", func(t *testing.T) {
		w := start(t)
		s := w.g.newHTTPServer(http.NotFoundHandler())
		if s.ReadHeaderTimeout != 5*time.Second {
			t.Errorf("headers may take %v", s.ReadHeaderTimeout)
		}
		if rate := maxBody / s.ReadTimeout.Seconds(); s.ReadTimeout <= 0 || rate < 32<<10 {
			t.Errorf("a body may come at %.0f bytes a second", rate)
		}
		if s.WriteTimeout <= 0 || s.WriteTimeout > time.Minute || s.IdleTimeout <= 0 || s.IdleTimeout > 2*time.Minute {
			t.Errorf("an answer may take %v, an idle connection %v", s.WriteTimeout, s.IdleTimeout)
		}
		if s.HTTP2.WriteByteTimeout <= 0 || s.HTTP2.WriteByteTimeout > 30*time.Second || s.MaxHeaderBytes > 16<<10 {
			t.Errorf("%+v, %d bytes of headers", s.HTTP2, s.MaxHeaderBytes)
		}
		m := w.g.newMetricsServer()
		if m.ReadHeaderTimeout <= 0 || m.ReadTimeout <= 0 || m.WriteTimeout <= 0 || m.IdleTimeout <= 0 {
			t.Errorf("the metrics: %+v", m)
		}
	})
	const each = 60
	for name, slow := range map[string]func(c net.Conn){
		"X-07 headers that never come": func(net.Conn) {},
		"X-07 a header, byte by byte": func(c net.Conn) {
			_, _ = io.WriteString(c, "GET /readyz HTTP/1.1\r\nHost: localhost\r\nX: ")
			drip(c, "x")
		},
		"X-07 one header after the other": func(c net.Conn) {
			_, _ = io.WriteString(c, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n")
			drip(c, "X: y\r\n")
		},
		"X-07 a body, byte by byte": func(c net.Conn) {
			_, _ = io.WriteString(c, "POST /api/v1/signin HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{")
			drip(c, " ")
		},
		"X-07 a body in chunks without end": func(c net.Conn) {
			_, _ = io.WriteString(c, "POST /api/v1/signin HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
			drip(c, "1\r\n \r\n")
		},
		"X-07 a second request, byte by byte": func(c net.Conn) {
			_, _ = io.WriteString(c, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /readyz HTTP/1.1\r\nX: ")
			drip(c, "x")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, quickHTTP)
			var all sync.WaitGroup
			defer all.Wait()
			var conns []net.Conn
			defer func() {
				for _, c := range conns {
					_ = c.Close()
				}
			}()
			for range each {
				c := w.dialHTTPS("http/1.1")
				conns = append(conns, c)
				all.Go(func() { slow(c) })
			}
			if r := w.get(w.httpClient("h2"), w.url("/readyz")); r.status != http.StatusOK { // others wait for none of them
				t.Errorf("%+v", r)
			}
			for _, c := range conns {
				readEnd(t, c)
			}
			eventually(t, patience, "their places are free again", func() bool { return w.g.httpsConns.count() <= 1 })
		})
	}
	t.Run("X-07 answers that nobody takes", func(t *testing.T) {
		t.Parallel()
		w := start(t, quickHTTP)
		for range 4 {
			c := w.dialHTTPS("http/1.1")
			// More than all buffers on the way hold. What the door doesn't take any more
			// is the client's to keep.
			go func() {
				_, _ = io.WriteString(c, strings.Repeat("GET /api/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n", 200))
			}()
		}
		eventually(t, patience, "they came", func() bool { return w.metric(`socketxp_connections_total{door="https"}`) == 4 })
		eventually(t, patience, "their places are free again", func() bool { return w.g.httpsConns.count() == 0 })
	})
}

// h2Client speaks HTTP/2 by the frame.
type h2Client struct {
	net.Conn
	*http2.Framer
	out     bytes.Buffer // what the framer has written
	encoded bytes.Buffer
	hpack   *hpack.Encoder
	next    uint32 // stream
}

// dialH2 opens an HTTP/2 connection whose flow control starts with so many bytes.
func (w *world) dialH2(window uint32) *h2Client {
	w.Helper()
	c := &h2Client{Conn: w.dialHTTPS("h2"), next: 1}
	c.Framer = http2.NewFramer(&c.out, c.Conn)
	c.hpack = hpack.NewEncoder(&c.encoded)
	c.out.WriteString(http2.ClientPreface)
	_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	if err := c.flush(); err != nil {
		w.Fatal(err)
	}
	return c
}

// flush sends all frames that were written so far.
func (c *h2Client) flush() error {
	_, err := c.out.WriteTo(c.Conn)
	return err
}

// get begins a request, and returns its stream.
func (c *h2Client) get(path string) uint32 {
	c.encoded.Reset()
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", path}} {
		_ = c.hpack.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	id := c.next
	c.next += 2
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.encoded.Bytes(), EndStream: true, EndHeaders: true})
	return id
}

// end reads until the connection is over, and returns the code of its GOAWAY, if
// there was one, and how many streams were reset.
func (c *h2Client) end(t *testing.T) (code http2.ErrCode, resets int) {
	t.Helper()
	code = http2.ErrCodeNo
	_ = c.SetReadDeadline(time.Now().Add(patience))
	for {
		f, err := c.ReadFrame()
		if ne, ok := err.(net.Error); ok && ne.Timeout() { //nolint:errorlint // a deadline comes bare from net
			t.Fatal("the connection was left open")
		}
		if err != nil {
			return code, resets
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			code = f.ErrCode
		case *http2.RSTStreamFrame:
			resets++
		}
	}
}

// stalled is a store that answers no question of one kind before it is let go, and
// counts how many wait.
type stalled struct {
	socketxp.Store
	waiting, most atomic.Int64
	free          chan struct{}
}

func (s *stalled) Ping(ctx context.Context) error {
	n := s.waiting.Add(1)
	defer s.waiting.Add(-1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	<-s.free // it heeds no context, as the worst of handlers
	return s.Store.Ping(ctx)
}

func TestX08HTTP2Floods(t *testing.T) {
	t.Parallel()
	healthy := func(t *testing.T, w *world) {
		t.Helper()
		if r := w.get(w.httpClient("h2"), w.url("/healthz")); r.status != http.StatusOK {
			t.Errorf("another client got %+v", r)
		}
	}
	free := func(t *testing.T, w *world) {
		t.Helper()
		eventually(t, patience, "the place is free again", func() bool { return w.g.httpsConns.count() == 0 })
	}
	t.Run("X-08 rapid reset", func(t *testing.T) {
		t.Parallel()
		s := &stalled{free: make(chan struct{})}
		w := startIn(t, t.TempDir(), func(_ *Config, d *Deps) { s.Store, d.Store = d.Store, s })
		let := sync.OnceFunc(func() { close(s.free) })
		defer let()
		c := w.dialH2(65535)
		for range 5000 {
			_ = c.WriteRSTStream(c.get("/readyz"), http2.ErrCodeCancel)
		}
		_ = c.flush() // it may be cut meanwhile
		if code, _ := c.end(t); code != http2.ErrCodeEnhanceYourCalm && code != http2.ErrCodeNo {
			t.Errorf("told %v", code)
		}
		if most := s.most.Load(); most == 0 || most > 100 {
			t.Errorf("%d requests were served at a time", most)
		}
		healthy(t, w)
		let()
	})
	t.Run("X-08 CONTINUATION without end", func(t *testing.T) {
		t.Parallel()
		w := start(t)
		c := w.dialH2(65535)
		_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: nil, EndHeaders: false})
		c.encoded.Reset()
		_ = c.hpack.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("~", 1000)})
		for range 100 { // 130 KB, where 16 KiB are taken
			_ = c.WriteContinuation(1, false, c.encoded.Bytes())
		}
		_ = c.flush()
		c.end(t)
		healthy(t, w)
	})
	t.Run("X-08 headers that don't come to their end", func(t *testing.T) {
		t.Parallel()
		w := start(t, func(l *limits) { l.http.idle = 500 * time.Millisecond })
		c := w.dialH2(65535)
		_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: nil, EndHeaders: false})
		_ = c.flush()
		c.end(t)
	})
	t.Run("X-08 a body, byte by byte", func(t *testing.T) {
		t.Parallel()
		w := start(t, quickHTTP, func(l *limits) { l.http.idle = 500 * time.Millisecond })
		c := w.dialH2(65535)
		for _, f := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/api/v1/signin"}, {"content-type", "application/json"}} {
			_ = c.hpack.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.encoded.Bytes(), EndHeaders: true})
		_ = c.flush()
		_ = c.WriteData(1, false, []byte(" "))
		frame := c.out.String()
		var dripping sync.WaitGroup
		defer dripping.Wait()
		defer func() { _ = c.Close() }()
		dripping.Go(func() { drip(c.Conn, frame) })
		c.end(t)
		free(t, w)
	})
	// flood sends frames until it is cut.
	flood := func(t *testing.T, c *h2Client, frame func(*h2Client)) {
		t.Helper()
		_ = c.SetWriteDeadline(time.Now().Add(patience))
		for {
			for range 1000 {
				frame(c)
			}
			switch err := c.flush().(type) { //nolint:errorlint // a deadline comes bare from net
			case nil:
			case net.Error:
				if err.Timeout() {
					t.Error("it was not cut")
				}
				return
			default:
				return
			}
		}
	}
	settings := func(c *h2Client) { _ = c.WriteSettings() }
	ping := func(c *h2Client) { _ = c.WritePing(false, [8]byte{}) }
	for name, frame := range map[string]func(*h2Client){"SETTINGS": settings, "PING": ping} {
		t.Run("X-08 "+name+" without end", func(t *testing.T) {
			t.Parallel()
			w := start(t, func(l *limits) { l.http.idle = time.Second })
			c := w.dialH2(65535)
			var reading sync.WaitGroup
			reading.Go(func() { _, _ = io.Copy(io.Discard, c.Conn) })
			flood(t, c, frame)
			reading.Wait()
			free(t, w)
			healthy(t, w)
		})
	}
	t.Run("X-08 PING without end, and no answer is taken", func(t *testing.T) {
		t.Parallel()
		w := start(t, func(l *limits) { l.http.stuck = 500 * time.Millisecond })
		flood(t, w.dialH2(65535), ping)
		free(t, w)
	})
	t.Run("X-08 windows of nothing", func(t *testing.T) {
		t.Parallel()
		w := start(t, quickHTTP, func(l *limits) { l.http.idle = 500 * time.Millisecond })
		c := w.dialH2(0)
		for range 100 {
			c.get("/api/openapi.json")
		}
		if err := c.flush(); err != nil {
			t.Fatal(err)
		}
		healthy(t, w)
		if _, resets := c.end(t); resets != 100 {
			t.Errorf("%d of 100 answers that nobody takes were given up", resets)
		}
		free(t, w)
	})
	t.Run("X-08 large windows, and nothing is read", func(t *testing.T) {
		t.Parallel()
		w := start(t, func(l *limits) { l.http.stuck = 500 * time.Millisecond })
		c := w.dialH2(1<<31 - 1)
		_ = c.WriteWindowUpdate(0, 1<<30)
		for range 100 { // 11.6 MB
			c.get("/api/openapi.json")
		}
		if err := c.flush(); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "it came", func() bool { return w.metric(`socketxp_connections_total{door="https"}`) >= 1 })
		free(t, w)
	})
	t.Run("X-08 more streams than there may be", func(t *testing.T) {
		t.Parallel()
		s := &stalled{free: make(chan struct{})}
		w := startIn(t, t.TempDir(), func(_ *Config, d *Deps) { s.Store, d.Store = d.Store, s })
		let := sync.OnceFunc(func() { close(s.free) })
		defer let()
		c := w.dialH2(65535)
		for range 300 {
			c.get("/readyz")
		}
		if err := c.flush(); err != nil {
			t.Fatal(err)
		}
		refused := 0
		_ = c.SetReadDeadline(time.Now().Add(patience))
		for refused < 200 {
			f, err := c.ReadFrame()
			if err != nil {
				t.Fatalf("after %d: %v", refused, err)
			}
			if r, ok := f.(*http2.RSTStreamFrame); ok {
				if r.ErrCode != http2.ErrCodeRefusedStream && r.ErrCode != http2.ErrCodeProtocol {
					t.Fatal(r)
				}
				refused++
			}
		}
		if most := s.most.Load(); most > 100 {
			t.Errorf("%d requests were served at a time", most)
		}
		healthy(t, w)
	})
}
