package socketxp_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"socketxp"
)

func TestNewID(t *testing.T) {
	start := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	var ids []string
	for i := range 1000 {
		id := socketxp.NewID(start.Add(time.Duration(i) * time.Millisecond))
		if !socketxp.ValidID(id) {
			t.Fatalf("%q is not valid", id)
		}
		if id[14] != '7' || !strings.ContainsRune("89ab", rune(id[19])) {
			t.Fatalf("%q is not a UUID of version 7", id)
		}
		ids = append(ids, id)
	}
	if !slices.IsSorted(ids) {
		t.Error("ids do not sort by the time they were made")
	}
	seen := make(map[string]bool)
	for range 1000 {
		seen[socketxp.NewID(start)] = true
	}
	if len(seen) != 1000 {
		t.Errorf("1000 ids of one millisecond are %d", len(seen))
	}
	// RFC 9562 section 5.7: 48 bits of Unix milliseconds come first.
	got, err := strconv.ParseInt(strings.ReplaceAll(socketxp.NewID(start)[:13], "-", ""), 16, 64)
	if err != nil || got != start.UnixMilli() {
		t.Errorf("the id says it was made at %d, %v", got, err)
	}
}

func TestValidID(t *testing.T) {
	const id = "01a20baf-20ae-7456-abf9-67d074fdbbf2"
	if !socketxp.ValidID(id) {
		t.Fatal("a UUID is refused")
	}
	for _, s := range []string{
		"", id[1:], id + "0", strings.ToUpper(id), strings.ReplaceAll(id, "-", ""), "{" + id[1:35] + "}", strings.Replace(id, "-", "0", 1),
		strings.Replace(id, "0", "-", 1), strings.Replace(id, "0", "g", 1), "\n" + id[1:], "../../../../../../../../etc/passwd\x00\x00", "ü" + id[2:],
	} {
		if socketxp.ValidID(s) {
			t.Errorf("%q is accepted", s)
		}
	}
	for i := range id {
		for _, c := range []byte{' ', '.', '/', '*', '>', '%', '\'', 0, 0x80} {
			if s := id[:i] + string([]byte{c}) + id[i+1:]; socketxp.ValidID(s) {
				t.Errorf("%q is accepted", s)
			}
		}
	}
}
