package agent

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/control"
)

func TestReachDevice(t *testing.T) {
	b := newBed(t)
	dir, key := b.login("sensor")
	echoes := service(t, echo)
	device := connect(t, dir, echoes)
	await(t, device.connected)

	laptop := b.visit(newDir(t), "sensor", echoes.Destination.Port)
	url := await(t, laptop.listening)
	if len(laptop.dialing) != 0 {
		t.Error("it dialled before there was a connection")
	}
	for _, text := range []string{"hello", "", strings.Repeat("0123456789", 100_000)} {
		back, err := say(url, text)
		if err != nil || back != text {
			t.Fatalf("%d bytes of %d came back: %v", len(back), len(text), err)
		}
	}
	if got, want := await(t, laptop.dialing), key.ID+" sensor "; !strings.HasPrefix(got, want) {
		t.Errorf("dialling %q", got)
	}
	if len(laptop.dialing) != 0 {
		t.Error("it is told of more than the first connection")
	}
	if _, port, _ := net.SplitHostPort(strings.TrimPrefix(url, "tcp://")); port != "" {
		if back, err := say("tcp://127.0.0.1:"+port, "v4"); err != nil || back != "v4" {
			t.Errorf("%q, %v", back, err)
		}
	}
	t.Run("many at once", func(t *testing.T) {
		results := make(chan error, 50)
		for range cap(results) {
			go func() {
				back, err := say(url, "one of many")
				if err == nil && back != "one of many" {
					err = errors.New(back)
				}
				results <- err
			}()
		}
		for range cap(results) {
			if err := await(t, results); err != nil {
				t.Error(err)
			}
		}
	})
	laptop.stop()
	device.stop()
}

// conversation is an open connection on which both sides take turns.
type conversation struct {
	t *testing.T
	net.Conn
}

func talk(t *testing.T, url string) *conversation {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &conversation{t, c}
}

// cutOff makes a connection that must be reset, which may happen before the dial
// has returned.
func cutOff(t *testing.T, url string) {
	t.Helper()
	switch c, err := net.Dial("tcp", strings.TrimPrefix(url, "tcp://")); {
	case err == nil:
		(&conversation{t, c}).cut()
		_ = c.Close()
	case !errors.Is(err, syscall.ECONNRESET):
		t.Error(err)
	}
}

func (c *conversation) turn(text string) {
	c.t.Helper()
	_ = c.SetDeadline(time.Now().Add(soon))
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
	back := make([]byte, len(text))
	if _, err := io.ReadFull(c, back); err != nil || string(back) != text {
		c.t.Fatalf("%q came back: %v", back, err)
	}
}

// cut waits until the connection is gone, and fails if it ends in an orderly way.
func (c *conversation) cut() {
	c.t.Helper()
	_ = c.SetDeadline(time.Now().Add(soon))
	var timeout net.Error
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) || errors.As(err, &timeout) && timeout.Timeout() {
		c.t.Errorf("it was not cut: %v", err)
	}
}

func TestReconnect(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	echoes := service(t, echo)
	device := connect(t, dir, echoes)
	await(t, device.connected)
	laptop := b.visit(newDir(t), "sensor", echoes.Destination.Port)
	url := await(t, laptop.listening)
	await(t, laptop.connected)
	open := talk(t, url)
	open.turn("before")

	b.stop()
	_ = await(t, device.problems)
	_ = await(t, laptop.problems)
	open.turn("open links live on without a control channel")
	if s, err := GetStatus(t.Context(), dir); err != nil || s.Connected || !s.Running || s.LastError == "" {
		t.Errorf("%+v, %v", s, err)
	}
	b.start()
	await(t, device.connected)
	await(t, laptop.connected)
	open.turn("after")
	if back, err := say(url, "new ones work"); err != nil || back != "new ones work" {
		t.Errorf("%q, %v", back, err)
	}
	if s, err := GetStatus(t.Context(), dir); err != nil || !s.Connected || s.LastError != "" {
		t.Errorf("%+v, %v", s, err)
	}
	laptop.stop()
	open.cut()
	device.stop()
}

func TestGoAway(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	echoes := service(t, echo)
	device := connect(t, dir, echoes)
	await(t, device.connected)
	laptop := b.visit(newDir(t), "sensor", echoes.Destination.Port)
	url := await(t, laptop.listening)
	await(t, laptop.connected)
	first := b.online()
	if err := first.Send(t.Context(), control.GoAway{Message: "restart"}); err != nil {
		t.Fatal(err)
	}
	await(t, device.connected)
	until(t, func() error { return yes(b.online() != first) })
	b.tellVisitors(control.GoAway{Message: "restart"})
	await(t, laptop.connected)
	if back, err := say(url, "x"); err != nil || back != "x" {
		t.Errorf("%q, %v", back, err)
	}
	if len(device.problems)+len(laptop.problems) > 0 {
		t.Error("moving was told as a problem")
	}
	laptop.stop()
	device.stop()
}

// TestEnded is a revocation as the laptop sees it.
func TestEnded(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	echoes := service(t, echo)
	device := connect(t, dir, echoes)
	await(t, device.connected)

	laptop := b.visit(newDir(t), "sensor", echoes.Destination.Port)
	url := await(t, laptop.listening)
	await(t, laptop.connected)
	open := talk(t, url)
	open.turn("x")
	// What passes is asked for again, and what is open stays.
	b.tellVisitors(control.Ended{Visit: visitNumber, Code: socketxp.CodeDeviceOffline, Message: "the device is offline"})
	if err := await(t, laptop.problems); socketxp.CodeOf(err) != socketxp.CodeDeviceOffline {
		t.Error(err)
	}
	await(t, laptop.connected)
	open.turn("y")
	b.tellVisitors(control.Ended{Visit: visitNumber, Code: socketxp.CodeTokenRevoked, Message: "the token was revoked", Hint: "make another"})
	err := await(t, laptop.ended)
	var no *RefusedError
	if !errors.As(err, &no) || no.Passing() || err.Error() != "the token was revoked" {
		t.Errorf("%v", err)
	}
	open.cut()
	if _, err := say(url, "x"); err == nil {
		t.Error("the port is still open")
	}
	device.stop()
}

func TestRefusedAtTheStart(t *testing.T) {
	b := newBed(t)
	_, _ = b.login("sensor")
	for _, c := range []struct {
		name    string
		device  string
		code    socketxp.Code
		passing bool
	}{
		{"offline", "sensor", socketxp.CodeDeviceOffline, true},
		{"unknown", "nobody", socketxp.CodeNotFound, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := newDir(t)
			err := await(t, b.visit(dir, c.device, 22).ended)
			var no *RefusedError
			if !errors.As(err, &no) || no.Passing() != c.passing || socketxp.CodeOf(err) != c.code {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestDeviceRefused(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	b.with(func() {
		b.refuseDevice = control.Refused{Code: socketxp.CodeDeviceDisabled, Message: "the device is disabled"}
	})
	device := connect(t, dir)
	if err := await(t, device.problems); socketxp.CodeOf(err) != socketxp.CodeDeviceDisabled {
		t.Errorf("%v", err)
	}
	device.stop() // also in the middle of a long wait
}

func TestDestinationGone(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := tunnel(t, "tcp://"+l.Addr().String())
	_ = l.Close()
	device := connect(t, dir, gone)
	await(t, device.connected)
	laptop := b.visit(newDir(t), "sensor", gone.Destination.Port)
	cutOff(t, await(t, laptop.listening))
	if err := await(t, laptop.problems); socketxp.CodeOf(err) != socketxp.CodeDialFailed {
		t.Errorf("%v", err)
	}
	laptop.stop()
	device.stop()
}

// TestOffers is a gateway that lies to the device.
func TestOffers(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	echoes := service(t, echo)
	device := connect(t, dir, echoes)
	await(t, device.connected)
	offer := func(destination string) control.OfferRefused {
		t.Helper()
		pair, err := b.relay.Expect()
		if err != nil {
			t.Fatal(err)
		}
		b.with(func() { b.refusals = nil })
		visitor, _, _ := ed25519.GenerateKey(nil)
		err = b.online().Send(t.Context(), control.Offer{SessionID: socketxp.NewID(time.Now()), Ticket: pair.DeviceTicket(), VisitorKey: visitor, Destination: destination})
		if err != nil {
			t.Fatal(err)
		}
		var no control.OfferRefused
		until(t, func() error {
			b.mu.Lock()
			defer b.mu.Unlock()
			if len(b.refusals) == 0 {
				return errNotYet
			}
			no = b.refusals[0]
			return nil
		})
		if string(no.Ticket) != string(pair.DeviceTicket()) {
			t.Error("another ticket was refused")
		}
		return no
	}
	for name, destination := range map[string]string{
		"N-11 another port":                  "tcp://127.0.0.1:1",
		"N-11 the same port by another name": "tcp://localhost:" + strings.TrimPrefix(echoes.Destination.String(), "tcp://127.0.0.1:"),
		"N-11 another scheme":                "http" + strings.TrimPrefix(echoes.Destination.String(), "tcp"),
		"N-12 a neighbour":                   "tcp://192.168.0.1:80",
	} {
		t.Run(name, func(t *testing.T) {
			if no := offer(destination); no.Code != socketxp.CodeNotPublished {
				t.Errorf("%+v", no)
			}
		})
	}
	if len(device.problems) != 0 {
		t.Error("the channel did not survive")
	}
	device.stop()
}

func TestLinkPlaces(t *testing.T) {
	for memory, want := range map[uint64]int{0: 256, 256 << 20: 256, 1 << 30: 512, 8 << 30: 2048} {
		if got := maxLinks(memory); got != want {
			t.Errorf("%d MiB of memory are enough for %d links, want %d", memory>>20, got, want)
		}
	}
	l := &links{max: 8, bySession: make(map[string]int)}
	for i := range 6 {
		if !l.enter("a") {
			t.Fatalf("no place for link %d", i)
		}
	}
	if l.enter("a") {
		t.Error("one session has more than its share")
	}
	for i := range 2 {
		if !l.enter("b") {
			t.Fatalf("no place for link %d of another session", i)
		}
	}
	if l.enter("c") {
		t.Error("there are more links than allowed")
	}
	l.leave("a")
	if !l.enter("c") {
		t.Error("a place was not given back")
	}
	for range 5 {
		l.leave("a")
	}
	if len(l.bySession) != 2 {
		t.Errorf("%d sessions are remembered", len(l.bySession))
	}
}

func TestSecondConnectJoins(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	one, two := service(t, echo), service(t, echo)
	first := connect(t, dir, one)
	await(t, first.connected)

	second := connect(t, dir, two)
	await(t, second.joined)
	await(t, second.connected)
	until(t, func() error {
		got := b.published()
		return yes(len(got) == 2 && slices.Contains(got, two.Destination.String()))
	})
	again := connect(t, dir, two)
	await(t, again.connected)

	laptop := b.visit(newDir(t), "sensor", two.Destination.Port)
	url := await(t, laptop.listening)
	open := talk(t, url)
	open.turn("x")
	if s, err := GetStatus(t.Context(), dir); err != nil || len(s.Tunnels) != 2 || !s.Connected {
		t.Errorf("%+v, %v", s, err)
	}

	second.stop()
	open.turn("another command still publishes it")
	again.stop()
	open.cut()
	until(t, func() error { return yes(len(b.published()) == 1) })

	t.Run("other settings for one tunnel are refused", func(t *testing.T) {
		ssh := one
		ssh.SSH = true
		if err := await(t, connect(t, dir, ssh).ended); err == nil || !strings.Contains(err.Error(), "published already") {
			t.Errorf("%v", err)
		}
	})
	t.Run("it ends with the first", func(t *testing.T) {
		third := connect(t, dir, two)
		await(t, third.connected)
		first.stop()
		if err := await(t, third.ended); err == nil || !strings.Contains(err.Error(), "has ended") {
			t.Errorf("%v", err)
		}
	})
	laptop.stop()
}

func TestLogout(t *testing.T) {
	forgotten := func(t *testing.T, dir *Dir) {
		t.Helper()
		if _, err := os.Stat(dir.file(keyFile)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("C-13 the key is left: %v", err)
		}
		if _, err := GetStatus(t.Context(), dir); !errors.As(err, new(*NotRegisteredError)) {
			t.Errorf("%v", err)
		}
	}
	t.Run("by the agent that runs", func(t *testing.T) {
		b := newBed(t)
		dir, _ := b.login("sensor")
		device := connect(t, dir)
		await(t, device.connected)
		joined := connect(t, dir, service(t, echo))
		await(t, joined.connected)
		if told, err := Logout(t.Context(), dir, "test"); told != nil || err != nil {
			t.Errorf("%v, %v", told, err)
		}
		for _, run := range []*agentRun{device, joined} {
			if err := await(t, run.ended); !errors.As(err, new(*NotRegisteredError)) {
				t.Errorf("%v", err)
			}
		}
		if len(b.devices) != 0 {
			t.Error("the gateway knows it still")
		}
		forgotten(t, dir)
	})
	t.Run("alone", func(t *testing.T) {
		b := newBed(t)
		dir, _ := b.login("sensor")
		if told, err := Logout(t.Context(), dir, "test"); told != nil || err != nil || len(b.devices) != 0 {
			t.Errorf("%v, %v", told, err)
		}
		forgotten(t, dir)
	})
	t.Run("of a device that the gateway has forgotten", func(t *testing.T) {
		b := newBed(t)
		dir, _ := b.login("sensor")
		b.with(func() { clear(b.devices) })
		if told, err := Logout(t.Context(), dir, "test"); told != nil || err != nil {
			t.Errorf("%v, %v", told, err)
		}
		forgotten(t, dir)
	})
	t.Run("without a gateway", func(t *testing.T) {
		b := newBed(t)
		dir, _ := b.login("sensor")
		b.stop()
		if told, err := Logout(t.Context(), dir, "test"); !errors.As(told, new(*UnreachableError)) || err != nil {
			t.Errorf("%v, %v", told, err)
		}
		forgotten(t, dir)
	})
	t.Run("by an agent without a gateway", func(t *testing.T) {
		b := newBed(t)
		dir, _ := b.login("sensor")
		b.stop()
		device := connect(t, dir)
		_ = await(t, device.problems)
		if told, err := Logout(t.Context(), dir, "test"); told == nil || err != nil {
			t.Errorf("%v, %v", told, err)
		}
		if err := await(t, device.ended); !errors.As(err, new(*NotRegisteredError)) {
			t.Errorf("%v", err)
		}
		forgotten(t, dir)
	})
	t.Run("nothing", func(t *testing.T) {
		if _, err := Logout(t.Context(), newDir(t), "test"); !errors.As(err, new(*NotRegisteredError)) {
			t.Errorf("%v", err)
		}
	})
}

func TestRenamed(t *testing.T) {
	b := newBed(t)
	dir, key := b.login("sensor")
	b.with(func() { b.devices[string(key.public())].name = "renamed" })
	device := connect(t, dir)
	await(t, device.connected)
	if k, err := dir.Key(); err != nil || k.Name != "renamed" || !k.Key.Equal(key.Key) {
		t.Errorf("%+v, %v", k, err)
	}
	device.stop()
}

func TestNotRegistered(t *testing.T) {
	dir := newDir(t)
	if err := Connect(t.Context(), ConnectOptions{Dir: dir}); !errors.As(err, new(*NotRegisteredError)) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(dir.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it made the folder: %v", err)
	}
}

func TestLocalSocket(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	device := connect(t, dir)
	await(t, device.connected)
	t.Run("C-07 mode", func(t *testing.T) {
		info, err := os.Stat(dir.file(socketFile))
		if err != nil || info.Mode() != fs.ModeSocket|0o600 {
			t.Errorf("%v, %v", info, err)
		}
	})
	ask := func(t *testing.T, text string) (string, error) {
		t.Helper()
		c, err := net.Dial("unix", dir.file(socketFile))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(soon))
		go func() { _, _ = io.WriteString(c, text) }()
		return bufio.NewReader(c).ReadString('\n')
	}
	for name, text := range map[string]string{
		"not JSON":        "GET / HTTP/1.1\r\n",
		"unknown":         `{"op":"reboot"}` + "\n",
		"not a tunnel":    `{"op":"publish","tunnels":[{"destination":"file:///etc/passwd"}]}` + "\n",
		"N-13 a metadata": `{"op":"publish","tunnels":[{"destination":"tcp://169.254.169.254:80"}]}` + "\n",
		"SSH elsewhere":   `{"op":"publish","tunnels":[{"destination":"tcp://192.168.0.1:22","ssh":true}]}` + "\n",
		"too long":        strings.Repeat(" ", maxLocalLine+1),
	} {
		t.Run(name, func(t *testing.T) {
			line, err := ask(t, text)
			var reply localReply
			if err == nil {
				err = json.Unmarshal([]byte(line), &reply)
			}
			if err != nil || reply.Error == nil {
				t.Errorf("%q, %v", line, err)
			}
		})
	}
	t.Run("a command that says nothing does not hold up the end", func(t *testing.T) {
		c, err := net.Dial("unix", dir.file(socketFile))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		device.stop()
	})
	t.Run("C-05 what a crash left behind is replaced", func(t *testing.T) {
		if err := os.WriteFile(dir.file(socketFile), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		again := connect(t, dir)
		await(t, again.connected)
		again.stop()
	})
}

// TestHostileGrant is a gateway that answers a visit with what was not asked for.
func TestHostileGrant(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	echoes := service(t, echo)
	device := connect(t, dir, echoes)
	await(t, device.connected)
	for name, lie := range map[string]func(*control.Granted){
		"another device": func(g *control.Granted) { g.DeviceName = "other" },
		"another port":   func(g *control.Granted) { g.Destination = "tcp://127.0.0.1:1" },
	} {
		t.Run(name, func(t *testing.T) {
			b.with(func() { b.grantAs = lie })
			laptop := b.visit(newDir(t), "sensor", echoes.Destination.Port)
			if err := await(t, laptop.ended); err == nil || !strings.Contains(err.Error(), "something else") {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("another key", func(t *testing.T) {
		wrong, _, _ := ed25519.GenerateKey(nil)
		b.with(func() { b.grantAs = func(g *control.Granted) { g.DeviceKey = wrong } })
		laptop := b.visit(newDir(t), "sensor", echoes.Destination.Port)
		cutOff(t, await(t, laptop.listening))
		if err := await(t, laptop.problems); err == nil || !strings.Contains(err.Error(), "key is not the expected one") {
			t.Errorf("%v", err)
		}
		laptop.stop()
	})
	t.Run("another key than at the first contact", func(t *testing.T) {
		b.with(func() { b.grantAs = nil })
		known := newDir(t)
		first := b.visit(known, "sensor", echoes.Destination.Port)
		await(t, first.listening)
		first.stop()
		wrong, _, _ := ed25519.GenerateKey(nil)
		for _, lie := range []func(*control.Granted){
			func(g *control.Granted) { g.DeviceKey = wrong },
			func(g *control.Granted) { g.DeviceKey, g.DeviceID = wrong, socketxp.NewID(time.Now()) },
		} {
			b.with(func() { b.grantAs = lie })
			err := await(t, b.visit(known, "sensor", echoes.Destination.Port).ended)
			var e *socketxp.Error
			if err == nil || !strings.Contains(err.Error(), "KEY HAS CHANGED") || !errors.As(err, &e) ||
				!strings.Contains(e.Hint, "line 1 of "+known.file(knownFile)) {
				t.Errorf("%v", err)
			}
		}
	})
	device.stop()
}

func TestDeviceIsPinnedWhileRunning(t *testing.T) {
	b := newBed(t)
	dir, key := b.login("sensor")
	echoes := service(t, echo)
	device := connect(t, dir, echoes)
	await(t, device.connected)
	laptop := b.visit(newDir(t), "sensor", echoes.Destination.Port)
	await(t, laptop.listening)
	device.stop()
	// Another device takes the name; the visit goes on to be about the first.
	b.with(func() { b.devices[string(key.public())].name = "old" })
	dir2, _ := b.login("sensor")
	device2 := connect(t, dir2, echoes)
	await(t, device2.connected)
	b.tellVisitors(control.Ended{Visit: visitNumber, Code: socketxp.CodeUnavailable, Message: "x"})
	for {
		if err := await(t, laptop.problems); socketxp.CodeOf(err) == socketxp.CodeDeviceOffline {
			break
		}
	}
	laptop.stop()
	device2.stop()
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	local, err := ParseLocalPort("tcp://" + strings.Replace(l.Addr().String(), "127.0.0.1", "localhost", 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := local.listen(context.Background()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("%v", err)
	}
}

func TestParseLocalPort(t *testing.T) {
	for _, s := range []string{"tcp://localhost:0", "TCP://LOCALHOST:3000", "tcp://127.0.0.1:1", "tcp://[::1]:65535", "http://localhost:8080/"} {
		if _, err := ParseLocalPort(s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{"", "localhost:1", "tcp://:1", "tcp://0.0.0.0:1", "tcp://192.168.0.1:1", "tcp://localhost", "tcp://localhost:65536", "tcp://localhost:-1", "udp://localhost:1", "tcp://localhost.evil:1", "tcp://[::]:1"} {
		if _, err := ParseLocalPort(s); err == nil {
			t.Errorf("%s was taken", s)
		}
	}
}
