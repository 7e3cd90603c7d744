package gateway

import (
	"bytes"
	"context"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"sync"
	"time"

	"socketxp"
	"socketxp/portal"
)

// pageCSP lets a page load its own scripts, styles and pictures, and speak to the
// gateway it came from. Nothing may be made from text: not markup, not code.
const pageCSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// addPages registers what is not the API: pages, its description, and health.
func (r *router) addPages() {
	files := portal.FS()
	for address, name := range map[string]string{"/{$}": "index.html", "/setup": "setup.html", "/cli": "cli.html", "/api/docs": "docs.html"} {
		r.addPage(files, address, name)
	}
	assets, err := fs.ReadDir(files, "assets")
	if err != nil {
		panic(err) // it is embedded
	}
	for _, a := range assets {
		r.addPage(files, "/assets/"+a.Name(), "assets/"+a.Name())
	}
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

// addPage registers an embedded file.
func (r *router) addPage(files fs.FS, address, name string) {
	text, err := fs.ReadFile(files, name)
	if err != nil {
		panic(err) // it is embedded
	}
	media := mime.TypeByExtension(path.Ext(name))
	r.handle(route{method: get, path: address, policy: public}, func(w http.ResponseWriter, req *http.Request) error {
		h := w.Header()
		h.Set("Content-Security-Policy", pageCSP)
		h.Set("Content-Type", media)
		h.Set("Cache-Control", "no-cache")
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(text))
		return nil
	})
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
