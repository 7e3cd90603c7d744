package socketxp_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"socketxp"
)

type inner struct {
	Name string `json:"name"`
	Deep *inner `json:"deep,omitempty"`
}

type embedded struct {
	Sub string `json:"sub"`
}

type outer struct {
	embedded
	Kind  string            `json:"kind"`
	Count int               `json:"count"`
	In    inner             `json:"in"`
	List  []inner           `json:"list"`
	Map   map[string]string `json:"map"`
	Named map[string]inner  `json:"named"`
	Any   any               `json:"any"`
	At    time.Time         `json:"at"`
	Raw   json.RawMessage   `json:"raw"`
	Plain string
	Skip  string `json:"-"`
}

func TestStrictUnmarshal(t *testing.T) {
	for _, c := range []struct {
		name, in string
		strict   string // what the error must say; "" for none
		lax      string
	}{
		{"empty object", `{}`, "", ""},
		{"all of it", `{"sub":"s","kind":"k","count":1,"in":{"name":"n","deep":{"name":"m"}},"list":[{"name":"l"}],"map":{"a":"b","A":"b"},"Plain":"p","any":{"x":[{"y":1}]},"at":"2026-11-24T00:00:00Z","raw":{"r":1}}`, `"A" appears twice`, `"A" appears twice`},
		{"spaces around", " \n{\"kind\" : \"k\"}\t", "", ""},
		{"null for a field", `{"kind":null,"in":null,"list":null}`, "", ""},
		{"unknown key", `{"knid":"k"}`, `unknown key "knid"`, ""},
		{"unknown key inside", `{"in":{"nome":"k"}}`, `unknown key "nome"`, ""},
		{"unknown key in a list", `{"list":[{},{"nome":"k"}]}`, `unknown key "nome"`, ""},
		{"unknown key in a map", `{"named":{"a":{"nome":"k"}}}`, `unknown key "nome"`, ""},
		{"a field without a tag", `{"Plain":"p"}`, "", ""},
		{"a field left out", `{"Skip":"p"}`, `unknown key "Skip"`, ""},
		{"key twice", `{"kind":"a","kind":"b"}`, `"kind" appears twice`, `"kind" appears twice`},
		{"key twice inside", `{"list":[{"name":"a","name":"a"}]}`, `"name" appears twice`, `"name" appears twice`},
		{"key twice, escaped", `{"kind":"a","k\u0069nd":"b"}`, `"kind" appears twice`, `"kind" appears twice`},
		{"unknown key twice", `{"x":1,"x":2}`, `unknown key "x"`, `"x" appears twice`},
		{"key twice where anything goes", `{"any":{"x":1,"X":2}}`, `"X" appears twice`, `"X" appears twice`},
		{"key in another case too", `{"kind":"reg","KIND":"api"}`, `"KIND" appears twice`, `"KIND" appears twice`},
		{"key in another case only", `{"KIND":"api"}`, `"KIND" is not spelt "kind"`, `"KIND" is not spelt "kind"`},
		{"key in another case inside", `{"in":{"Name":"x"}}`, `"Name" is not spelt "name"`, `"Name" is not spelt "name"`},
		{"key in another case in an embedded struct", `{"SUB":"x"}`, `"SUB" is not spelt "sub"`, `"SUB" is not spelt "sub"`},
		{"key that folds to a field's", `{"\u017fub":"x"}`, `is not spelt "sub"`, `is not spelt "sub"`},
		{"key that folds to a field's, beside it", `{"sub":"y","\u017fub":"x"}`, `is not spelt "sub"`, `is not spelt "sub"`},
		{"Kelvin for k", `{"\u212aind":"x"}`, `is not spelt "kind"`, `is not spelt "kind"`},
		{"the value of another type", `{"count":"1"}`, `"count" is a string`, `"count" is a string`},
		{"a fraction", `{"count":1.5}`, `"count" is a number`, `"count" is a number`},
		{"a number too big", `{"count":1e400}`, `"count" is a number`, `"count" is a number`},
		{"an object for a string", `{"kind":{"x":1}}`, `"kind" is an object or array`, `"kind" is an object or array`},
		{"an array for an object", `{"in":[]}`, `"in" is an object or array`, `"in" is an object or array`},
		{"nothing", ``, "unexpected EOF", "unexpected EOF"},
		{"spaces", "  ", "unexpected EOF", "unexpected EOF"},
		{"null", `null`, "not an object", "not an object"},
		{"an array", `[{}]`, "not an object", "not an object"},
		{"a string", `"{}"`, "not an object", "not an object"},
		{"cut short", `{"kind":"k"`, "unexpected EOF", "unexpected EOF"},
		{"cut in a string", `{"kind":"k`, "unexpected EOF", "unexpected EOF"},
		{"another object after it", `{}{}`, "something follows", "something follows"},
		{"letters after it", `{} x`, "something follows", "something follows"},
		{"a bracket after it", `{}}`, "something follows", "something follows"},
		{"a comment", `{/**/}`, "invalid character", "invalid character"},
		{"single quotes", `{'kind':'k'}`, "invalid character", "invalid character"},
		{"a comma too many", `{"kind":"k",}`, "invalid character", "invalid character"},
		{"no colon", `{"kind" "k"}`, "invalid character", "invalid character"},
		{"a control character", "{\"kind\":\"\n\"}", "invalid character", "invalid character"},
		{"not UTF-8", "{\"kind\":\"\xff\"}", "not valid UTF-8", "not valid UTF-8"},
		{"a byte-order mark", "\ufeff{}", "invalid character", "invalid character"},
		{"X-06 32 deep", `{"any":` + strings.Repeat("[", 31) + strings.Repeat("]", 31) + `}`, "", ""},
		{"X-06 33 deep", `{"any":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`, "deeper than 32", "deeper than 32"},
		{"X-06 a million deep", strings.Repeat(`{"any":`, 1_000_000), "deeper than 32", "deeper than 32"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for mode, want := range map[string]string{"strict": c.strict, "lax": c.lax} {
				var v outer
				unmarshal := map[string]func([]byte, any) error{"strict": socketxp.StrictUnmarshal, "lax": socketxp.LaxUnmarshal}[mode]
				err := unmarshal([]byte(c.in), &v)
				if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("%s: error %v, want %q", mode, err, want)
				}
			}
		})
	}
}

func TestUnmarshalValues(t *testing.T) {
	const in = `{"sub":"s","kind":"k","count":-1,"in":{"name":"n","deep":{"name":"m"}},"list":[{"name":"l"}],"map":{"a":"b"},
		"named":{"x":{"name":"y"}},"Plain":"p","any":{"x":[{"y":1}]},"at":"2026-11-24T00:00:00Z","raw":{"r":1,"any":2}}`
	var strict, lax, plain outer
	if err := socketxp.StrictUnmarshal([]byte(in), &strict); err != nil {
		t.Fatal(err)
	}
	if err := socketxp.LaxUnmarshal([]byte(in), &lax); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(in), &plain); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(strict, plain) || !reflect.DeepEqual(lax, plain) {
		t.Errorf("strict %+v, lax %+v, want %+v", strict, lax, plain)
	}
}

// FuzzStrictUnmarshal compares with encoding/json: what is accepted means the
// same there, and whatever order the fields are written in.
func FuzzStrictUnmarshal(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"kind":"a","KIND":"b"}`, `{"in":{"deep":{"deep":{}}}}`, `{"ſub":"x"}`, `{"any":[[[[1e3]]]],"map":{"a":"b"}}`, `{} {}`, `null`,
		`{"raw":{"a":1,"a":2}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var strict, lax, plain outer
		err := socketxp.StrictUnmarshal(data, &strict)
		laxErr := socketxp.LaxUnmarshal(data, &lax)
		if err != nil {
			return
		}
		if laxErr != nil {
			t.Fatalf("strict takes %q, lax says %v", data, laxErr)
		}
		if err := json.Unmarshal(data, &plain); err != nil {
			t.Fatalf("strict takes %q, encoding/json says %v", data, err)
		}
		if !reflect.DeepEqual(strict, plain) || !reflect.DeepEqual(lax, plain) {
			t.Errorf("%q is %+v, %+v and %+v", data, strict, lax, plain)
		}
		// Decoded by exact keys alone, it is the same: no key was matched loosely.
		var keys map[string]json.RawMessage
		if err := json.Unmarshal(data, &keys); err != nil {
			t.Fatal(err)
		}
		for k := range keys {
			if k != "sub" && k != "Plain" && !strings.Contains(" kind count in list map named any at raw ", " "+k+" ") {
				t.Errorf("%q has the key %q", data, k)
			}
		}
	})
}

func TestJSONKeys(t *testing.T) {
	want := []string{"kind", "count", "in", "list", "map", "named", "any", "at", "raw"}
	for _, v := range []any{outer{}, &outer{}} {
		if got := socketxp.JSONKeys(v); !reflect.DeepEqual(got, want) {
			t.Errorf("JSONKeys = %v", got)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"work_dir", "tunnels", "gateway", "ca_file", "ssh_users"}
	for _, c := range []struct{ in, want string }{
		{"work_dri", "work_dir"},
		{"workdir", "work_dir"},
		{"Tunnels", "tunnels"},
		{"tunnel", "tunnels"},
		{"gatway", "gateway"},
		{"cafile", "ca_file"},
		{"sshusers", "ssh_users"},
		{"colour", ""},
		{"", ""},
		{"x", ""},
		{strings.Repeat("x", 40), ""},
	} {
		if got := socketxp.Nearest(c.in, known); got != c.want {
			t.Errorf("Nearest(%q) = %q, want %q", c.in, got, c.want)
		}
	}
	if got := socketxp.Nearest("x", nil); got != "" {
		t.Errorf("Nearest of nothing = %q", got)
	}
}
