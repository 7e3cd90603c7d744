package gateway

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"socketxp"
)

const (
	terminalProtocol = "socketxp-terminal.1"
	ticketPrefix     = "ticket."
	// maxTerminalMessage is the largest message that a browser sends.
	maxTerminalMessage = 64 << 10
	// terminalWrite is how long a browser may take to take in a message.
	terminalWrite = 30 * time.Second
	// terminalParting is how long the closing handshake may take.
	terminalParting = 2 * time.Second
)

// attachTerminal upgrades a request to the WebSocket of a terminal. A browser sends
// the cookie with every such request, whichever page makes it: what tells them apart
// is the Origin, which no page can set, and the ticket, which no page of another
// origin can get.
func (g *Gateway) attachTerminal(w http.ResponseWriter, req *http.Request) error {
	if req.URL.RawQuery != "" {
		return socketxp.Errorf(socketxp.CodeInvalid, "a terminal has no query parameters")
	}
	if err := g.checkOrigin(req); err != nil {
		return err
	}
	who := callOf(req.Context()).who
	t, err := g.terminals.find(who, req.PathValue("id"))
	if err != nil {
		return err
	}
	ticket, err := terminalTicketOf(req)
	if err != nil {
		return err
	}
	if err := g.terminals.use(ticket, t, who, g.now()); err != nil {
		return err
	}
	conn, err := websocket.Accept(w, req, &websocket.AcceptOptions{
		Subprotocols:       []string{terminalProtocol},
		InsecureSkipVerify: true, // the Origin was checked, more strictly
	})
	if err != nil {
		g.log.Debug("a terminal's WebSocket was not opened", "error", err)
		return nil
	}
	conn.SetReadLimit(maxTerminalMessage)
	select {
	// The goroutine is not this handler's: see acceptTunnels.
	case g.tunnels <- func(ctx context.Context) {
		s := &terminalSocket{conn: conn}
		s.close = sync.OnceFunc(s.part)
		defer s.close()
		open, cancel := context.WithCancel(context.WithoutCancel(ctx))
		var pinging sync.WaitGroup
		defer pinging.Wait()
		defer cancel()
		pinging.Go(func() { g.guard("ping", func() { s.ping(open, g.limits.terminalPing) }) })
		t.term.Attach(ctx, s)
	}:
	case <-g.stopping:
		_ = conn.CloseNow()
	}
	return nil
}

// checkOrigin refuses what no page of this very origin has sent.
func (g *Gateway) checkOrigin(req *http.Request) error {
	want := "https://" + strings.ToLower(req.Host)
	if g.cfg.PublicURL != "" {
		want = g.url
	}
	if got := req.Header.Values("Origin"); len(got) != 1 || got[0] != originOf(want) {
		return socketxp.Errorf(socketxp.CodeForbidden, "the request comes from another site").WithHint("open the portal at " + originOf(want))
	}
	return nil
}

// originOf returns an address as browsers write its origin.
func originOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "https://invalid" // which no page has
	}
	return u.Scheme + "://" + strings.TrimSuffix(u.Host, ":443")
}

// terminalTicketOf returns the ticket of a request that asks for the WebSocket of a
// terminal.
func terminalTicketOf(req *http.Request) (string, error) {
	has := func(name, token string) bool {
		for _, v := range req.Header.Values(name) {
			for part := range strings.SplitSeq(v, ",") {
				if strings.EqualFold(strings.TrimSpace(part), token) {
					return true
				}
			}
		}
		return false
	}
	if req.ProtoMajor != 1 || !has("Connection", "upgrade") || !has("Upgrade", "websocket") || req.Header.Get("Sec-WebSocket-Version") != "13" {
		return "", misuse(http.StatusUpgradeRequired, "there is a WebSocket here, and nothing else", "")
	}
	if !has("Sec-WebSocket-Protocol", terminalProtocol) {
		return "", socketxp.Errorf(socketxp.CodeInvalid, "the WebSocket is for the subprotocol %s", terminalProtocol)
	}
	for _, v := range req.Header.Values("Sec-WebSocket-Protocol") {
		for part := range strings.SplitSeq(v, ",") {
			if ticket, ok := strings.CutPrefix(strings.TrimSpace(part), ticketPrefix); ok {
				return ticket, nil
			}
		}
	}
	return "", errTicket
}

// terminalSocket is a browser's end of a terminal.
type terminalSocket struct {
	conn  *websocket.Conn
	close func()
}

// Read is for terminal.Socket.
func (s *terminalSocket) Read(ctx context.Context) (text bool, message []byte, err error) {
	kind, b, err := s.conn.Read(ctx)
	return kind == websocket.MessageText, b, err
}

// Write is for terminal.Socket.
func (s *terminalSocket) Write(ctx context.Context, text bool, message []byte) error {
	ctx, cancel := context.WithTimeout(ctx, terminalWrite)
	defer cancel()
	kind := websocket.MessageBinary
	if text {
		kind = websocket.MessageText
	}
	return s.conn.Write(ctx, kind, message)
}

// Close is for terminal.Socket.
func (s *terminalSocket) Close() { s.close() }

// part says goodbye and closes the connection, with or without an answer: a browser
// that is answered by a reset would forget what it was told last.
func (s *terminalSocket) part() {
	late := time.AfterFunc(terminalParting, func() { _ = s.conn.CloseNow() })
	defer late.Stop()
	_ = s.conn.Close(websocket.StatusNormalClosure, "")
}

// ping finds out whether the browser is still there.
func (s *terminalSocket) ping(ctx context.Context, every time.Duration) {
	for wait(ctx, every) {
		asked, cancel := context.WithTimeout(ctx, every)
		err := s.conn.Ping(asked)
		cancel()
		if err != nil {
			_ = s.conn.CloseNow()
			return
		}
	}
}
