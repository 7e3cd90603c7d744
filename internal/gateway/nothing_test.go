package gateway

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"socketxp"
	"socketxp/internal/control"
	"socketxp/internal/link"
	"socketxp/internal/relay"
)

// trap listens where only a program on the gateway's own machine comes, and counts
// those who do.
func (w *world) trap() (port int, came *atomic.Int64) {
	w.Helper()
	l := must[net.Listener](w.T)(net.Listen("tcp", "127.0.0.1:0"))
	came = new(atomic.Int64)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			came.Add(1)
			_ = c.Close()
		}
	}()
	w.Cleanup(func() {
		_ = l.Close()
		<-ended
	})
	return l.Addr().(*net.TCPAddr).Port, came
}

// inTLS is a connection to the doors that asks for these protocols.
func (w *world) inTLS(protocols ...string) func() (net.Conn, error) {
	return func() (net.Conn, error) {
		cfg := w.clientTLS(newKey(w.T))
		cfg.NextProtos = protocols
		c := tls.Client(w.dialRaw(), cfg)
		return c, c.HandshakeContext(w.Context())
	}
}

// TestNoSSHEndsHere asks the gateway for a shell, and whatever else is asked for over
// SSH: files, forwards, an agent, X11.
func TestNoSSHEndsHere(t *testing.T) {
	w := start(t, func(l *limits) { l.showWithin, l.linkWait = time.Second, time.Second })
	withTicket := func() (net.Conn, error) {
		c := w.dialRaw()
		_, err := c.Write(link.AppendPreface(nil, must[*relay.Pair](t)(w.g.relay.Expect()).VisitorTicket()))
		return c, err
	}
	for name, open := range map[string]func() (net.Conn, error){
		"at the port": w.open, "in TLS": w.inTLS(), "in TLS by name": w.inTLS("ssh"), "at the HTTPS door": w.inTLS("http/1.1"),
		"at the control door": w.inTLS(control.ALPN), "in a WebSocket": w.through, "at the link door": withTicket,
	} {
		t.Run("N-18 SSH "+name, func(t *testing.T) {
			c, err := open()
			if err != nil {
				return // it is refused before a word
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(patience))
			heard := &hearing{Conn: c}
			config := &ssh.ClientConfig{User: "root", HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error { return nil }}
			if conn, _, _, err := ssh.NewClientConn(heard, "gateway", config); err == nil {
				_ = conn.Close()
				t.Fatal("a session began")
			}
			if strings.Contains(string(heard.text), "SSH-") {
				t.Errorf("it speaks SSH: %q", heard.text)
			}
		})
	}
}

// TestNothingEndsHere asks the gateway for what its own machine has.
func TestNothingEndsHere(t *testing.T) {
	w := start(t)
	port, came := w.trap()
	target := fmt.Sprintf("127.0.0.1:%d", port)
	d, key := w.register("cam", "default")
	td := w.connect(d, key, echo, "tcp://127.0.0.1:22", "tcp://"+target)
	_, text := w.access()

	// What a request names is an address here, and nothing to fetch.
	for _, request := range []string{
		"CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n",
		"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost:22\r\n\r\n",
		"GET http://" + target + "/metrics HTTP/1.1\r\nHost: " + target + "\r\n\r\n",
		"GET //" + target + "/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /https://" + target + "/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: ssh\r\n\r\n",
		"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /debug/pprof/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /debug/pprof/profile HTTP/1.1\r\nHost: " + w.g.MetricsAddr().String() + "\r\n\r\n",
		"GET /debug/vars HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /door/../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /assets/..%2f..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		line, _, _ := strings.Cut(request, " HTTP/1.1")
		t.Run("N-18 "+line, func(t *testing.T) {
			c := must[net.Conn](t)(w.inTLS("http/1.1")())
			_ = c.SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(c, request)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			body := string(must[[]byte](t)(io.ReadAll(resp.Body)))
			page := resp.StatusCode == http.StatusOK && strings.Contains(request, "Upgrade") // it is answered as if nothing was asked for
			if (resp.StatusCode < 300 || resp.StatusCode >= 500) && !page || strings.Contains(body, "root:") || strings.Contains(body, "goroutine") {
				t.Errorf("got %d %s", resp.StatusCode, body)
			}
			if to := resp.Header.Get("Location"); strings.Contains(to, "//") {
				t.Errorf("it leads to %s", to)
			}
		})
	}
	for _, path := range []string{"/", "/debug/pprof/", "/debug/pprof/goroutine?debug=2", "/debug/vars", "/metrics/../debug/pprof/", "/api/v1/me"} {
		t.Run("N-18 for the metrics' listener: "+path, func(t *testing.T) {
			if r := w.get(w.httpClient("http/1.1"), "http://"+w.g.MetricsAddr().String()+path); r.status != http.StatusNotFound {
				t.Errorf("got %d %s", r.status, r.body)
			}
		})
	}

	metrics := w.g.MetricsAddr().(*net.TCPAddr).Port
	for name, m := range map[string]control.Visit{
		"the metrics' port":             {DeviceID: d.ID, Port: metrics},
		"the metrics' port, by host":    {DeviceID: d.ID, Host: "127.0.0.1", Port: metrics},
		"the gateway's port":            {DeviceID: d.ID, Port: w.g.Addr().(*net.TCPAddr).Port},
		"the database's port":           {DeviceID: d.ID, Host: "localhost", Port: 5432},
		"the gateway for a device":      {DeviceName: "localhost", Port: port},
		"the gateway's id for a device": {DeviceID: w.g.id, Port: port},
		"no device":                     {Port: port},
	} {
		t.Run("N-18 a visit of "+name, func(t *testing.T) {
			m.Token = text
			v := w.visitor() // what has no meaning ends the channel
			v.next++
			m.Visit = v.next
			if v.conn.Send(t.Context(), m) != nil {
				return
			}
			switch m, err := v.receive(); m := m.(type) {
			case control.Ended:
				if m.Code != socketxp.CodeNotPublished && m.Code != socketxp.CodeNotFound && m.Code != socketxp.CodeInvalid {
					t.Errorf("got %+v", m)
				}
			default:
				if err == nil {
					t.Errorf("got %T %+v", m, m)
				}
			}
		})
	}
	t.Run("N-18 a device's loopback is the device's", func(t *testing.T) {
		v := w.visitor()
		g := v.grant(text, d, port)
		c := must[*link.Conn](t)(v.open(g).Open())
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(c, "who?")
		if got := make([]byte, 4); must[int](t)(io.ReadFull(c, got)) != 4 || string(got) != "who?" { // the device answers, as it does on each of its ports
			t.Errorf("got %q", got)
		}
		if o := <-td.offers; o.Destination != "tcp://"+target {
			t.Errorf("offered %s", o.Destination)
		}
	})
	if n := came.Load(); n != 0 {
		t.Errorf("N-18 the gateway came to its own loopback %d times", n)
	}
}

// hearing keeps what is read.
type hearing struct {
	net.Conn
	text []byte
}

func (h *hearing) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	h.text = append(h.text, b[:n]...)
	return n, err
}
