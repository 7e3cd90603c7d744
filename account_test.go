package socketxp_test

import (
	"strings"
	"testing"

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
