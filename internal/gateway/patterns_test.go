package gateway

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"socketxp"
	"socketxp/internal/api"
)

// schema is what this test reads of an OpenAPI schema.
type schema struct {
	Ref        string             `json:"$ref"`
	Type       any                `json:"type"`
	MaxLength  int                `json:"maxLength"`
	MaxItems   int                `json:"maxItems"`
	Enum       []any              `json:"enum"`
	Items      *schema            `json:"items"`
	Properties map[string]*schema `json:"properties"`
}

type description struct {
	Paths map[string]map[string]struct {
		Parameters []struct {
			Name   string  `json:"name"`
			In     string  `json:"in"`
			Schema *schema `json:"schema"`
		} `json:"parameters"`
		Body struct {
			Content map[string]struct {
				Schema *schema `json:"schema"`
			} `json:"content"`
		} `json:"requestBody"`
	} `json:"paths"`
	Components struct {
		Schemas map[string]*schema `json:"schemas"`
	} `json:"components"`
}

// unbounded calls found for each text and list below s that has no bound.
func (d *description) unbounded(s *schema, at string, found func(string)) {
	if s == nil {
		return
	}
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		d.unbounded(d.Components.Schemas[name], at, found)
		return
	}
	is := func(kind string) bool {
		list, ok := s.Type.([]any)
		return s.Type == kind || ok && slices.Contains(list, any(kind))
	}
	switch {
	case is("string") && s.MaxLength == 0 && len(s.Enum) == 0:
		found(at)
	case is("array"):
		if s.MaxItems == 0 {
			found(at)
		}
		d.unbounded(s.Items, at+"[]", found)
	case is("object"):
		for name, p := range s.Properties {
			d.unbounded(p, at+"."+name, found)
		}
	}
}

func TestX11Patterns(t *testing.T) {
	w := start(t)
	c := w.rest()
	_, session := w.newSignIn(0)
	t.Run("X-11 whatever the API takes has a length", func(t *testing.T) {
		var d description
		if err := json.Unmarshal(must[[]byte](t)(newTestRouter().openAPI()), &d); err != nil {
			t.Fatal(err)
		}
		// These are held to their form, which the next test shows.
		known := []string{"Last-Event-ID", ".scope.devices[]", ".scope.groups[]", ".scope.networks[]", ".scope.rights[]"}
		seen := 0
		for path, methods := range d.Paths {
			for method, op := range methods {
				found := func(at string) {
					if !slices.Contains(known, at) {
						t.Errorf("%s %s: %s has no bound", method, path, at)
					}
				}
				for _, p := range op.Parameters {
					seen++
					d.unbounded(p.Schema, p.Name, found)
				}
				for media, body := range op.Body.Content {
					if media == "application/octet-stream" {
						continue // a file is streamed to the device, which takes what it has room for
					}
					seen++
					d.unbounded(body.Schema, "", found)
				}
			}
		}
		if seen < 30 {
			t.Errorf("only %d parameters and bodies: this test means nothing", seen)
		}
	})
	t.Run("X-11 what has a form is held to it", func(t *testing.T) {
		long := strings.Repeat("a", 10_000)
		for _, scope := range []string{
			`"access","scope":{"devices":["` + long + `"]}`, `"access","scope":{"groups":["` + long + `"]}`,
			`"access","scope":{"networks":["` + long + `"]}`, `"api","scope":{"rights":["` + long + `"]}`,
		} {
			c.do(post, "/api/v1/tokens", `{"name":"x","kind":`+scope+`}`, cookie(session)...).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
		}
		c.do(get, "/api/v1/events/stream", "", append(cookie(session), "Last-Event-ID", long[:8000])...).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
	})
	makeToken := func(t *testing.T, pattern string) restAnswer {
		t.Helper()
		body := must[[]byte](t)(json.Marshal(map[string]any{"kind": "registration", "name": "x", "scope": map[string]any{"name_pattern": pattern}, "max_uses": 1000}))
		return c.do(post, "/api/v1/tokens", string(body), cookie(session)...)
	}
	t.Run("X-11 patterns that are too long, or none", func(t *testing.T) {
		for _, pattern := range []string{strings.Repeat("*", 129), strings.Repeat("é", 129), "[", "[a", "[]", "[^]", "[a-]", "[-a]", "a\\", "[a\\", "x[", "*[", "[z-a", "[[[[[[[["} {
			makeToken(t, pattern).want(t, http.StatusBadRequest, socketxp.CodeInvalid)
		}
	})
	t.Run("X-11 patterns that take others years", func(t *testing.T) {
		// A matcher that tries all ways for each star has some 10^40 of them here.
		name := strings.Repeat("a", 63)
		for _, pattern := range []string{
			strings.Repeat("*a", 60) + "b", strings.Repeat("*", 127) + "b", strings.Repeat("a*", 63) + "b", strings.Repeat("?*", 60) + "b",
			strings.Repeat("*[a-z]", 20) + "b", strings.Repeat("[^b]", 30) + "*b", "(a+)+$", "(a|a)*b", "{1,9999}",
		} {
			token := into[api.CreatedToken](t, makeToken(t, pattern))
			for range 20 {
				_, err := w.tryRegister(token.Text, name, "")
				wantCode(t, err, socketxp.CodeForbidden)
			}
		}
	})
	t.Run("X-11 searches are for a text, whatever is in it", func(t *testing.T) {
		w.register("cam", "default")
		for _, search := range []string{strings.Repeat("%25a", 40), strings.Repeat("_", 128), strings.Repeat("*a", 60), "(a%2B)%2B$", ".*", "[a-z]", "%5C"} {
			page := into[api.DevicePage](t, c.do(get, "/api/v1/devices?search="+search, "", cookie(session)...))
			if page.Total != 0 {
				t.Errorf("%q finds %d", search, page.Total)
			}
		}
	})
}

// The program takes no regular expression from anybody: those it has are its own
// texts. Of other patterns, there are the names of devices in a token's scope.
func TestX11NoPatternsFromOutside(t *testing.T) {
	patterns := 0
	for _, root := range []string{"../..", "../../cmd", "../../internal"} {
		err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case entry.IsDir() && root == "../.." && name != root, entry.IsDir() && strings.HasSuffix(name, "test"):
				return fs.SkipDir
			case entry.IsDir(), !strings.HasSuffix(name, ".go"), strings.HasSuffix(name, "_test.go"):
				return nil
			}
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, name, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				f, ok := call.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				of, _ := f.X.(*ast.Ident)
				switch {
				case of == nil || len(call.Args) == 0:
				case of.Name == "regexp" && f.Sel.Name != "QuoteMeta":
					patterns++
					if text, ok := call.Args[0].(*ast.BasicLit); !ok || text.Kind != token.STRING {
						t.Errorf("%s: a regular expression that is no text of the program", files.Position(call.Pos()))
					}
				case (of.Name == "path" || of.Name == "filepath") && f.Sel.Name == "Match":
					patterns++
					if p, ok := call.Args[0].(*ast.SelectorExpr); !ok || p.Sel.Name != "NamePattern" {
						t.Errorf("%s: a pattern from where?", files.Position(call.Pos()))
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if patterns < 5 {
		t.Errorf("only %d were found: this test means nothing", patterns)
	}
}
