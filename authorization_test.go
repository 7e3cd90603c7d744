package socketxp_test

import (
	"regexp"
	"strings"
	"testing"

	"socketxp"
)

func TestUserCodes(t *testing.T) {
	form := regexp.MustCompile(`^[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}$`)
	seen := make(map[string]bool)
	letters := make(map[rune]int)
	const n = 4000
	for range n {
		code := socketxp.NewUserCode()
		if !form.MatchString(code) || seen[code] {
			t.Fatalf("%q is no new code", code)
		}
		seen[code] = true
		for _, r := range code {
			letters[r]++
		}
		for _, typed := range []string{code, strings.ToLower(code), strings.ReplaceAll(code, "-", ""), " " + strings.ReplaceAll(code, "-", " ") + "\n"} {
			if got, err := socketxp.ParseUserCode(typed); err != nil || got != code {
				t.Fatalf("%q is %q, %v", typed, got, err)
			}
		}
	}
	// Each of 20 letters in 8 places: 1600 are expected of each, and 400 are ten
	// standard deviations.
	for r, got := range letters {
		if r != '-' && (got < 1200 || got > 2000) {
			t.Errorf("the letter %c came %d times", r, got)
		}
	}
	if len(letters) != 21 {
		t.Errorf("there are %d letters", len(letters))
	}
}

func FuzzParseUserCode(f *testing.F) {
	for _, s := range []string{"BDFH-JLNP", "bdfhjlnp", " bdfh jlnp ", "BDFH-JLNPQ", "AEIO-UAEI", "", "----", "ſtſt-ſtſt", strings.Repeat("B", 100)} {
		f.Add(s)
	}
	form := regexp.MustCompile(`^[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}$`)
	f.Fuzz(func(t *testing.T, s string) {
		code, err := socketxp.ParseUserCode(s)
		if err != nil {
			if code != "" || socketxp.CodeOf(err) != socketxp.CodeInvalid {
				t.Fatalf("%q with %v", code, err)
			}
			return
		}
		again, err := socketxp.ParseUserCode(code)
		if !form.MatchString(code) || err != nil || again != code {
			t.Fatalf("%q is %q and then %q, %v", s, code, again, err)
		}
	})
}
