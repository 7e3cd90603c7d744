package gateway

import (
	"bytes"
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write the OpenAPI document that the code says")

const openAPIFile = "../api/openapi.json"

// newTestRouter returns the routes of a gateway that can serve none of them.
func newTestRouter() *router { return (&Gateway{}).newRouter() }

func TestOpenAPI(t *testing.T) {
	text := append(must[[]byte](t)(newTestRouter().openAPI()), '\n')
	if *update {
		if err := os.WriteFile(openAPIFile, text, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	committed := must[[]byte](t)(os.ReadFile(openAPIFile))
	if !bytes.Equal(text, committed) {
		t.Fatal("internal/api/openapi.json is not what the code says: run make generate")
	}
}
