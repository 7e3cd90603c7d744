package store_test

import (
	"os"
	"testing"

	"socketxp/internal/store"
)

// The migrations make exactly the schema that is committed beside them, so that a
// review sees what a migration does to the whole.
func TestSchema(t *testing.T) {
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			got, err := store.MigratedSchema(t.Context(), b.url(t))
			if err != nil {
				t.Fatal(err)
			}
			path := "schema/" + b.name + ".txt"
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s is stale; the migrations make:\n%s", path, got)
			}
		})
	}
}
