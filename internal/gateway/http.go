package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"socketxp"
	"socketxp/internal/api"
)

// httpHandler returns what the HTTPS door serves: pages, REST API and health.
func (g *Gateway) httpHandler() (http.Handler, error) {
	return g.newRouter(), nil
}

// router serves the routes. Whatever is reachable was registered by handle, which
// takes no route without a policy.
type router struct {
	g       *Gateway
	mux     *http.ServeMux
	api     huma.API
	origins *http.CrossOriginProtection
	hsts    bool
	routes  []route
}

// route is one address that is served.
type route struct {
	method, path string
	policy       policy
	// action names what the route does in the audit, noun.verb; only refused writes
	// are recorded by it. "" for what is only read.
	action string
	// stream is for an answer without an end, or a body: neither time nor context bounds
	// it but the client's.
	stream bool
}

func (rt route) pattern() string { return rt.method + " " + rt.path }

// writes reports whether the route changes something.
func (rt route) writes() bool { return rt.method != http.MethodGet }

// call is what is known of the request that is being served.
type call struct {
	who     caller
	bearer  string // the text of the token
	remote  netip.Addr
	err     error // what the answer tells of
	audited bool  // err is
	// cookie is what the request has as our cookie; only sign-in and set-up look at
	// it without a policy that does. known is what the browser is known by; only who
	// tries a password is asked for it.
	cookie, known string
}

type callKey struct{}

// callOf returns the call of a request's context.
func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	if c == nil {
		panic("the context is not a request's")
	}
	return c
}

func (g *Gateway) newRouter() *router {
	host := ""
	if u, err := url.Parse(g.url); err == nil {
		host = u.Hostname()
	}
	_, notName := netip.ParseAddr(host)
	r := &router{
		g: g, mux: http.NewServeMux(), origins: http.NewCrossOriginProtection(),
		// A browser would keep it for all that runs on this machine, on any port.
		hsts: host != "localhost" && notName != nil,
	}
	r.api = huma.NewAPI(apiConfig(), r)
	r.addPages()
	r.addAPI()
	return r
}

// Handle is for huma: an operation that was not registered with its route panics.
func (r *router) Handle(op *huma.Operation, handler func(huma.Context)) {
	rt, ok := op.Metadata[routeKey].(route)
	if !ok {
		panic(fmt.Sprintf("%s %s has no policy", op.Method, op.Path))
	}
	r.handle(rt, func(w http.ResponseWriter, req *http.Request) error {
		handler(humago.NewContext(op, req, w))
		return nil
	})
}

// handle registers a route. An error that h returns is answered; h must not have
// begun to answer then.
func (r *router) handle(rt route, h func(http.ResponseWriter, *http.Request) error) {
	if err := rt.policy.check(); err != nil {
		panic(fmt.Sprintf("the policy of %s: %v", rt.pattern(), err))
	}
	if rt.writes() && rt.action == "" {
		panic(fmt.Sprintf("%s changes something the audit has no name for", rt.pattern()))
	}
	r.routes = append(r.routes, rt)
	r.mux.HandleFunc(rt.pattern(), func(w http.ResponseWriter, req *http.Request) {
		if err := r.serve(rt, h, w, req); err != nil {
			r.answer(w, req, err)
		}
		r.auditRefusedAct(rt, req)
	})
}

// auditRefusedAct records that a write was refused for another reason than its
// form. Who can't say who they are was recorded before.
func (r *router) auditRefusedAct(rt route, req *http.Request) {
	c := callOf(req.Context())
	code := socketxp.CodeOf(c.err)
	if !rt.writes() || c.who.accountID == "" || c.audited || code == "" || code == socketxp.CodeInvalid || code == socketxp.CodeRateLimited {
		return
	}
	entry := socketxp.AuditEntry{AccountID: c.who.accountID, Actor: c.who.actor(), Action: rt.action}
	entry.ObjectKind, _, _ = strings.Cut(rt.action, ".")
	if id := req.PathValue("id"); socketxp.ValidID(id) {
		entry.ObjectID = id
	} else if name := req.PathValue("name"); name != "" {
		entry.ObjectName = clipText(name)
	}
	r.g.auditRefusal(req.Context(), entry, c.err)
}

// answer answers with an error, outside of huma.
func (r *router) answer(w http.ResponseWriter, req *http.Request, err error) {
	callOf(req.Context()).err = err
	newProblem(err).write(w)
}

// serve lets a request through to h.
func (r *router) serve(rt route, h func(http.ResponseWriter, *http.Request) error, w http.ResponseWriter, req *http.Request) error {
	c := callOf(req.Context())
	if err := checkQuery(req); err != nil {
		return err
	}
	if rt.policy.purpose != socketxp.PurposePublic {
		if err := r.authenticate(rt, c, w, req); err != nil {
			return err
		}
	}
	if err := readBody(rt, w, req); err != nil {
		return err
	}
	if rt.stream {
		return h(w, req)
	}
	ctx := req.Context()
	if rt.writes() { // what was begun is finished, whether or not the client waits for it
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, r.g.rest.limits.request)
	defer cancel()
	req = req.WithContext(ctx)
	if key := req.Header.Values("Idempotency-Key"); len(key) > 0 && rt.writes() && rt.policy.purpose != socketxp.PurposePublic {
		return r.once(key, h, w, req)
	}
	return h(w, req)
}

// authenticate finds out who is calling, and judges it by the route's policy.
func (r *router) authenticate(rt route, c *call, w http.ResponseWriter, req *http.Request) (err error) {
	g := r.g
	c.audited = true
	bearer, cookie, err := credential(req)
	switch {
	case err != nil:
		return err
	case bearer != "":
		c.bearer = bearer
		c.who, err = g.authenticateToken(req.Context(), bearer, rt.policy.purpose, c.remote)
	case cookie != "":
		c.who, err = g.authenticateSignIn(req.Context(), cookie, rt.policy.purpose, c.remote)
	default:
		// Not audited: nobody claimed anything.
		return socketxp.Errorf(socketxp.CodeUnauthenticated, "this needs a credential").WithHint("send a token as Authorization: Bearer TOKEN, or sign in")
	}
	if err != nil {
		return err
	}
	v := g.rest.credentials.take(c.who.credentialID)
	v.tell(w.Header())
	if err := v.err(); err != nil {
		return err
	}
	if err := rt.policy.judge(c.who, g.now()); err != nil {
		action := rt.action
		if action == "" {
			action = "api.read"
		}
		g.auditRefusal(req.Context(), socketxp.AuditEntry{AccountID: c.who.accountID, Actor: c.who.actor(), Action: action, Detail: rt.pattern()}, err)
		return err
	}
	c.audited = false
	return nil
}

// credential returns the one credential of a request, bearer or cookie. Two are
// refused: what is checked must be what acts.
func credential(req *http.Request) (bearer, cookie string, err error) {
	headers := req.Header.Values("Authorization")
	cookies := req.CookiesNamed(cookieName)
	if len(headers)+len(cookies) > 1 {
		return "", "", socketxp.Errorf(socketxp.CodeInvalid, "the request has more than one credential").WithHint("send one token, or the cookie alone")
	}
	if len(cookies) == 1 {
		return "", cookies[0].Value, nil
	}
	if len(headers) == 0 {
		return "", "", nil
	}
	scheme, text, _ := strings.Cut(headers[0], " ")
	switch {
	case !strings.EqualFold(scheme, "Bearer"), text == "":
		return "", "", socketxp.Errorf(socketxp.CodeUnauthenticated, "the Authorization header has no bearer token").WithHint("Authorization: Bearer TOKEN")
	case len(text) > socketxp.MaxTokenBytes:
		return "", "", socketxp.Errorf(socketxp.CodeInvalid, "the token is longer than %d bytes", socketxp.MaxTokenBytes)
	}
	return text, "", nil
}

// checkQuery refuses a query that two readers could understand differently.
func checkQuery(req *http.Request) error {
	values, err := url.ParseQuery(req.URL.RawQuery)
	if err != nil {
		return socketxp.Errorf(socketxp.CodeInvalid, "the query is not valid")
	}
	for name, v := range values {
		if len(v) > 1 {
			return socketxp.Errorf(socketxp.CodeInvalid, "the query has %s more than once", clipText(name))
		}
	}
	return nil
}

// maxBody is the most that is read of a request's body.
const maxBody = 1 << 20

// readBody reads the body of a write into memory, while the server's own deadline
// for a slow sender holds, and takes JSON alone: no form of another site can send
// that.
func readBody(rt route, w http.ResponseWriter, req *http.Request) error {
	if rt.writes() && rt.stream {
		return nil // it has no end that memory could hold
	}
	if !rt.writes() || req.ContentLength == 0 {
		req.Body = http.NoBody
		return nil
	}
	media, _, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if err != nil || media != "application/json" || req.Header.Get("Content-Encoding") != "" {
		return misuse(http.StatusUnsupportedMediaType, "the body is not plain JSON", "send Content-Type: application/json")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if errors.As(err, new(*http.MaxBytesError)) {
		return misuse(http.StatusRequestEntityTooLarge, "the body is larger than 1 MiB", "")
	}
	if err != nil {
		return misuse(http.StatusBadRequest, "the body could not be read", "")
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

// ServeHTTP is what every request goes through, whatever it asks for.
func (r *router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	start := time.Now()
	rec := &recorder{ResponseWriter: w}
	c := &call{remote: r.g.remoteOf(req)}
	if cookies := req.CookiesNamed(cookieName); len(cookies) == 1 {
		c.cookie = cookies[0].Value
	}
	if cookies := req.CookiesNamed(api.KnownCookie); len(cookies) == 1 {
		c.known = cookies[0].Value
	}
	req = req.WithContext(context.WithValue(req.Context(), callKey{}, c))
	r.setSecurityHeaders(rec.Header())
	defer func() {
		if v := recover(); v != nil {
			r.panicked(rec, req, v)
		}
		r.finish(rec, req, c, start)
	}()
	r.route(rec, req, c)
}

// route sends a request to its route, or answers that there is none.
func (r *router) route(w http.ResponseWriter, req *http.Request, c *call) {
	v := r.g.rest.addresses.take(network(c.remote))
	if err := v.err(); err != nil {
		v.tell(w.Header())
		r.answer(w, req, err)
		return
	}
	if err := r.origins.Check(req); err != nil {
		r.answer(w, req, socketxp.Errorf(socketxp.CodeForbidden, "the request comes from another site"))
		return
	}
	h, pattern := r.mux.Handler(req)
	if pattern != "" {
		r.mux.ServeHTTP(w, req) // which sets the path's parameters, as h alone does not
		return
	}
	// What the mux itself answers is made into our form.
	own := &muxAnswer{header: http.Header{}}
	h.ServeHTTP(own, req)
	switch own.status {
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", own.header.Get("Allow"))
		r.answer(w, req, misuse(http.StatusMethodNotAllowed, "the address does not take "+clipText(req.Method), "it takes "+own.header.Get("Allow")))
	default:
		r.answer(w, req, errNoRoute)
	}
}

// muxAnswer takes in what the mux would answer for itself.
type muxAnswer struct {
	header http.Header
	status int
}

func (m *muxAnswer) Header() http.Header         { return m.header }
func (m *muxAnswer) Write(b []byte) (int, error) { return len(b), nil }
func (m *muxAnswer) WriteHeader(status int)      { m.status = status }

// apiCSP lets a browser do nothing with an answer that is no page.
const apiCSP = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// setSecurityHeaders sets what every answer has, errors included.
func (r *router) setSecurityHeaders(h http.Header) {
	h.Set("Content-Security-Policy", apiCSP)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
	h.Set("Cache-Control", "no-store")
	if r.hsts {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// panicked answers for a handler that panicked: one request is lost, nothing else.
func (r *router) panicked(w *recorder, req *http.Request, v any) {
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(http.ErrAbortHandler) // a handler's way to cut off an answer it has begun
	}
	r.g.panicked("request", v)
	if w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	r.answer(w, req, fmt.Errorf("panic: %s", panicText(v)))
}

// finish counts and logs a request.
func (r *router) finish(w *recorder, req *http.Request, c *call, start time.Time) {
	g := r.g
	g.stats.requested(start, w.status)
	err := c.err
	if err == nil && w.status >= http.StatusBadRequest {
		err = socketxp.Errorf(socketxp.CodeInvalid, "the request does not fit the route") // as huma says
	}
	if err == nil {
		return
	}
	code := socketxp.CodeOf(err)
	g.stats.refused(doorHTTPS, code)
	switch code {
	case socketxp.CodeInternal:
		g.log.Error("a request failed", "method", req.Method, "route", req.Pattern, "error", err)
	case socketxp.CodeUnavailable:
		g.log.Warn("a request could not be served", "method", req.Method, "route", req.Pattern, "error", err)
	default:
		g.log.Debug("a request was refused", "method", req.Method, "route", routeText(req), "remote", c.remote.String(), "code", string(code), "error", err.Error())
	}
}

// routeText names what a request is for. The address itself is logged only if there
// is no route for it: what stands in the place of an id or a name may be anything.
func routeText(req *http.Request) string {
	if req.Pattern != "" {
		return req.Pattern
	}
	return clipText(req.URL.Path)
}

// remoteOf returns where a request comes from. Headers that claim to know better
// count only when one of our proxies has brought the request, and never inside a
// WebSocket, where none can be.
func (g *Gateway) remoteOf(req *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	peer := a.Addr().Unmap()
	if conn := connOf(req.Context()); conn != nil && !conn.tunnel {
		return g.proxies.client(peer, req.Header)
	}
	return peer
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int // 0 before the answer has begun
}

// WriteHeader is for net/http.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write is for net/http.
func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Hijack is for http.ResponseController: the connection becomes something else.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.status = http.StatusSwitchingProtocols
	}
	return conn, buffered, err
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
