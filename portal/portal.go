// Package portal holds what people see in the browser: a TypeScript application,
// built by Vite into dist and embedded from there.
package portal

import (
	"embed"
	"io/fs"
)

// dist is empty but for .gitkeep until `make portal` has run, so that the Go code
// builds without Node.js.
//
//go:embed all:dist
var dist embed.FS

//go:embed placeholder
var placeholder embed.FS

// Nonce is the text in index.html that stands for the nonce of the content
// security policy (html.cspNonce in vite.config.ts).
const Nonce = "CSP-NONCE"

// Built reports whether the program carries the portal, and not only a page that
// says that it doesn't.
func Built() bool {
	_, err := fs.Stat(dist, "dist/index.html")
	return err == nil
}

// FS returns the portal, or the placeholder if it was not built: index.html and
// what it uses. Files below assets/ have a hash of their content in their name.
func FS() fs.FS {
	files, dir := dist, "dist"
	if !Built() {
		files, dir = placeholder, "placeholder"
	}
	sub, err := fs.Sub(files, dir)
	if err != nil {
		panic(err) // it is embedded
	}
	return sub
}
