package portal_test

import (
	"io/fs"
	"os"
	"strings"
	"testing"

	"socketxp/portal"
)

// A release carries the portal, and CI builds what is released: see scripts/test.sh.
func TestBuilt(t *testing.T) {
	if os.Getenv("CI") != "" && !portal.Built() {
		t.Fatal("CI tests a gateway without its portal: make portal comes first")
	}
	text, err := fs.ReadFile(portal.FS(), "index.html")
	if err != nil {
		t.Fatal(err)
	}
	if built := strings.Contains(string(text), `id="root"`); built != portal.Built() {
		t.Errorf("Built is %v, and index.html says:\n%s", portal.Built(), text)
	}
	if portal.Built() && !strings.Contains(string(text), `nonce="`+portal.Nonce+`"`) {
		t.Error("index.html has no place for the nonce: html.cspNonce in vite.config.ts is another text")
	}
}
