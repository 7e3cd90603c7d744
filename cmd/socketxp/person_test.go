package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/agent"
	"socketxp/internal/api"
)

const (
	idOne = "019ab6f2-7c1e-7a3b-9d60-2f6c1b9e4d11"
	idTwo = "019ab6f2-7c1e-7a3b-9d60-2f6c1b9e4d22"
)

// newPerson returns a person at a gateway that answers as h does.
func newPerson(t *testing.T, h http.HandlerFunc) *person {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	addr := socketxp.GatewayAddress{URL: s.URL, Pin: socketxp.PinOf(s.Certificate())}
	cfg, err := addr.TLSConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &person{Client: api.NewClient(addr, cfg, "t"), profile: "home", gateway: s.URL, caFile: "ca.pem"}
	t.Cleanup(p.Close)
	return p
}

func answerJSON(t *testing.T, w http.ResponseWriter, status int, v any) {
	t.Helper()
	w.Header().Set("Content-Type", "application/json")
	if p, ok := v.(api.Problem); ok {
		w.Header().Set("Content-Type", "application/problem+json")
		p.Status = status
		v = p
	}
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		t.Error(err)
	}
}

func TestDeviceByNameOrID(t *testing.T) {
	// One device has the other's id as its name: to be taken for it, perhaps.
	devices := []api.Device{{ID: idOne, Name: "pump"}, {ID: idTwo, Name: idOne}, {ID: "019ab6f2-7c1e-7a3b-9d60-2f6c1b9e4d33", Name: idOne[:35] + "9"}}
	p := newPerson(t, func(w http.ResponseWriter, r *http.Request) {
		var found []api.Device
		for _, d := range devices {
			if r.URL.Path == "/api/v1/devices/"+d.ID {
				answerJSON(t, w, 200, d)
				return
			}
			if n := r.URL.Query().Get("name"); n != "" && n == d.Name {
				found = append(found, d)
			}
		}
		if r.URL.Path == "/api/v1/devices" {
			answerJSON(t, w, 200, api.DevicePage{Items: found, Total: len(found)})
			return
		}
		answerJSON(t, w, 404, api.Problem{Code: socketxp.CodeNotFound, Detail: "there is no such device"})
	})
	for given, want := range map[string]string{
		"pump": idOne, idOne: idOne, idTwo: idTwo, idOne[:35] + "9": devices[2].ID,
		"no-such": "", "Not A Name": "", idOne[:35] + "7": "", "": "",
	} {
		d, err := p.device(t.Context(), given)
		if d.ID != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v; want %q", given, d.ID, err, want)
		}
		if err != nil && (status(err) != statusFailed || !strings.Contains(err.Error(), "there is no device")) {
			t.Errorf("%q: status %d, %v", given, status(err), err)
		}
	}
}

func TestAccessToken(t *testing.T) {
	left := time.Hour
	var asked api.CreateTokenRequest
	p := newPerson(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/me" {
			answerJSON(t, w, 200, api.Me{Credential: api.Credential{Kind: socketxp.KindAPI, ExpiresAt: time.Now().Add(left)}})
			return
		}
		asked = api.CreateTokenRequest{}
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Error(err)
		}
		answerJSON(t, w, 201, api.CreatedToken{Token: api.Token{ID: idTwo}, Text: "text"})
	})
	for _, c := range []struct {
		life, left time.Duration
		min, max   int64
	}{{10 * time.Minute, time.Hour, 600, 600}, {8 * time.Hour, time.Hour, 3580, 3595}, {time.Hour, time.Second, 1, 1}} {
		left = c.left
		target, token, err := p.access(t.Context(), api.Device{ID: idOne}, 22, c.life, "ssh")
		if err != nil || target.Token != "text" || target.CAFile != "ca.pem" || token.ID != idTwo {
			t.Fatalf("%+v, %+v, %v", target, token, err)
		}
		if asked.Kind != socketxp.TokenAccess || asked.Scope == nil || len(asked.Scope.Devices) != 1 || asked.Scope.Devices[0] != idOne || len(asked.Scope.Ports) != 1 || asked.Scope.Ports[0] != 22 {
			t.Errorf("A-23 it was asked for more: %+v", asked)
		}
		if *asked.ExpiresIn < c.min || *asked.ExpiresIn > c.max {
			t.Errorf("A-23 %v of %v left became %d s", c.life, c.left, *asked.ExpiresIn)
		}
	}
}

func TestPersonErrors(t *testing.T) {
	var problem api.Problem
	code := 401
	p := newPerson(t, func(w http.ResponseWriter, _ *http.Request) { answerJSON(t, w, code, problem) })
	for _, c := range []struct {
		http   int
		code   socketxp.Code
		status int
	}{
		{401, socketxp.CodeTokenRevoked, statusNotRegistered},
		{401, socketxp.CodeTokenExpired, statusNotRegistered},
		{403, socketxp.CodeForbidden, statusRefused},
		{409, socketxp.CodeConflict, statusRefused},
		{404, socketxp.CodeNotFound, statusFailed},
		{429, socketxp.CodeRateLimited, statusFailed}, // it may work later
		{503, socketxp.CodeUnavailable, statusFailed},
		{500, "", statusUnreachable},
	} {
		code, problem = c.http, api.Problem{Code: c.code, Detail: "why", Hint: "do"}
		_, err := p.Me(t.Context())
		if got := status(p.failed(err)); got != c.status {
			t.Errorf("%d %s ends with status %d, want %d: %v", c.http, c.code, got, c.status, p.failed(err))
		}
	}
	if p.failed(nil) != nil {
		t.Error("no error is one")
	}
}

// What needs a fresh password is done as in a browser, and leaves no sign-in behind.
func TestWithPassword(t *testing.T) {
	var did []string
	var known string // what the gateway gives
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		with := "nothing"
		if r.Header.Get("Authorization") != "" {
			with = "token"
		} else if len(r.CookiesNamed("__Host-socketxp")) == 1 {
			with = "cookie"
		} else if known := r.CookiesNamed(api.KnownCookie); len(known) == 1 {
			with = known[0].Value
		}
		did = append(did, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/api/v1")+" by "+with)
		switch {
		case r.URL.Path == "/api/v1/signin":
			var in api.SignInRequest
			if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Email != "owner@example.com" || in.Password != "the password" {
				answerJSON(t, w, 401, api.Problem{Code: socketxp.CodeUnauthenticated, Detail: "the email address or the password is wrong"})
				return
			}
			http.SetCookie(w, &http.Cookie{Name: "__Host-socketxp", Value: "v", Path: "/", Secure: true})
			if known != "" {
				http.SetCookie(w, &http.Cookie{Name: api.KnownCookie, Value: known, Path: "/", Secure: true})
			}
			answerJSON(t, w, 200, api.Me{})
		case r.URL.Path == "/api/v1/me":
			answerJSON(t, w, 200, api.Me{User: api.User{Email: "owner@example.com"}})
		case strings.HasSuffix(r.URL.Path, "/confirm") && strings.Contains(r.URL.Path, idTwo):
			answerJSON(t, w, 404, api.Problem{Code: socketxp.CodeNotFound, Detail: "there is no such token"})
		default:
			w.WriteHeader(204)
		}
	}))
	t.Cleanup(s.Close)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	home := agent.Profile{
		Name: "home", Gateway: socketxp.GatewayAddress{URL: s.URL, Pin: socketxp.PinOf(s.Certificate())},
		Token: "e30.e30.AAAA", TokenID: idOne, ExpiresAt: time.Now().Add(time.Hour),
	}
	if err := agent.ChangeProfiles(t.Context(), func(all *agent.Profiles) error { return all.Put(home, nil) }); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args   []string
		stdin  string
		status int
		want   []string
	}{
		"confirmed": {[]string{"tokens", "confirm", idOne, "--password-file", "-"}, "the password\n", statusDone, []string{
			"GET /me by token", "POST /signin by nothing", "POST /tokens/" + idOne + "/confirm by cookie", "POST /signout by cookie",
		}},
		"one of two is not there": {[]string{"tokens", "confirm", idTwo, idOne, "--password-file", "-"}, "the password", statusFailed, []string{
			"GET /me by token", "POST /signin by nothing", "POST /tokens/" + idTwo + "/confirm by cookie", "POST /tokens/" + idOne + "/confirm by cookie", "POST /signout by cookie",
		}},
		"the wrong password": {[]string{"tokens", "confirm", idOne, "--password-file", "-"}, "another\n", statusRefused, []string{
			"GET /me by token", "POST /signin by nothing",
		}},
		"no password":   {[]string{"tokens", "confirm", idOne, "--password-file", "-"}, "\n", statusUsage, []string{"GET /me by token"}},
		"nobody to ask": {[]string{"tokens", "confirm", idOne}, "", statusUsage, []string{"GET /me by token"}},
	} {
		t.Run(name, func(t *testing.T) {
			did = nil
			var out, errs strings.Builder
			got := run(t.Context(), c.args, strings.NewReader(c.stdin), &out, &errs)
			if got != c.status || !slices.Equal(did, c.want) {
				t.Errorf("status %d, want %d: %s\ndid %q\nwant %q", got, c.status, errs.String(), did, c.want)
			}
			if strings.Contains(out.String()+errs.String(), "the password\n") {
				t.Error("X-17 the password is shown")
			}
		})
	}
	confirm := func() (signIn, errs string) {
		t.Helper()
		did = nil
		var out, e strings.Builder
		if got := run(t.Context(), []string{"tokens", "confirm", idOne, "--password-file", "-"}, strings.NewReader("the password\n"), &out, &e); got != statusDone {
			t.Fatalf("status %d: %s", got, e.String())
		}
		return did[1], e.String()
	}
	t.Run("X-04 the machine shows what it was given the time before", func(t *testing.T) {
		for _, c := range []struct{ given, showed string }{{"Zmlyc3Q", "nothing"}, {"c2Vjb25k", "Zmlyc3Q"}, {"", "c2Vjb25k"}, {"dGhpcmQ", "c2Vjb25k"}} {
			known = c.given
			if got, _ := confirm(); got != "POST /signin by "+c.showed {
				t.Errorf("given %q: %s, want %s", c.given, got, c.showed)
			}
		}
	})
	t.Run("what a hostile gateway gives is not kept", func(t *testing.T) {
		known = strings.Repeat("A", 1000)
		if _, errs := confirm(); !strings.Contains(errs, "the gateway will not know this machine") {
			t.Errorf("it says %q", errs)
		}
		if got, _ := confirm(); got != "POST /signin by dGhpcmQ" {
			t.Errorf("got %s", got)
		}
	})
	t.Run("signed out, the machine shows nothing", func(t *testing.T) {
		known = ""
		var out, errs strings.Builder
		if got := run(t.Context(), []string{"signout"}, strings.NewReader(""), &out, &errs); got != statusDone {
			t.Fatalf("status %d: %s", got, errs.String())
		}
		all, err := agent.ReadProfiles()
		if err != nil || all.List[0].Known != "" {
			t.Errorf("%+v, %v", all, err)
		}
	})
}
