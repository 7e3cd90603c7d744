package socketxp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"unicode/utf8"
)

// maxJSONDepth is how deep arrays and objects may nest.
const maxJSONDepth = 32

// StrictUnmarshal decodes one JSON object from outside into v, a pointer to a
// struct, and refuses what encoding/json lets pass: fields that v doesn't have,
// a key that appears twice or differs from the field's name in case only, data
// after the object, null for the object, invalid UTF-8, and nesting deeper than
// 32. The error names the key. The caller bounds len(data).
func StrictUnmarshal(data []byte, v any) error {
	if err := checkJSON(data, reflect.TypeOf(v), true); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return jsonError(err)
	}
	return nil
}

// LaxUnmarshal is StrictUnmarshal but ignores fields that v doesn't have: for
// messages of a newer peer.
func LaxUnmarshal(data []byte, v any) error {
	if err := checkJSON(data, reflect.TypeOf(v), false); err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return jsonError(err)
	}
	return nil
}

func jsonError(err error) error {
	var typeErr *json.UnmarshalTypeError
	switch {
	case errors.As(err, &typeErr):
		return fmt.Errorf("the value of %q is a %s", typeErr.Field, typeErr.Value)
	case strings.HasPrefix(err.Error(), "json: unknown field "):
		return fmt.Errorf("unknown key %s", strings.TrimPrefix(err.Error(), "json: unknown field "))
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}

// jsonLevel is an object or array that checkJSON is inside of.
type jsonLevel struct {
	object bool
	key    bool // the next token of an object is a key
	name   string
	seen   map[string]bool
	typ    reflect.Type // what it is decoded into; nil if that isn't known
	value  reflect.Type // what its next value is decoded into
}

// checkJSON walks the tokens of what is to be decoded into a t: one object, keys
// unique without regard to case, and those of t's fields spelt as they are; with
// strict, no others. It stops at the first thing wrong, so that what is refused
// costs little.
func checkJSON(data []byte, t reflect.Type, strict bool) error {
	if !utf8.Valid(data) {
		return errors.New("it is not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var stack []jsonLevel
	for first := true; first || len(stack) > 0; first = false {
		tok, err := dec.Token()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return jsonError(err)
		}
		if first && tok != json.Delim('{') {
			return errors.New("it is not an object")
		}
		top := len(stack) - 1
		if d, ok := tok.(json.Delim); ok {
			switch d {
			case '{', '[':
				if len(stack) == maxJSONDepth {
					return fmt.Errorf("nested deeper than %d", maxJSONDepth)
				}
				name := ""
				if top >= 0 {
					stack[top].key = true
					name, t = stack[top].name, stack[top].value
				}
				level := newJSONLevel(d == '{', t)
				if !level.fits() {
					return fmt.Errorf("the value of %q is an object or array", name)
				}
				stack = append(stack, level)
				continue
			case '}', ']':
				stack = stack[:top]
				continue
			}
		}
		if !stack[top].object {
			continue
		}
		if !stack[top].key {
			stack[top].key = true
			continue
		}
		name, _ := tok.(string)
		if err := stack[top].enter(name, strict); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the value")
	}
	return nil
}

// newJSONLevel returns the level of an object or array that is decoded into t.
func newJSONLevel(object bool, t reflect.Type) jsonLevel {
	l := jsonLevel{object: object, key: true}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return l
	}
	l.typ = t
	switch t.Kind() { //nolint:exhaustive // the others hold no values
	case reflect.Map, reflect.Slice, reflect.Array:
		l.value = t.Elem()
	}
	return l
}

// fits reports whether what the level is decoded into can hold it.
func (l *jsonLevel) fits() bool {
	if l.typ == nil {
		return true
	}
	switch l.typ.Kind() { //nolint:exhaustive // the others hold no values
	case reflect.Interface:
		return true
	case reflect.Struct, reflect.Map:
		return l.object
	case reflect.Slice, reflect.Array:
		return !l.object
	}
	return false
}

// enter takes the next key of an object.
func (l *jsonLevel) enter(name string, strict bool) error {
	folded := strings.ToLower(name)
	if l.seen[folded] {
		return fmt.Errorf("the key %q appears twice", name)
	}
	if l.seen == nil {
		l.seen = make(map[string]bool)
	}
	l.seen[folded] = true
	l.key, l.name = false, name
	if l.typ == nil || l.typ.Kind() != reflect.Struct {
		return nil
	}
	fields := jsonFields(l.typ)
	if l.value = fields[name]; l.value != nil {
		return nil
	}
	for known := range fields {
		if strings.EqualFold(known, name) { // so does encoding/json: "ſub" is "sub" to it
			return fmt.Errorf("the key %q is not spelt %q", name, known)
		}
	}
	if strict {
		return fmt.Errorf("unknown key %q", name)
	}
	return nil
}

// fieldsByType keeps what jsonFields found: looking at a type anew for each
// message took longer than checking an Ed25519 signature.
var fieldsByType sync.Map // of map[string]reflect.Type by reflect.Type

// jsonFields returns the types of a struct's fields by their keys.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	if known, ok := fieldsByType.Load(t); ok {
		return known.(map[string]reflect.Type)
	}
	fields := make(map[string]reflect.Type)
	for _, f := range reflect.VisibleFields(t) {
		if name := jsonName(f); name != "" {
			fields[name] = f.Type
		}
	}
	fieldsByType.Store(t, fields)
	return fields
}

// jsonName returns the key of a struct's field, or "" if it has none of its own.
func jsonName(f reflect.StructField) string {
	tag, tagged := f.Tag.Lookup("json")
	name, _, _ := strings.Cut(tag, ",")
	switch {
	case tag == "-" || !f.IsExported() || f.Anonymous && name == "":
		return ""
	case !tagged || name == "":
		return f.Name
	}
	return name
}

// JSONKeys returns the JSON names of the fields of struct v, for a message that
// names the nearest known key.
func JSONKeys(v any) []string {
	t := reflect.TypeOf(v)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var keys []string
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			keys = append(keys, name)
		}
	}
	return keys
}

// Nearest returns the word of known that differs from s in the fewest letters,
// or "" if none is within a third of s's length (and at least 2).
func Nearest(s string, known []string) string {
	best, bestDist := "", max(2, len(s)/3)+1
	for _, k := range known {
		if d := editDistance(strings.ToLower(s), strings.ToLower(k)); d < bestDist {
			best, bestDist = k, d
		}
	}
	return best
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diag, row[j] = row[j], min(row[j]+1, row[j-1]+1, diag+cost)
		}
	}
	return row[len(b)]
}
