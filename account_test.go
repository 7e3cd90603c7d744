package socketxp_test

import (
	"strings"
	"testing"
	"time"

	"socketxp"

	"pgregory.net/rapid"
)

func TestNormalizeEmail(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"ada@example.com", "ada@example.com"},
		{"  Ada@Example.COM\n", "ada@example.com"},
		{"a@b", "a@b"},
		{"ada+tag@example.com", "ada+tag@example.com"},
		{"jürgen@müller.example", "jürgen@müller.example"},
		{strings.Repeat("a", 64) + "@" + strings.Repeat("b", 189), strings.Repeat("a", 64) + "@" + strings.Repeat("b", 189)},
		{strings.Repeat("a", 64) + "@" + strings.Repeat("b", 190), ""},
		{"", ""},
		{"@", ""},
		{"ada", ""},
		{"ada@", ""},
		{"@example.com", ""},
		{"ada@example@com", ""},
		{"ada lovelace@example.com", ""},
		{"ada@example.com\x00", ""},
		{"ada\r\nBcc: all@example.com", ""},
		{"ada\u200b@example.com", ""},
		{"\u202eada@example.com", ""},
		{"ada\xff@example.com", ""},
	} {
		got, err := socketxp.NormalizeEmail(c.in)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("NormalizeEmail(%q) = %q, %v, want %q", c.in, got, err, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.Map(rapid.String(), func(s string) string { return s + "@" + s })).Draw(t, "s")
		once, err := socketxp.NormalizeEmail(s)
		if err != nil {
			return
		}
		if twice, err := socketxp.NormalizeEmail(once); err != nil || twice != once {
			t.Errorf("%q becomes %q, and that %q, %v", s, once, twice, err)
		}
	})
}

func TestCheckPassword(t *testing.T) {
	for _, c := range []struct {
		password string
		ok       bool
	}{
		{"", false},
		{"elevenchars", false},
		{"twelve chars", true},
		{"zwölf zeiche", true},
		{strings.Repeat("ü", 11), false}, // 22 bytes, 11 characters
		{strings.Repeat("x", 256), true},
		{strings.Repeat("x", 257), false},
		{strings.Repeat("x", 20) + "\xff", false},
		{"ada.lovelace", false},
		{"ADA.Lovelace", false},
		{"ada.lovelace@example.com", false},
		{"Ada.Lovelace@Example.com", false},
		{"ada.lovelace1", true},
		{"            ", true}, // composition rules do not count
	} {
		err := socketxp.CheckPassword(c.password, "ada.lovelace@example.com")
		if (err == nil) != c.ok {
			t.Errorf("CheckPassword(%q) = %v", c.password, err)
		}
		if err != nil && c.password != "" && strings.Contains(err.Error(), c.password) {
			t.Errorf("the error names the password: %v", err)
		}
	}
}

func TestCheckDisplayText(t *testing.T) {
	for _, c := range []struct {
		s  string
		ok bool
	}{
		{"", true},
		{"Kamera 3, Süd-Eingang", true},
		{"カメラ", true},
		{"مستشعر", true},
		{"🌡️ sensor", true},
		{"<img src=x>", true}, // escaping is for whoever shows it
		{strings.Repeat("ü", 128), true},
		{strings.Repeat("ü", 129), false},
		{"a\nb", false},
		{"a\rb", false},
		{"a\tb", false},
		{"\x00", false},
		{"\x1b[31m", false},
		{"\x7f", false},
		{"\u0085", false},
		{"\u009b31m", false},
		{"\u2028", false},
		{"a\u202eb", false},
		{"a\u2066b", false},
		{"a\u200bb", false},
		{"\ufeffa", false},
		{"\u00ad", false},
		{"\U000e0041", false},
		{"\ue000", false},
		{"\uffff", false},
		{"\xff", false},
		{"\xed\xa0\x80", false},
	} {
		if err := socketxp.CheckDisplayText("name", c.s, 128); (err == nil) != c.ok {
			t.Errorf("CheckDisplayText(%q) = %v", c.s, err)
		}
	}
}

func TestTries(t *testing.T) {
	t0 := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	for wrong, want := range map[int]time.Duration{
		0: 0, 3: 0, 4: time.Second, 5: 2 * time.Second, 9: 32 * time.Second, 13: 512 * time.Second, 14: socketxp.LongestHold, 98: socketxp.LongestHold, 99: socketxp.LongestHold,
	} {
		after, wait := socketxp.Tries{Wrong: wrong}.Take(t0)
		if got := after.RetryAt.Sub(t0); got != want || wait != 0 || after.Wrong != wrong+1 {
			t.Errorf("after %d and one more: %+v, %v; want the next in %v", wrong, after, wait, want)
		}
	}
	full := socketxp.Tries{Wrong: socketxp.MaxTries}
	if after, wait := full.Take(t0.Add(1e6 * time.Hour)); wait != socketxp.LongestHold || after != full {
		t.Errorf("X-01 after %d: %+v, %v", socketxp.MaxTries, after, wait)
	}
	held := socketxp.Tries{Wrong: 7, RetryAt: t0.Add(time.Minute)}
	if after, wait := held.Take(t0); wait != time.Minute || after != held {
		t.Errorf("X-01 in its hold: %+v, %v", after, wait)
	}
	t.Run("X-01 the hold only ever moves later, whatever the clocks say", func(t *testing.T) {
		rapid.Check(t, func(r *rapid.T) {
			tries := socketxp.Tries{}
			for range rapid.IntRange(1, 200).Draw(r, "tries") {
				now := t0.Add(time.Duration(rapid.IntRange(-3600, 3600).Draw(r, "seconds")) * time.Second)
				after, wait := tries.Take(now)
				if after.RetryAt.Before(tries.RetryAt) || after.Wrong < tries.Wrong || after.Wrong > socketxp.MaxTries || wait > 0 && after != tries {
					r.Fatalf("%+v became %+v, %v", tries, after, wait)
				}
				tries = after
			}
		})
	})
}
