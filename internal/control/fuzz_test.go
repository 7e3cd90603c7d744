package control

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"
	"runtime"
	"testing"
)

// FuzzReceive plays bytes to either end in each state. Nothing may panic, nor
// allocate out of proportion to what came; what is received must be within the
// bounds, and mean the same when it is sent on.
func FuzzReceive(f *testing.F) {
	for _, role := range []Role{RoleDevice, RoleVisitor} {
		for i := range rules {
			if r := &rules[i]; r.sample != nil {
				data, err := json.Marshal(sampleFor(r, role))
				if err != nil {
					f.Fatal(err)
				}
				f.Add(r.from == agentSide, role == RoleDevice, uint8(3), appendFrame(nil, r.code, data))
			}
		}
	}
	f.Fuzz(func(t *testing.T, atGateway, device bool, at uint8, in []byte) {
		end, role := agentSide, RoleVisitor
		if atGateway {
			end = gatewaySide
		}
		if device {
			role = RoleDevice
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		c, _ := connAt(end, role, allStates[int(at)%len(allStates)], bytes.NewReader(in))
		var received []Message
		for {
			m, err := c.Receive(context.Background())
			if err != nil {
				break
			}
			received = append(received, m)
		}
		runtime.ReadMemStats(&after)
		// The decoder makes a value of some 50 bytes of each token of two or more
		// bytes; the rest is headroom for what the fuzzer itself allocates.
		if n, limit := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+300*len(in)); n > limit {
			t.Errorf("%d bytes made it allocate %d", len(in), n)
		}
		if end, _ := c.end(nil); end == nil {
			t.Error("the channel is open after an error")
		}
		for _, m := range received {
			if err := m.check(); err != nil {
				t.Errorf("received %+v: %v", m, err)
			}
			data := encode(t, m)
			again, err := ruleByType[reflect.TypeOf(m)].decode([]byte(data))
			if err != nil || encode(t, again) != data {
				t.Errorf("received %+v, sent on as %+v, %v", m, again, err)
			}
			if encode(t, tidy(m)) != data {
				t.Errorf("received %+v, which is not tidy", m)
			}
		}
	})
}

func encode(t *testing.T, m Message) string {
	t.Helper()
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
