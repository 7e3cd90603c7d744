package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"socketxp"
	"socketxp/internal/control"
)

func TestParseForward(t *testing.T) {
	id := socketxp.NewID(time.Now())
	for s, want := range map[string]ConfigVisit{
		"3000:kiosk:22":              {DeviceName: "kiosk", DevicePort: 22},
		"0:kiosk.socketxp:5432":      {DeviceName: "kiosk", DevicePort: 5432},
		"3000:" + id + ":22":         {DeviceID: id, DevicePort: 22},
		"8080:kiosk:192.168.1.20:80": {DeviceName: "kiosk", DeviceHost: "192.168.1.20", DevicePort: 80},
		"8080:kiosk:[fd00::1]:80":    {DeviceName: "kiosk", DeviceHost: "fd00::1", DevicePort: 80},
		"8080:kiosk:printer.lan:631": {DeviceName: "kiosk", DeviceHost: "printer.lan", DevicePort: 631},
	} {
		got, err := ParseForward(s)
		lport, rest, _ := strings.Cut(s, ":")
		if err != nil || strconv.Itoa(got.Local.port) != lport || len(got.Local.addrs) != 2 {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
		if got.Local = (LocalPort{}); !equalVisits(got, want) {
			t.Errorf("%s: %+v", s, got)
		}
		if again, err := ParseForward(lport + ":" + got.String()); err != nil || again.String() != strings.Replace(rest, SSHDomain, "", 1) {
			t.Errorf("%s: printed as %s: %v", s, got, err)
		}
	}
	for _, s := range []string{
		"", ":", "::", "3000", "3000:kiosk", "3000:kiosk:", "3000:kiosk:0", "3000:kiosk:65536", "65536:kiosk:22", "-1:kiosk:22", "x:kiosk:22",
		"3000::22", "3000:-kiosk:22", "3000:a b:22", "3000:kiosk::22", "3000:kiosk:h:p", "3000:kiosk:169.254.169.254:80", "3000:kiosk:a:b:c",
		"localhost:3000:kiosk:22", "3000:kiosk:22 ", "+3000:kiosk:22",
	} {
		if got, err := ParseForward(s); err == nil {
			t.Errorf("%q was taken as %+v", s, got)
		}
	}
}

func equalVisits(a, b ConfigVisit) bool {
	return a.DeviceID == b.DeviceID && a.DeviceName == b.DeviceName && a.DeviceHost == b.DeviceHost && a.DevicePort == b.DevicePort
}

func TestParseForwards(t *testing.T) {
	all, err := ParseForwards([]byte(`{"tunnels": [
		{"destination": "tcp://localhost:3000", "iot_device_name": "kiosk", "peer_device_port": 22},
		{"destination": "tcp://127.0.0.1:0", "iot_slave": true, "iot_device_name": "kiosk", "peer_device_host": "10.0.0.2", "peer_device_port": 80}]}`))
	if err != nil || len(all) != 2 || all[0].Local.port != 3000 || all[1].String() != "kiosk:10.0.0.2:80" || len(all[1].Local.addrs) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	for text, want := range map[string][2]string{
		`{"tunnels": []}`: {"no tunnels", "looks like"},
		`{"tunels": []}`:  {"unknown key", `did you mean "tunnels"?`},
		`{"tunnels": [{"destination": "tcp://localhost:3000", "peer_device_prt": 22}]}`:                                                                     {"unknown key", `did you mean "peer_device_port"?`},
		`{"tunnels": [{"destination": "tcp://localhost:3000", "iot_slave": false, "iot_device_name": "kiosk", "peer_device_port": 22}]}`:                    {"tunnel 1: iot_slave is false", "--config"},
		`{"tunnels": [{"destination": "tcp://0.0.0.0:3000", "iot_device_name": "kiosk", "peer_device_port": 22}]}`:                                          {"tunnel 1: the local address", "tcp://localhost:3000"},
		`{"tunnels": [{"destination": "tcp://localhost:3000", "iot_device_name": "kiosk", "iot_device_id": "x", "peer_device_port": 22}]}`:                  {"not both", ""},
		`{"tunnels": [{"destination": "tcp://localhost:3000", "iot_device_name": "kiosk"}]}`:                                                                {"device's port", ""},
		`{"tunnels": [{"destination": "tcp://localhost:3000", "iot_device_name": "kiosk", "peer_device_port": 80, "peer_device_host": "169.254.169.254"}]}`: {"metadata", ""},
		`{"work_dir": "/x", "tunnels": []}`: {"unknown key", ""},
	} {
		_, err := ParseForwards([]byte(text))
		var e *socketxp.Error
		if !errors.As(err, &e) || !strings.Contains(e.Message, want[0]) || !strings.Contains(e.Hint, want[1]) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestCheckForwards(t *testing.T) {
	parse := func(s string) ConfigVisit {
		v, err := ParseForward(s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if err := CheckForwards([]ConfigVisit{parse("0:a:1"), parse("0:a:2"), parse("1:a:1")}); err != nil {
		t.Error(err)
	}
	if err := CheckForwards([]ConfigVisit{parse("1:a:1"), parse("1:b:1")}); err == nil {
		t.Error("one port twice was taken")
	}
	if err := CheckForwards(make([]ConfigVisit, MaxForwards+1)); err == nil {
		t.Error("too many were taken")
	}
}

func TestBind(t *testing.T) {
	l, err := ParseLocalPort("tcp://localhost:3000")
	if err != nil {
		t.Fatal(err)
	}
	for host, addr := range map[string]string{"127.0.0.1": "127.0.0.1", "::1": "::1", "[::1]": "::1", "127.0.0.53": "127.0.0.53", "::ffff:127.0.0.1": "127.0.0.1"} {
		b, err := l.Bind(host, false)
		if err != nil || len(b.addrs) != 1 || b.addrs[0] != netip.MustParseAddr(addr) || b.port != 3000 {
			t.Errorf("%s: %+v, %v", host, b, err)
		}
	}
	for _, host := range []string{"0.0.0.0", "::", "192.168.0.1", "::ffff:192.168.0.1", "::ffff:0.0.0.0", "fd00::1"} {
		if _, err := l.Bind(host, false); err == nil {
			t.Errorf("%s was taken without a word", host)
		}
		if _, err := l.Bind(host, true); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, host := range []string{"", "example.com", "*", "fe80::1%eth0", "224.0.0.1", "127.1"} {
		if _, err := l.Bind(host, true); err == nil {
			t.Errorf("%s was taken", host)
		}
	}
}

// TestPatient is a forward whose device comes later.
func TestPatient(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	echoes := service(t, echo)
	laptop := b.visit(newDir(t), "sensor", echoes.Destination.Port, func(o *VisitOptions) { o.Patient = true })
	if err := await(t, laptop.problems); socketxp.CodeOf(err) != socketxp.CodeDeviceOffline {
		t.Errorf("%v", err)
	}
	if len(laptop.listening) != 0 {
		t.Error("it says that it listens before it is true")
	}
	device := connect(t, dir, echoes)
	await(t, device.connected)
	if back, err := say(await(t, laptop.listening), "hello"); err != nil || back != "hello" {
		t.Errorf("%q, %v", back, err)
	}
	t.Run("but not for what will not come", func(t *testing.T) {
		err := await(t, b.visit(newDir(t), "nobody", 22, func(o *VisitOptions) { o.Patient = true }).ended)
		if socketxp.CodeOf(err) != socketxp.CodeNotFound {
			t.Errorf("%v", err)
		}
	})
	laptop.stop()
	device.stop()
}

// TestRenew is a token that runs out while the port is open.
func TestRenew(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	echoes := service(t, echo)
	device := connect(t, dir, echoes)
	await(t, device.connected)
	renewed := make(chan string, 10)
	laptop := b.visit(newDir(t), "sensor", echoes.Destination.Port, func(o *VisitOptions) {
		o.Renew = func(context.Context) (string, error) {
			token := b.token()
			renewed <- token
			return token, nil
		}
	})
	url := await(t, laptop.listening)
	await(t, laptop.connected)
	over := control.Ended{Visit: visitNumber, Code: socketxp.CodeTokenExpired, Message: "the token has expired"}
	b.tellVisitors(over)
	token := await(t, renewed)
	await(t, laptop.connected)
	if back, err := say(url, "hello"); err != nil || back != "hello" || b.lastToken() != token {
		t.Errorf("%q, %v", back, err)
	}
	if len(laptop.problems) != 0 {
		t.Error("it was told as a problem")
	}
	t.Run("but not again and again", func(t *testing.T) {
		b.tellVisitors(over)
		if err := await(t, laptop.ended); socketxp.CodeOf(err) != socketxp.CodeTokenExpired || len(renewed) != 0 {
			t.Errorf("%v, renewed %d times", err, len(renewed))
		}
	})
	device.stop()
}

func TestBindListens(t *testing.T) {
	l, err := ParseLocalPort("tcp://localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	if l, err = l.Bind("127.0.0.2", false); err != nil {
		t.Fatal(err)
	}
	listeners, port, err := l.listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeListeners(listeners)
	go func() {
		c, err := listeners[0].Accept()
		if err == nil {
			_, _ = io.WriteString(c, "x")
			_ = c.Close()
		}
	}()
	c, err := net.Dial("tcp", strings.TrimPrefix(l.url(port), "tcp://"))
	if err != nil || !strings.HasPrefix(l.url(port), "tcp://127.0.0.2:") {
		t.Fatalf("%s: %v", l.url(port), err)
	}
	_, _ = io.ReadAll(c)
	_ = c.Close()
}

func FuzzParseForwards(f *testing.F) {
	f.Add([]byte(`{"tunnels": [{"destination": "tcp://localhost:3000", "iot_device_name": "kiosk", "peer_device_port": 22}]}`), "3000:kiosk:22")
	f.Add([]byte(`{"tunnels": [{"destination": "tcp://[::1]:0", "iot_slave": true, "iot_device_name": "a", "peer_device_host": "b", "peer_device_port": 1}]}`), "0:kiosk:[fd00::1]:80")
	f.Add([]byte(`{}`), "::")
	f.Fuzz(func(t *testing.T, data []byte, spec string) {
		all, err := ParseForwards(data)
		if err == nil && len(all) == 0 {
			t.Error("neither forwards nor an error")
		}
		if v, err := ParseForward(spec); err == nil {
			all = append(all, v)
		}
		for _, v := range all {
			if v.DevicePort < 1 || v.DevicePort > 65535 || (v.DeviceID == "") == (v.DeviceName == "") || socketxp.IsMetadataHost(v.DeviceHost) {
				t.Errorf("%+v", v)
			}
			for _, a := range v.Local.addrs {
				if !a.IsLoopback() {
					t.Errorf("others reach %s", a)
				}
			}
			again, err := ParseForward(strconv.Itoa(v.Local.port) + ":" + v.String())
			if err != nil || again.String() != v.String() {
				t.Errorf("%s was read as %s: %v", v, again, err)
			}
		}
	})
}
