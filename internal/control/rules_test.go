package control

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"socketxp"
)

// stateNames are the words of SPEC.md, in order.
var stateNames = []string{"fresh", "greeted", "reported", "open", "leaving", "over"}

var allStates = []state{fresh, greeted, reported, open, leaving, over}

// states reads a cell of SPEC.md's table: names, or a range of them.
func states(t *testing.T, cell string) state {
	t.Helper()
	index := func(name string) int {
		for i, n := range stateNames {
			if n == name {
				return i
			}
		}
		t.Fatalf("SPEC.md: unknown state %q", name)
		return 0
	}
	var s state
	if cell == "–" {
		return 0
	}
	if from, to, ok := strings.Cut(cell, " to "); ok {
		for i := index(from); i <= index(to); i++ {
			s |= allStates[i]
		}
		return s
	}
	for _, name := range strings.Split(cell, ", ") {
		s |= allStates[index(name)]
	}
	return s
}

// The table of SPEC.md and the table in the code say the same.
func TestRulesAreTheSpec(t *testing.T) {
	text, err := os.ReadFile("SPEC.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 9 || !strings.HasPrefix(cells[1], " 0x") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		code, err := strconv.ParseUint(cells[1], 0, 8)
		if err != nil {
			t.Fatal(err)
		}
		r := ruleByCode[byte(code)]
		if r == nil {
			t.Errorf("SPEC.md has %s, the code has not", cells[1])
			continue
		}
		found++
		limit, unit, _ := strings.Cut(cells[6], " ")
		size, err := strconv.Atoi(limit)
		if err != nil {
			t.Fatal(err)
		}
		if unit == "KiB" {
			size <<= 10
		}
		from := map[string]side{"A": agentSide, "G": gatewaySide}[cells[3]]
		if r.name != cells[2] || r.from != from || r.device != states(t, cells[4]) || r.visitor != states(t, cells[5]) || r.max != size {
			t.Errorf("SPEC.md says %v, the code %+v", cells[1:8], *r)
		}
		if r.sample != nil {
			if got := extensible(t, r); got != (cells[7] == "yes") {
				t.Errorf("%s is extensible: %v in the code", r.name, got)
			}
		}
	}
	if found != len(rules) || len(ruleByCode) != len(rules) || len(ruleByType) != len(rules)-2 {
		t.Errorf("SPEC.md has %d messages, the code %d", found, len(rules))
	}
}

// extensible reports whether r's message takes a field that it does not know.
func extensible(t *testing.T, r *rule) bool {
	data, err := json.Marshal(sampleFor(r, RoleDevice))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.decode(data); err != nil {
		t.Fatalf("%s does not take its own sample: %v", r.name, err)
	}
	more := strings.TrimPrefix(string(data), "{")
	if more != "}" {
		more = "," + more
	}
	_, err = r.decode([]byte(`{"new_in_version_99":[1]` + more))
	return err == nil
}

// script is a net.Conn that plays what the peer said and keeps what is answered.
type script struct {
	net.Conn // nil: what isn't below is not called
	in       io.Reader
	out      []byte
	closed   bool
}

func (s *script) Read(b []byte) (int, error) {
	if s.closed {
		return 0, net.ErrClosed
	}
	return s.in.Read(b)
}

func (s *script) Write(b []byte) (int, error) {
	if s.closed {
		return 0, net.ErrClosed
	}
	s.out = append(s.out, b...)
	return len(b), nil
}
func (s *script) Close() error                     { s.closed = true; return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// connAt returns an end that has come to a state, and what it is connected to.
func connAt(s side, role Role, at state, in io.Reader) (*Conn, *script) {
	w := &script{in: in}
	var c *Conn
	if s == agentSide {
		c = NewAgent(w, role, Options{})
		c.timer = time.AfterFunc(time.Hour, func() {})
		c.awaiting = true
	} else {
		c = NewGateway(w, Options{})
		if at != fresh {
			c.role = role
		}
	}
	c.state = at
	return c, w
}

// frameOf returns the frame of r's sample.
func frameOf(t *testing.T, r *rule, role Role) []byte {
	t.Helper()
	if r.sample == nil {
		return appendFrame(nil, r.code, nil)
	}
	data, err := json.Marshal(sampleFor(r, role))
	if err != nil {
		t.Fatal(err)
	}
	return appendFrame(nil, r.code, data)
}

func TestMatrix(t *testing.T) {
	for _, role := range []Role{RoleDevice, RoleVisitor} {
		for i, at := range allStates {
			for _, receiver := range []side{agentSide, gatewaySide} {
				end := map[side]string{agentSide: "agent", gatewaySide: "gateway"}[receiver]
				t.Run(fmt.Sprintf("N-08 %s channel, %s, %s", role, stateNames[i], end), func(t *testing.T) {
					for code := range 256 {
						testCell(t, role, at, receiver, byte(code))
					}
				})
			}
		}
	}
}

func testCell(t *testing.T, role Role, at state, end side, code byte) {
	r := ruleByCode[code]
	allowed := r != nil && map[Role]state{RoleDevice: r.device, RoleVisitor: r.visitor}[role]&at != 0
	name := fmt.Sprintf("%#02x", code)
	frame := appendFrame(nil, code, []byte("{}"))
	if r != nil {
		name, frame = r.name, frameOf(t, r, role)
	}

	c, w := connAt(end, role, at, strings.NewReader(string(frame)))
	m, err := c.Receive(t.Context())
	switch {
	case !allowed || r.from == end:
		wantCode(t, err, socketxp.CodeProtocol)
		if !w.closed || m != nil {
			t.Errorf("%s was refused, but the channel is open", name)
		}
		// A gateway says why, once the agent can know the word.
		if said := len(w.out) > 0; said != (end == gatewaySide && map[Role]state{RoleDevice: started, RoleVisitor: visitStarted}[role]&at != 0) {
			t.Errorf("%s was refused with %q", name, w.out)
		}
	case r.sample == nil:
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	default:
		if err != nil || !reflect.DeepEqual(m, sampleFor(r, role)) {
			t.Errorf("%s: received %+v, %v", name, m, err)
		}
		wantState(t, c, name, role, at, r)
	}
	_ = c.Close()

	if r == nil || r.sample == nil {
		return
	}
	c, w = connAt(end, role, at, strings.NewReader(""))
	err = c.Send(t.Context(), sampleFor(r, role))
	if want := allowed && r.from == end; (err == nil) != want || (len(w.out) > 0) != want {
		t.Errorf("%s: Send = %v", name, err)
	} else if want {
		wantState(t, c, name, role, at, r)
	}
	_ = c.Close()
}

// wantState checks where a message has taken a channel, against section 3 of
// SPEC.md.
func wantState(t *testing.T, c *Conn, name string, role Role, at state, r *rule) {
	t.Helper()
	want := at
	switch name {
	case "Hello":
		want = greeted
	case "Report":
		if at == greeted {
			want = reported
		}
	case "Welcome":
		want = open
	case "Logout":
		want = leaving
	case "Refused", "LoggedOut":
		want = over
	}
	if c.state != want || c.role != role {
		t.Errorf("%s in state %v has taken a %s channel to %v, want %v (%s)", name, at, c.role, c.state, want, r.name)
	}
}

func TestLengths(t *testing.T) {
	for i := range rules {
		r := &rules[i]
		role, at := RoleDevice, r.device
		if at == 0 {
			role, at = RoleVisitor, r.visitor
		}
		at &= -at // the first state in which it may come
		to := agentSide
		if r.from == agentSide {
			to = gatewaySide
		}
		for _, size := range []int{0, 1, r.max - 1, r.max, r.max + 1, 1 << 16, 1<<16 + 1, 1<<23 - 1, 1 << 23, 1<<24 - 1} {
			t.Run(fmt.Sprintf("N-02 %s announces %d", r.name, size), func(t *testing.T) {
				header := binary.BigEndian.AppendUint32(nil, uint32(r.code)<<24|uint32(size))
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				c, _ := connAt(to, role, at, strings.NewReader(string(header)+`{"x`))
				m, err := c.Receive(t.Context())
				runtime.ReadMemStats(&after)
				if err == nil || errors.Is(err, io.EOF) || m != nil {
					t.Errorf("received %+v, %v", m, err)
				}
				if size > r.max {
					wantCode(t, err, socketxp.CodeProtocol)
				}
				if n := after.TotalAlloc - before.TotalAlloc; n > 64<<10 {
					t.Errorf("it allocated %d bytes", n)
				}
			})
		}
	}
	t.Run("N-02 a whole frame that is too long", func(t *testing.T) {
		c, w := connAt(gatewaySide, RoleDevice, fresh, strings.NewReader(string(appendFrame(nil, 0x10, make([]byte, 4<<10+1)))))
		_, err := c.Receive(t.Context())
		wantCode(t, err, socketxp.CodeProtocol)
		if rest, _ := io.ReadAll(w.in); len(rest) != 4<<10+1 {
			t.Errorf("%d bytes of it were read", 4<<10+1-len(rest))
		}
	})
	for cut := range 20 {
		t.Run(fmt.Sprintf("N-02 the end after %d bytes", cut), func(t *testing.T) {
			frame := frameOf(t, ruleByType[reflect.TypeFor[Hello]()], RoleDevice)
			c, _ := connAt(gatewaySide, RoleDevice, fresh, strings.NewReader(string(frame[:cut])))
			_, err := c.Receive(t.Context())
			if cut == 0 && !errors.Is(err, io.EOF) || cut > 0 && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("Receive = %v", err)
			}
		})
	}
}

// refuseFields are changes to a good message, each of which makes it bad.
var refuseFields = map[string][]string{
	"Hello": {
		`"version":0`, `"version":-1`, `"version":65537`, `"version":1.5`, `"version":"1"`, `"version":1e99`, `"role":""`, `"role":"gateway"`,
		`"role":"Device"`, `"role":null`, `"agent":"\u001b[2J"`, `"agent":"` + strings.Repeat("x", 65) + `"`, `"VERSION":1`, `"Role":"visitor"`,
	},
	"Report": {
		`"facts":{"os":"\u0000"}`, `"facts":{"hostname":"` + strings.Repeat("x", 257) + `"}`, `"facts":{"version":"\u202e"}`, `"facts":[]`,
		`"facts":{"local_addrs":[` + strings.Repeat(`"a",`, 16) + `"a"]}`, `"facts":{"os":"a","os":"b"}`, `"facts":{"OS":"a"}`,
		`"ssh_host_key":"a\nb"`, `"ssh_host_key":"` + strings.Repeat("x", 1025) + `"`, `"tunnels":{}`, `"tunnels":[{}]`,
		`"tunnels":[{"destination":"tcp://localhost"}]`, `"tunnels":[{"destination":"tcp://LOCALHOST:22"}]`,
		`"tunnels":[{"destination":"tcp://169.254.169.254:80"}]`, `"tunnels":[{"destination":"file:///etc/passwd"}]`,
		`"tunnels":[{"destination":"tcp://localhost:22"},{"destination":"tcp://localhost:22","ssh":true}]`,
		`"tunnels":[{"destination":"tcp://localhost:22","SSH":true}]`, `"tunnels":[` + manyTunnels(65) + `]`,
		`"gateway_known_by":"x"`, `"gateway_known_by":" "`, `"gateway_known_by":"` + aPin + ` "`, `"gateway_known_by":" ` + aPin + `"`,
		`"gateway_known_by":"` + aPin + ` ` + aPin + `"`, `"gateway_known_by":"` + aPin + ` authorities"`, `"gateway_known_by":"` + aPin + `\n"`,
		`"sequence":"AAAA"`, `"sequence":"!"`, `"sequence":[1]`, `"sequence":"AAAAAAAAAAAAAAAAAAAAAAA="`,
	},
	"KeyDue": {`"new":1`},
	"KeyChange": {
		`"next":""`, `"next":null`, `"next":"AAAA"`, `"proof":""`, `"proof":null`, `"proof":"AAAA"`, `"vouch":""`, `"vouch":null`, `"vouch":"AAAA"`,
		`"new":1`, `"Next":"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk="`,
	},
	"PlaceKey": {
		`"id":""`, `"id":"x"`, `"id":"` + strings.ToUpper(anID) + `"`, `"destination":""`, `"destination":"tcp://LOCALHOST:22"`, `"destination":"22"`,
		`"user":"pi\nroot"`, `"user":"../root"`, `"user":"a/b"`, `"user":"-x"`, `"user":"."`, `"user":".."`, `"user":"a b"`, `"user":"a,b"`, `"user":"a:b"`, `"user":"\""`,
		`"user":"\u0000"`, `"user":"ü"`, `"user":"%h"`, `"user":"` + strings.Repeat("x", 65) + `"`, `"user":1`,
		`"public_key":""`, `"public_key":null`, `"public_key":"AAAA"`, `"public_key":"ssh-ed25519 AAAA"`, `"life":0`, `"life":-1`, `"life":61`, `"life":1.5`, `"life":"30"`, `"new":1`,
		`"options":"command=\"id\""`,
	},
	"KeyPlaced":     {`"id":""`, `"id":"x"`, `"user":""`, `"user":"a b"`, `"user":"\n"`, `"new":1`},
	"KeyNotPlaced":  append([]string{`"id":""`, `"id":"x"`, `"new":1`}, badReasons...),
	"RemoveKey":     {`"id":""`, `"id":null`, `"id":"x"`, `"id":"*"`, `"new":1`},
	"KeyRemoved":    {`"id":""`, `"id":null`, `"id":"x"`, `"new":1`},
	"KeyStaged":     {`"next":""`, `"next":null`, `"next":"AAAA"`, `"new":1`},
	"KeyRefused":    append([]string{`"new":1`}, badReasons...),
	"SequenceNext":  {`"next":""`, `"next":null`, `"next":"AAAA"`, `"next":[1]`, `"new":1`, `"Next":"BwcHBwcHBwcHBwcHBwcHBw=="`},
	"SequenceKept":  {`"next":""`, `"next":null`, `"next":"AAAA"`, `"new":1`},
	"SequenceCheck": {`"nonce":""`, `"nonce":null`, `"nonce":"BwcHBwcHBwcHBwcHBwcHBw=="`, `"new":1`},
	"SequenceHeld":  {`"nonce":""`, `"nonce":null`, `"nonce":"BwcHBwcHBwcHBwcHBwcHBw=="`, `"new":1`},
	"Welcome": {
		`"version":0`, fmt.Sprintf(`"version":%d`, Version+1), `"gateway":"\n"`, `"nonce":"AAAA"`, `"nonce":[1]`, `"device_id":"x"`, `"device_id":""`, `"device_name":"X"`, `"device_name":""`,
		`"device_group":""`, `"device_group":"../x"`, `"gateway_pins":[]`, `"gateway_pins":["x"]`, `"gateway_pins":"` + aPin + `"`,
		`"heartbeat":-1`, `"heartbeat":9`, `"heartbeat":901`, `"heartbeat":24.5`, `"heartbeat":9223372037`,
	},
	"Refused": append([]string{`"retry_after":-1`, `"retry_after":86401`}, badReasons...),
	"GoAway":  {`"message":"\u001b"`, `"message":"` + strings.Repeat("x", 501) + `"`, `"retry_after":-1`, `"retry_after":86401`},
	"GatewayKeys": {
		`"pins":[]`, `"pins":null`, `"pins":[""]`, `"pins":["` + aPin + `",""]`, `"pins":["` + aPin + `","` + aPin + `"]`,
		`"pins":["` + aPin[1:] + `"]`, `"pins":["` + aPin + `="]`, `"pins":["` + aPin + `","` + anotherPin + `","` + anotherPin + `"]`, `"PINS":[]`,
	},
	"Offer": {
		`"session_id":""`, `"session_id":"` + strings.ToUpper(anID) + `"`, `"ticket":""`, `"ticket":null`, `"ticket":"AAAA"`, `"ticket":"!"`,
		`"visitor_key":"AAAA"`, `"visitor_key":[1,2]`, `"destination":""`, `"destination":"tcp://localhost"`, `"new":1`,
		`"destination":"tcp://user@localhost:22"`, `"destination":"tcp://fd00:ec2::254:80"`,
	},
	"OfferRefused": append([]string{`"ticket":"AAAA"`, `"ticket":null`, `"new":1`}, badReasons[:7]...),
	"Logout":       {`"new":1`},
	"LoggedOut":    {`"new":1`},
	"Visit": {
		`"visit":-1`, `"visit":4294967296`, `"visit":1.5`, `"token":""`, `"token":"a b"`, `"token":"ü"`, `"token":"a\nb"`,
		`"token":"` + strings.Repeat("x", 4097) + `"`, `"device_name":""`, `"device_name":"X"`, `"device_name":"admin"`, `"device_id":"` + anID + `"`,
		`"device_id":"x","device_name":""`, `"host":"\u0007"`, `"host":"` + strings.Repeat("x", 254) + `"`, `"host":"` + strings.Repeat("ü", 127) + `"`,
		`"port":0`, `"port":-22`, `"port":65536`, `"new":1`,
	},
	"Granted": {
		`"session_id":"x"`, `"device_id":""`, `"device_name":""`, `"device_key":"AAAA"`, `"device_key":null`, `"vouchers":[{}]`, `"vouchers":[{"key":"AAAA"}]`,
		`"vouchers":{}`, `"vouchers":[` + strings.Repeat(`{"key":"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=","vouch":"`+strings.Repeat("A", 86)+`=="},`, 32) +
			`{"key":"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=","vouch":"` + strings.Repeat("A", 86) + `=="}]`, `"ssh_host_key":"\u001b]0;"`,
		`"destination":"tcp://LOCALHOST:22"`, `"expires_at":"0001-01-01T00:00:00Z"`, `"expires_at":null`, `"expires_at":"soon"`, `"expires_at":1`, `"new":1`,
	},
	"Ended":       append([]string{`"visit":-1`, `"new":1`}, badReasons...),
	"Leave":       {`"visit":-1`, `"visit":"1"`, `"new":1`},
	"LinkRequest": {`"link":-1`, `"link":4294967296`, `"new":1`},
	"LinkTicket":  {`"ticket":""`, `"ticket":null`, `"ticket":"AAAA"`, `"link":-1`, `"new":1`},
	"LinkRefused": append([]string{`"link":-1`, `"new":1`}, badReasons...),
}

var badReasons = []string{
	`"code":""`, `"code":null`, `"code":"Not Found"`, `"code":"` + strings.Repeat("x", 65) + `"`, `"message":"\u001b[31mred"`, `"message":"a\nb"`,
	`"message":"` + strings.Repeat("x", 501) + `"`, `"hint":"\u202e"`, `"hint":"` + strings.Repeat("x", 501) + `"`, `"hint":"\r"`,
}

func manyTunnels(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`{"destination":"tcp://localhost:%d"}`, i+1)
	}
	return strings.Join(all, ",")
}

func TestFields(t *testing.T) {
	for i := range rules {
		r := &rules[i]
		if r.sample == nil {
			continue
		}
		if len(refuseFields[r.name]) == 0 {
			t.Errorf("no bad %s is tried", r.name)
		}
		data, err := json.Marshal(sampleFor(r, RoleDevice))
		if err != nil {
			t.Fatal(err)
		}
		good := make(map[string]json.RawMessage)
		if err := json.Unmarshal(data, &good); err != nil {
			t.Fatal(err)
		}
		for _, change := range refuseFields[r.name] {
			t.Run(fmt.Sprintf("%s %.60s", r.name, change), func(t *testing.T) {
				var changed map[string]json.RawMessage
				if err := json.Unmarshal([]byte("{"+change+"}"), &changed); err != nil {
					t.Fatal(err)
				}
				fields := []string{change}
				for k, v := range good {
					if _, replaced := changed[k]; !replaced {
						fields = append(fields, fmt.Sprintf("%q:%s", k, v))
					}
				}
				to := agentSide
				if r.from == agentSide {
					to = gatewaySide
				}
				role, at := RoleDevice, r.device
				if at == 0 {
					role, at = RoleVisitor, r.visitor
				}
				frame := appendFrame(nil, r.code, []byte("{"+strings.Join(fields, ",")+"}"))
				c, _ := connAt(to, role, at&-at, strings.NewReader(string(frame)))
				m, err := c.Receive(t.Context())
				wantCode(t, err, socketxp.CodeProtocol)
				if m != nil {
					t.Errorf("received %+v", m)
				}
				if err != nil && socketxp.CheckDisplayText("", err.Error(), 300) != nil {
					t.Errorf("the error is not fit to print: %q", err)
				}
			})
		}
		for _, payload := range []string{
			"", "null", "[]", "0", `"x"`, "{", "}", string(data) + "{}", string(data) + " x", "\xff", strings.Repeat("[", 50),
			strings.Replace(string(data), "{", `{"`+"\xff"+`":1,`, 1), `{"x":` + strings.Repeat("[", 33) + strings.Repeat("]", 33) + "}",
		} {
			if len(payload) > r.max {
				continue
			}
			if m, err := r.decode([]byte(payload)); err == nil {
				t.Errorf("%s took %q as %+v", r.name, payload, m)
			}
		}
	}
	t.Run("a Welcome for another role", func(t *testing.T) {
		for _, role := range []Role{RoleDevice, RoleVisitor} {
			r := ruleByType[reflect.TypeFor[Welcome]()]
			other, at := RoleVisitor, reported
			if role == RoleVisitor {
				other, at = RoleDevice, greeted
			}
			c, _ := connAt(agentSide, role, at, strings.NewReader(string(frameOf(t, r, other))))
			_, err := c.Receive(t.Context())
			wantCode(t, err, socketxp.CodeProtocol)
		}
	})
}
