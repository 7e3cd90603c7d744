package gateway

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/base64"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"socketxp"
	"socketxp/portal"
)

// pageCSP lets the portal load its own scripts, styles, fonts and pictures, and
// speak to the gateway it came from. Style elements count only with the page's
// nonce; nothing may be made from text, neither markup nor code, but by the
// portal's one policy (portal/src/trusted.ts).
const pageCSP = "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-" + portal.Nonce + "'; img-src 'self'; font-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types default"

// portalPaths are the addresses of the portal's pages (portal/src/router.tsx): each
// is answered with its one index.html. Any other address is not found.
var portalPaths = []string{
	"/{$}", "/setup", "/signin", "/signup", "/cli", "/devices", "/devices/{id}", "/terminal/{id}", "/tokens", "/groups",
	"/sessions", "/events", "/audit", "/account", "/profile", "/api/docs",
}

// addPages registers what is not the API: the portal, the API's description, and
// health.
func (r *router) addPages() {
	r.addPortal(portal.FS())
	description := sync.OnceValues(r.openAPI)
	r.handle(route{method: get, path: "/api/openapi.json", policy: public}, func(w http.ResponseWriter, _ *http.Request) error {
		text, err := description()
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(text)
		return nil
	})
	r.handle(route{method: get, path: "/healthz", policy: public}, func(w http.ResponseWriter, _ *http.Request) error {
		return answerHealth(w)
	})
	r.handle(route{method: get, path: "/readyz", policy: public}, func(w http.ResponseWriter, req *http.Request) error {
		if err := r.g.ready(req.Context()); err != nil {
			return err
		}
		return answerHealth(w)
	})
	r.handle(route{method: get, path: doorPath, policy: public, stream: true}, r.g.openTunnel)
}

// addPortal registers the portal's pages and all files that they use.
func (r *router) addPortal(files fs.FS) {
	index, err := fs.ReadFile(files, "index.html")
	if err != nil {
		panic(err) // it is embedded
	}
	for _, address := range portalPaths {
		r.handle(route{method: get, path: address, policy: public}, func(w http.ResponseWriter, _ *http.Request) error {
			return answerPage(w, index)
		})
	}
	err = fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && name != "index.html" && !strings.HasPrefix(d.Name(), ".") {
			r.addFile(files, name)
		}
		return err
	})
	if err != nil {
		panic(err) // it is embedded
	}
}

// answerPage answers with index.html and a nonce that no page had before.
func answerPage(w http.ResponseWriter, index []byte) error {
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return err
	}
	nonce := base64.RawURLEncoding.EncodeToString(random[:])
	h := w.Header()
	h.Set("Content-Security-Policy", strings.ReplaceAll(pageCSP, portal.Nonce, nonce))
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(bytes.ReplaceAll(index, []byte(portal.Nonce), []byte(nonce)))
	return nil
}

// addFile registers an embedded file at its own name. What is below assets/ has a
// name made of its content, and never changes.
func (r *router) addFile(files fs.FS, name string) {
	text, err := fs.ReadFile(files, name)
	if err != nil {
		panic(err) // it is embedded
	}
	media := mediaTypes[path.Ext(name)]
	if media == "" {
		panic("nothing is known of files such as " + name)
	}
	lasting := "no-cache"
	if strings.HasPrefix(name, "assets/") {
		lasting = "public, max-age=31536000, immutable"
	}
	small := sync.OnceValue(func() []byte { return compressed(text) }) // by whoever asks first: a start has better to do
	r.handle(route{method: get, path: "/" + name, policy: public}, func(w http.ResponseWriter, req *http.Request) error {
		h := w.Header()
		h.Set("Content-Type", media)
		h.Set("Cache-Control", lasting)
		body := text
		if small := small(); small != nil {
			h.Set("Vary", "Accept-Encoding")
			if strings.Contains(req.Header.Get("Accept-Encoding"), "gzip") {
				h.Set("Content-Encoding", "gzip")
				body = small
			}
		}
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(body))
		return nil
	})
}

// mediaTypes are those of the portal's files: what the machine knows of types
// must not decide how a browser reads them.
var mediaTypes = map[string]string{
	".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml", ".woff2": "font/woff2", ".wasm": "application/wasm",
}

// compressed returns the text by gzip, or nil if that saves less than a tenth.
func compressed(text []byte) []byte {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		panic(err) // the level is valid
	}
	_, _ = w.Write(text) // into memory
	_ = w.Close()
	if out.Len() > len(text)*9/10 {
		return nil
	}
	return out.Bytes()
}

func answerHealth(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"ok":true}` + "\n"))
	return nil
}

// ready returns nil if the gateway can serve what it is asked for.
func (g *Gateway) ready(ctx context.Context) error {
	select {
	case <-g.stopping:
		return socketxp.Errorf(socketxp.CodeGoingAway, "the gateway is shutting down")
	default:
	}
	ctx, cancel := g.asked(ctx)
	defer cancel()
	if err := g.store.Ping(ctx); err != nil {
		g.stats.storeError()
		return unavailable(err)
	}
	return nil
}
