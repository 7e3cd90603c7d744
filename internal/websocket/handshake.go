package websocket

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // G505: what RFC 6455 asks for; it proves nothing and protects nothing
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"
	"time"
)

// Protocol is the subprotocol of the stream that a Conn carries: the version of
// what is said in it.
const Protocol = "socketxp-door/1"

// maxAnswer is the most that is read of what answers the client's request.
const maxAnswer = 16 << 10

// AnswerError says that something answered which is no server of this protocol: a
// captive portal, a proxy with an opinion, a load balancer without a gateway
// behind it.
type AnswerError struct {
	Status int  // 0 if it was not even HTTP
	HTML   bool // it is a page for people
	Reason string
}

// Error says what it was.
func (e *AnswerError) Error() string {
	switch {
	case e.Status == 0:
		return "what answers there is no WebSocket server: " + e.Reason
	case e.HTML:
		return fmt.Sprintf("what answers there is no gateway but a page for people (HTTP status %d)", e.Status)
	case e.Reason != "":
		return fmt.Sprintf("what answers there is no gateway (HTTP status %d: %s)", e.Status, e.Reason)
	}
	return fmt.Sprintf("what answers there is no gateway (HTTP status %d)", e.Status)
}

// Client asks the server at the other end of carrier for a WebSocket at path. The
// request has nothing in it but host and path. The caller bounds it by carrier's
// deadline, and closes carrier if it fails; else the Conn owns it.
func Client(carrier net.Conn, host, path string) (*Conn, error) {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails: it ends the program instead
	key := base64.StdEncoding.EncodeToString(nonce[:])
	request := "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: socketxp\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + "\r\nSec-WebSocket-Protocol: " + Protocol + "\r\n\r\n"
	if _, err := io.WriteString(carrier, request); err != nil {
		return nil, err
	}
	limited := &io.LimitedReader{R: carrier, N: maxAnswer}
	r := bufio.NewReader(limited)
	answer, err := http.ReadResponse(r, &http.Request{Method: http.MethodGet}) //nolint:bodyclose // the connection is what is closed
	var network net.Error
	switch {
	case errors.As(err, &network), errors.Is(err, io.ErrUnexpectedEOF) && limited.N > 0:
		return nil, err
	case err != nil:
		return nil, &AnswerError{Reason: "it does not answer as HTTP does"}
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		media, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
		return nil, &AnswerError{Status: answer.StatusCode, HTML: media == "text/html"}
	}
	h := answer.Header
	switch {
	case !hasToken(h, "Connection", "upgrade"), !hasToken(h, "Upgrade", "websocket"), h.Get("Sec-WebSocket-Accept") != acceptKey(key):
		return nil, &AnswerError{Status: answer.StatusCode, Reason: "it is no WebSocket"}
	case h.Get("Sec-WebSocket-Protocol") != Protocol, h.Get("Sec-WebSocket-Extensions") != "":
		return nil, &AnswerError{Status: answer.StatusCode, Reason: "it does not speak " + Protocol}
	}
	early, _ := r.Peek(r.Buffered())
	return newConn(carrier, true, bytes.Clone(early)), nil
}

// RequestError is a request that the server takes for no WebSocket of ours.
type RequestError struct {
	Status  int
	Message string
}

// Error returns the message.
func (e *RequestError) Error() string { return e.Message }

// Check returns a *RequestError unless req asks for a WebSocket of Protocol, and no
// browser sends it.
func Check(req *http.Request) error {
	key, err := base64.StdEncoding.DecodeString(req.Header.Get("Sec-WebSocket-Key"))
	switch {
	case req.ProtoMajor != 1 || req.ProtoMinor < 1:
		return &RequestError{http.StatusUpgradeRequired, "a WebSocket is asked for by HTTP/1.1"}
	case !hasToken(req.Header, "Connection", "upgrade") || !hasToken(req.Header, "Upgrade", "websocket"):
		return &RequestError{http.StatusUpgradeRequired, "there is a WebSocket here, and nothing else"}
	case req.Header.Get("Sec-WebSocket-Version") != "13" || err != nil || len(key) != 16:
		return &RequestError{http.StatusBadRequest, "the request is not one for a WebSocket of version 13"}
	case req.Header.Get("Origin") != "" || req.Header.Get("Sec-Fetch-Site") != "":
		return &RequestError{http.StatusForbidden, "this WebSocket is not for browsers"}
	case !hasToken(req.Header, "Sec-WebSocket-Protocol", Protocol):
		return &RequestError{http.StatusBadRequest, "the WebSocket is for the subprotocol " + Protocol}
	}
	return nil
}

// Accept takes over the connection of a request that Check has found good.
func Accept(w http.ResponseWriter, req *http.Request) (*Conn, error) {
	carrier, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	peeked, _ := buffered.Peek(buffered.Reader.Buffered())
	early := bytes.Clone(peeked)
	_ = carrier.SetDeadline(time.Now().Add(acceptLimit))
	_, err = io.WriteString(carrier, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: "+acceptKey(req.Header.Get("Sec-WebSocket-Key"))+"\r\nSec-WebSocket-Protocol: "+Protocol+"\r\n\r\n")
	if err != nil {
		_ = carrier.Close()
		return nil, err
	}
	_ = carrier.SetDeadline(time.Time{})
	return newConn(carrier, false, early), nil
}

// acceptLimit is how long the answer to a request may take to leave.
const acceptLimit = 5 * time.Second

// acceptKey is the answer to a client's key (RFC 6455 section 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // G401: see the import
	return base64.StdEncoding.EncodeToString(sum[:])
}

// hasToken reports whether a header's list holds a token.
func hasToken(h http.Header, name, token string) bool {
	for _, v := range h.Values(name) {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}
