package gateway

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"socketxp/portal"
)

// servePortal returns a router that serves these files as the portal.
func (w *world) servePortal(files fstest.MapFS) *router {
	r := w.g.newRouter()
	r.mux = http.NewServeMux()
	r.addPortal(files)
	return r
}

func TestPortal(t *testing.T) {
	w := start(t)
	script := strings.Repeat("x();\n", 1000)
	r := w.servePortal(fstest.MapFS{
		"index.html":       {Data: []byte(`<script src="/assets/a-1.js" nonce="` + portal.Nonce + `"></script>`)},
		"assets/a-1.js":    {Data: []byte(script)},
		"assets/f-1.woff2": {Data: []byte("\x00\x01\x02")},
		"icon.svg":         {Data: []byte("<svg/>")},
		".gitkeep":         {},
	})
	ask := func(path string, headers ...string) *httptest.ResponseRecorder {
		return serveOnce(r, path, headers...)
	}
	t.Run("each page has a nonce of its own, in its policy and its elements", func(t *testing.T) {
		nonce := regexp.MustCompile(`nonce="([A-Za-z0-9_-]{22})"`)
		seen := map[string]bool{}
		for range 3 {
			for _, path := range []string{"/", "/setup", "/devices", "/devices/x", "/terminal/x", "/api/docs"} {
				a := ask(path)
				found := nonce.FindSubmatch(a.Body.Bytes())
				if a.Code != http.StatusOK || found == nil || seen[string(found[1])] {
					t.Fatalf("%s: %d, %q", path, a.Code, found)
				}
				seen[string(found[1])] = true
				policy := a.Header().Get("Content-Security-Policy")
				if !strings.Contains(policy, "style-src 'self' 'nonce-"+string(found[1])+"'") || strings.Contains(policy, portal.Nonce) || strings.Contains(policy, "unsafe") {
					t.Errorf("%s: the policy is %q", path, policy)
				}
				if a.Header().Get("Cache-Control") != "no-store" {
					t.Errorf("%s may be kept: %v", path, a.Header())
				}
			}
		}
	})
	t.Run("what has a hash in its name is kept for good, and sent small to whoever takes it", func(t *testing.T) {
		a := ask("/assets/a-1.js")
		if a.Header().Get("Cache-Control") != "public, max-age=31536000, immutable" || a.Header().Get("Content-Type") != "text/javascript; charset=utf-8" {
			t.Errorf("%v", a.Header())
		}
		if a.Body.String() != script || a.Header().Get("Content-Encoding") != "" {
			t.Error("the script is not as it was")
		}
		a = ask("/assets/a-1.js", "Accept-Encoding", "gzip, br")
		packed := a.Body.Bytes()
		z, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(z); err != nil || string(text) != script || len(packed) > len(script)/2 || a.Header().Get("Vary") != "Accept-Encoding" {
			t.Errorf("%d bytes, %v", len(packed), a.Header())
		}
		if a := ask("/assets/f-1.woff2", "Accept-Encoding", "gzip"); a.Header().Get("Content-Encoding") != "" || a.Header().Get("Content-Type") != "font/woff2" {
			t.Errorf("a font: %v", a.Header())
		}
		if a := ask("/icon.svg"); a.Header().Get("Cache-Control") != "no-cache" || a.Header().Get("Content-Type") != "image/svg+xml" {
			t.Errorf("an icon: %v", a.Header())
		}
	})
	t.Run("nothing else is there", func(t *testing.T) {
		for _, path := range []string{"/index.html", "/.gitkeep", "/assets/", "/assets/a-2.js", "/devices/x/y", "/api/v1/x", "/nothing"} {
			if a := ask(path); a.Code != http.StatusNotFound || strings.Contains(a.Header().Get("Cache-Control"), "max-age") {
				t.Errorf("%s: %d, %v", path, a.Code, a.Header())
			}
		}
	})
}

// TestPortalPaths compares the addresses with those of the portal's own router.
func TestPortalPaths(t *testing.T) {
	text, err := os.ReadFile("../../portal/src/router.tsx")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile(`path: "(/[^"]*)"`).FindAllSubmatch(text, -1) {
		p := regexp.MustCompile(`\$(\w+)`).ReplaceAllString(string(m[1]), "{$1}")
		if p == "/" {
			p = "/{$}"
		}
		want = append(want, p)
	}
	got := slices.Clone(portalPaths)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the gateway serves %v\nthe portal has   %v", got, want)
	}
}

func serveOnce(r *router, path string, headers ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	r.ServeHTTP(rec, req)
	return rec
}
