package socketxp_test

import (
	"reflect"
	"testing"
	"time"

	"socketxp"
)

func auditRecord() socketxp.AuditRecord {
	return socketxp.AuditRecord{
		AuditEntry: socketxp.AuditEntry{
			AccountID: "account", At: time.Date(2026, 11, 24, 12, 0, 0, 123456000, time.UTC),
			Actor:  socketxp.Actor{Kind: socketxp.KindAPI, UserID: "user", DeviceID: "device", CredentialID: "token", RemoteAddr: "203.0.113.7"},
			Action: "device.rename", ObjectKind: "device", ObjectID: "id", ObjectName: "name", Reason: socketxp.CodeForbidden, Detail: "a line",
		},
		Seq:  7,
		Prev: [32]byte{1, 2, 3},
	}
}

// Each field, those of the Actor included, is under the hash: a field that is
// added to the struct and left out of ChainHash fails here.
func TestChainHashCoversAll(t *testing.T) {
	base := auditRecord().ChainHash()
	changed := 0
	var walk func(get func(*socketxp.AuditRecord) reflect.Value, name string)
	walk = func(get func(*socketxp.AuditRecord) reflect.Value, name string) {
		r := auditRecord()
		v := get(&r)
		switch v.Interface().(type) {
		case time.Time:
			v.Set(reflect.ValueOf(r.At.Add(time.Microsecond)))
		case [32]byte:
			if name == "Hash" {
				return
			}
			v.Index(31).SetUint(1)
		default:
			switch v.Kind() { //nolint:exhaustive // the other kinds fail below
			case reflect.Struct:
				for i := range v.NumField() {
					walk(func(r *socketxp.AuditRecord) reflect.Value { return get(r).Field(i) }, v.Type().Field(i).Name)
				}
				return
			case reflect.String:
				if v.Len() == 0 {
					t.Errorf("the test leaves %s empty", name)
				}
				v.SetString(v.String() + "x")
			case reflect.Int64:
				v.SetInt(v.Int() + 1)
			default:
				t.Fatalf("%s is a %v: teach this test", name, v.Kind())
			}
		}
		changed++
		if r.ChainHash() == base {
			t.Errorf("changing %s does not change the hash", name)
		}
	}
	walk(func(r *socketxp.AuditRecord) reflect.Value { return reflect.ValueOf(r).Elem() }, "record")
	if changed != 15 {
		t.Errorf("%d fields were changed, want 15", changed)
	}
}

func TestChainHashBoundaries(t *testing.T) {
	texts := func(r *socketxp.AuditRecord) []reflect.Value {
		var all []reflect.Value
		for _, v := range []reflect.Value{reflect.ValueOf(&r.AuditEntry).Elem(), reflect.ValueOf(&r.Actor).Elem()} {
			for i := range v.NumField() {
				if v.Field(i).Kind() == reflect.String {
					all = append(all, v.Field(i))
				}
			}
		}
		return all
	}
	seen := make(map[[32]byte]int)
	n := len(texts(&socketxp.AuditRecord{}))
	for i := range n { // the same text in another field, and split over two
		for j := range n {
			var r socketxp.AuditRecord
			fields := texts(&r)
			fields[i].SetString(fields[i].String() + "ab")
			fields[j].SetString(fields[j].String() + "c")
			seen[r.ChainHash()]++
			fields[i].SetString("a")
			fields[j].SetString("bc")
			seen[r.ChainHash()]++
		}
	}
	if len(seen) != 2*n*n {
		t.Errorf("%d different records have %d hashes", 2*n*n, len(seen))
	}
	var r socketxp.AuditRecord
	local := r
	local.At = local.At.In(time.FixedZone("", 3600))
	if r.ChainHash() != local.ChainHash() {
		t.Error("the zone in which a time is written changes the hash")
	}
}

func TestVerifyChain(t *testing.T) {
	chain := make([]socketxp.AuditRecord, 4) // chain[0] stands before the first
	for i := 1; i < len(chain); i++ {
		chain[i] = auditRecord()
		chain[i].Seq, chain[i].Prev = int64(i), chain[i-1].Hash
		chain[i].Hash = chain[i].ChainHash()
		if err := socketxp.VerifyChain(chain[i-1], chain[i]); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]func() (prev, r socketxp.AuditRecord){
		"one left out":          func() (a, b socketxp.AuditRecord) { return chain[1], chain[3] },
		"the first left out":    func() (a, b socketxp.AuditRecord) { return chain[0], chain[2] },
		"order changed":         func() (a, b socketxp.AuditRecord) { return chain[2], chain[1] },
		"twice":                 func() (a, b socketxp.AuditRecord) { return chain[2], chain[2] },
		"changed":               func() (a, b socketxp.AuditRecord) { r := chain[2]; r.Detail = "another"; return chain[1], r },
		"the one before forged": func() (a, b socketxp.AuditRecord) { p := chain[1]; p.Hash = [32]byte{9}; return p, chain[2] },
		"of another account, with a good hash": func() (a, b socketxp.AuditRecord) {
			r := chain[2]
			r.AccountID = "another"
			r.Hash = r.ChainHash()
			return chain[1], r
		},
	} {
		t.Run("J9 "+name, func(t *testing.T) {
			if err := socketxp.VerifyChain(c()); socketxp.CodeOf(err) != socketxp.CodeInvalid {
				t.Errorf("VerifyChain = %v", err)
			}
		})
	}
}
