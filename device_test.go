package socketxp_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"

	"socketxp"

	"pgregory.net/rapid"
)

func TestCheckDeviceName(t *testing.T) {
	for _, c := range []struct {
		name, s string
		ok      bool
		hint    string
	}{
		{"R-06 plain", "sensor12345", true, ""},
		{"R-06 one letter", "a", true, ""},
		{"R-06 starts with a digit", "7-up", true, ""},
		{"R-06 ends with a hyphen", "a-", true, ""},
		{"R-06 63 letters", strings.Repeat("a", 63), true, ""},
		{"R-06 64 letters", strings.Repeat("a", 64), false, strings.Repeat("a", 63)},
		{"R-06 10 KiB", strings.Repeat("a", 10<<10), false, strings.Repeat("a", 63)},
		{"R-06 empty", "", false, ""},
		{"R-06 another case", "Sensor12345", false, "sensor12345"},
		{"R-06 starts with a hyphen", "-a", false, "a"},
		{"R-06 an underscore", "_", false, ""},
		{"R-06 a path", "../x", false, "x"},
		{"R-06 markup", "<img src=x>", false, "img-src-x"},
		{"R-06 a command", "$(id)", false, "id"},
		{"R-06 a newline", "a\n", false, "a"},
		{"R-06 a space", "my device", false, "my-device"},
		{"R-06 a confusable letter", "s\u0435nsor", false, "s-nsor"},
		{"R-06 a right-to-left mark", "a\u202eb", false, "a-b"},
		{"R-06 not UTF-8", "a\xff", false, "a"},
		{"R-06 a NUL", "a\x00b", false, "a-b"},
		{"R-06 a subject wildcard", "a.*.>", false, "a"},
		{"R-06 reserved: admin", "admin", false, "admin-1"},
		{"R-06 reserved: api", "api", false, "api-1"},
		{"R-06 reserved: localhost", "localhost", false, "localhost-1"},
		{"R-06 contains a reserved one", "admin-2", true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := socketxp.CheckDeviceName(c.s)
			if (err == nil) != c.ok {
				t.Fatalf("CheckDeviceName(%q) = %v", c.s, err)
			}
			var e *socketxp.Error
			if err != nil && (!errors.As(err, &e) || e.Code != socketxp.CodeInvalid || (c.hint == "") != (e.Hint == "") || !strings.HasSuffix(e.Hint, c.hint)) {
				t.Errorf("the error is %+v, want a hint at %q", e, c.hint)
			}
			if group := socketxp.CheckGroup(c.s); (group == nil) != (c.ok || strings.Contains(c.name, "reserved:")) {
				t.Errorf("CheckGroup(%q) = %v", c.s, group)
			}
		})
	}
}

func TestMakeLabel(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"raspberrypi", "raspberrypi"},
		{"Ada's MacBook Pro.local", "ada-s-macbook-pro-local"},
		{"--x--y--", "x-y"},
		{"localhost", "localhost-1"},
		{"Admin", "admin-1"},
		{"", ""},
		{"---", ""},
		{"カメラ", ""},
		{"カメラ3", "3"},
		{strings.Repeat("a", 62) + "-b", strings.Repeat("a", 62)},
		{strings.Repeat("a", 100), strings.Repeat("a", 63)},
	} {
		if got := socketxp.MakeLabel(c.in); got != c.want {
			t.Errorf("MakeLabel(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func FuzzMakeLabel(f *testing.F) {
	for _, s := range []string{"raspberrypi", "Ada's Mac", "localhost", "---", "\xff\xfe", strings.Repeat("é-", 100)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		label := socketxp.MakeLabel(s)
		if label == "" {
			return
		}
		if err := errors.Join(socketxp.CheckDeviceName(label), socketxp.CheckGroup(label)); err != nil {
			t.Errorf("MakeLabel(%q) = %q: %v", s, label, err)
		}
		if again := socketxp.MakeLabel(label); again != label {
			t.Errorf("MakeLabel(%q) = %q, and of that %q", s, label, again)
		}
	})
}

func TestFactsCheck(t *testing.T) {
	good := socketxp.Facts{OS: "linux", Hostname: strings.Repeat("ü", 256), LocalAddrs: make([]string, 16)}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, f := range map[string]socketxp.Facts{
		"17 addresses":            {LocalAddrs: make([]string, 17)},
		"an escape sequence":      {Kernel: "\x1b]0;x\x07"},
		"257 characters":          {Hostname: strings.Repeat("x", 257)},
		"a line break in a field": {LocalAddrs: []string{"10.0.0.1\n10.0.0.2"}},
		"not UTF-8":               {Version: "\xff"},
		"an override":             {Arch: "\u202e"},
		"a NUL":                   {OS: "\x00"},
	} {
		if err := f.Check(); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestFingerprint(t *testing.T) {
	// As `ssh-keygen -lf` shows SHA-256 sums: 43 letters of base64, no padding.
	got := socketxp.Fingerprint(make(ed25519.PublicKey, ed25519.PublicKeySize))
	if got != "SHA256:Zmh6rfhivXdsj8GLjp+OIAiXFIVu4jOzkCpZHQ1fKSU" {
		t.Errorf("Fingerprint = %q", got)
	}
}

func TestRegistrationProof(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 32, 32)
		tokenA, tokenB := rapid.String().Draw(t, "tokenA"), rapid.String().Draw(t, "tokenB")
		keyA, keyB := key.Draw(t, "keyA"), key.Draw(t, "keyB")
		same := bytes.Equal(socketxp.RegistrationProof(tokenA, keyA), socketxp.RegistrationProof(tokenB, keyB))
		if same != (tokenA == tokenB && bytes.Equal(keyA, keyB)) {
			t.Errorf("a proof is good for two registrations")
		}
	})
	if !bytes.HasPrefix(socketxp.RegistrationProof("", nil), []byte("socketxp-registration/1\x00")) {
		t.Error("the signature is not kept apart from others of the key")
	}
}
