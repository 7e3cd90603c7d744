package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// client talks to the REST API as a person who signed in.
type client struct {
	url  string
	http *http.Client
}

func newClient(url string) *client {
	jar, _ := cookiejar.New(nil)
	return &client{url: url, http: &http.Client{
		Jar: jar, Timeout: 30 * time.Second,
		// The scripts check the certificate with curl and the agents by its pin; here
		// it is in the way of restarts only.
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
	}}
}

// do sends a request and returns status and body.
func (c *client) do(method, path, body string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	return resp.StatusCode, answer, err
}

// must is do for an answer that has to be a success.
func (c *client) must(method, path, body string) ([]byte, error) {
	status, answer, err := c.do(method, path, body)
	if err == nil && status >= 300 {
		err = fmt.Errorf("%s %s: status %d: %s", method, path, status, answer)
	}
	return answer, err
}

// token makes a token and returns its text and id.
func (c *client) token(body string) (text, id string, err error) {
	answer, err := c.must("POST", "/api/v1/tokens", body)
	if err != nil {
		return "", "", err
	}
	if text, err = lookup(answer, "token"); err != nil {
		return "", "", err
	}
	id, err = lookup(answer, "id")
	return text, id, err
}

func signIn(url string) (*client, error) {
	c := newClient(url)
	_, err := c.must("POST", "/api/v1/signin", fmt.Sprintf(`{"email":%q,"password":%q}`, ownerEmail, ownerPassword))
	return c, err
}

// owner returns the stage's signed-in owner.
func (s *stage) owner(url string) (*client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signedIn == nil {
		c, err := signIn(url)
		if err != nil {
			return nil, err
		}
		s.signedIn = c
	}
	return s.signedIn, nil
}

// cmdSignIn is `signin`: the owner signs in anew.
func cmdSignIn(ts *testscript.TestScript, _ bool, _ []string) {
	s := stageOf(ts)
	s.mu.Lock()
	s.signedIn = nil
	s.mu.Unlock()
	_, err := s.owner(ts.Getenv("GATEWAY"))
	check(ts, err)
}

// ready returns nil when the gateway serves.
func ready(url string) error {
	status, _, err := newClient(url).do("GET", "/readyz", "")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("readyz: status %d", status)
	}
	return err
}
