package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"

	"socketxp"
)

// Client calls the REST API of one gateway. It is safe for concurrent use.
//
// A method's error is a *socketxp.Error with the gateway's code, message and hint
// if the gateway answered with one. Any other error means that the gateway was not
// reached, or that what answered in its place is not a gateway.
type Client struct {
	base       string
	http       *http.Client
	credential string
	idempotent string
}

// The client's limits. A call that takes longer than callTimeout is given up; the
// calls that stream have none but their context.
const (
	callTimeout = 30 * time.Second
	maxHeader   = 64 << 10 // a gateway's has less than 2 KiB; net/http would take 10 MiB
	maxAnswer   = 8 << 20
)

// NewClient returns a client of the gateway at addr. It speaks TLS by tlsConfig,
// which comes from addr.TLSConfig, and sends credential, the text of a token, as
// bearer. Without a credential it keeps the cookie that SignIn and SetUp get.
// HTTPS_PROXY and NO_PROXY are honoured; redirects are not followed.
func NewClient(addr socketxp.GatewayAddress, tlsConfig *tls.Config, credential string) *Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	c := &Client{
		base:       strings.TrimSuffix(addr.URL, "/"),
		credential: credential,
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:                  http.ProxyFromEnvironment,
				DialContext:            dialer.DialContext,
				TLSClientConfig:        tlsConfig,
				TLSHandshakeTimeout:    10 * time.Second,
				ResponseHeaderTimeout:  callTimeout,
				MaxResponseHeaderBytes: maxHeader,
				IdleConnTimeout:        30 * time.Second,
				MaxIdleConnsPerHost:    4,
				ForceAttemptHTTP2:      true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	c.keepCookies()
	return c
}

// NewClientBy is NewClient of a gateway to which dial opens the connections: with
// TLS, the gateway verified, and for HTTP/1.1.
func NewClientBy(addr socketxp.GatewayAddress, dial func(context.Context) (net.Conn, error), credential string) *Client {
	c := NewClient(addr, nil, credential)
	c.http.Transport = &http.Transport{
		DialTLSContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		ResponseHeaderTimeout:  callTimeout,
		MaxResponseHeaderBytes: maxHeader,
		IdleConnTimeout:        30 * time.Second,
		MaxIdleConnsPerHost:    4,
	}
	return c
}

func (c *Client) keepCookies() {
	if c.credential == "" {
		c.http.Jar, _ = cookiejar.New(nil) // fails never without options
	}
}

// KnownCookie is the cookie by which a gateway knows a browser in which a person has
// signed in before.
const KnownCookie = "__Host-socketxp-known"

// SetKnown has the client, which has no credential, show value as a browser does that
// is known to the gateway.
func (c *Client) SetKnown(value string) error {
	u, err := url.Parse(c.base)
	if err != nil {
		return err
	}
	if c.http.Jar == nil {
		return errors.New("a client with a credential keeps no cookies")
	}
	c.http.Jar.SetCookies(u, []*http.Cookie{{Name: KnownCookie, Value: value, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode}})
	return nil
}

// Known returns the value that SetKnown takes the next time, or "" if there is none.
func (c *Client) Known() string {
	u, err := url.Parse(c.base)
	if err != nil || c.http.Jar == nil {
		return ""
	}
	for _, cookie := range c.http.Jar.Cookies(u) {
		if cookie.Name == KnownCookie {
			return cookie.Value
		}
	}
	return ""
}

// WithIdempotencyKey returns a client whose writes carry key: sent again with the
// same key, a write is not done again but answered as before. Keys are random text
// of 16 to 128 characters, each for one write.
func (c *Client) WithIdempotencyKey(key string) *Client {
	d := *c
	d.idempotent = key
	return &d
}

// WithCredential returns a client of the same gateway that sends another token.
func (c *Client) WithCredential(credential string) *Client {
	d := *c
	d.credential = credential
	return &d
}

// Close closes the connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// call sends in as JSON, if it is not nil, and decodes the answer into out, if that
// is not nil.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.send(ctx, method, path, query, nil, in)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := readBounded(resp.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s %s: %w: %w", method, path, errNotGateway, err)
	}
	return nil
}

var errNotGateway = errors.New("what answered is not a SocketXP gateway")

// send returns the answer if it is a success.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, header http.Header, in any) (*http.Response, error) {
	target := c.base + Prefix + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("User-Agent", "socketxp")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.credential != "" {
		req.Header.Set("Authorization", "Bearer "+c.credential)
	}
	if c.idempotent != "" && method != http.MethodGet {
		req.Header.Set("Idempotency-Key", c.idempotent)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode < 200 {
		// After 101 the body is the connection, which no context ends.
		return nil, fmt.Errorf("%s %s: %w: status %d", method, path, errNotGateway, resp.StatusCode)
	}
	return nil, problemOf(method, path, resp)
}

// problemOf returns the error that an answer stands for.
func problemOf(method, path string, resp *http.Response) error {
	body, err := readBounded(resp.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	var p Problem
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if media != "application/problem+json" || json.Unmarshal(body, &p) != nil || p.Code == "" {
		return fmt.Errorf("%s %s: %w: status %d", method, path, errNotGateway, resp.StatusCode)
	}
	e := &socketxp.Error{Code: p.Code, Message: p.Detail, Hint: p.Hint}
	if len(p.Errors) > 0 && e.Hint == "" {
		e.Hint = p.Errors[0].Location + ": " + p.Errors[0].Message
	}
	return e
}

func readBounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = errors.New("the answer is too long")
	}
	return b, err
}

// get is call for a value that is answered.
func get[T any](ctx context.Context, c *Client, method, path string, query url.Values, in any) (T, error) {
	var out T
	err := c.call(ctx, method, path, query, in, &out)
	return out, err
}
