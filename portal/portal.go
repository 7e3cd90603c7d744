// Package portal holds the pages that the gateway serves, embedded: a landing
// page, the first owner's set-up, and the API to read and try. They are static
// files without inline script or style, so that the strictest content security
// policy holds.
package portal

import (
	"embed"
	"io/fs"
)

//go:embed pages
var pages embed.FS

// FS returns the pages: index.html, setup.html, docs.html, and what they use
// below assets/.
func FS() fs.FS {
	sub, err := fs.Sub(pages, "pages")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}
