package socketxp_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"socketxp"
)

func TestParseDestination(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"tcp://localhost:22", "tcp://localhost:22"},
		{"TCP://LocalHost:22", "tcp://localhost:22"},
		{"tcp://localhost:22/", "tcp://localhost:22"},
		{"http://localhost", "http://localhost:80"},
		{"https://localhost/", "https://localhost:443"},
		{"https://localhost:8443", "https://localhost:8443"},
		{"tcp://127.0.0.1:22", "tcp://127.0.0.1:22"},
		{"tcp://[::1]:22", "tcp://[::1]:22"},
		{"http://[::1]", "http://[::1]:80"},
		{"tcp://[0:0:0:0:0:0:0:1]:22", "tcp://[::1]:22"},
		{"tcp://[2001:DB8::7]:22", "tcp://[2001:db8::7]:22"},
		{"tcp://[::ffff:127.0.0.1]:22", "tcp://127.0.0.1:22"},
		{"tcp://plc_7.plant.example:502", "tcp://plc_7.plant.example:502"},
		{"tcp://xn--mller-kva.example:22", "tcp://xn--mller-kva.example:22"},
		{"tcp://3com.example:22", "tcp://3com.example:22"},
		{"tcp://1.2.3.4.example:22", "tcp://1.2.3.4.example:22"},
		{"tcp://0xg:22", "tcp://0xg:22"},
		{"tcp://localhost:1", "tcp://localhost:1"},
		{"tcp://localhost:65535", "tcp://localhost:65535"},
		// N-12: the local network is reachable where a device's own configuration
		// says so.
		{"tcp://192.168.0.1:80", "tcp://192.168.0.1:80"},
		{"tcp://[fd00::7]:80", "tcp://[fd00::7]:80"},
	} {
		d, err := socketxp.ParseDestination(c.in)
		if err != nil || d.String() != c.want {
			t.Errorf("ParseDestination(%q) = %v, %v, want %s", c.in, d, err, c.want)
			continue
		}
		if again, err := socketxp.ParseDestination(d.String()); err != nil || again != d {
			t.Errorf("ParseDestination(%q) = %v, %v", d, again, err)
		}
	}
}

func TestParseDestinationRefuses(t *testing.T) {
	for name, all := range map[string][]string{
		"empty":                  {"", "://", "tcp://", "tcp://:22", "tcp:///", "localhost:22", "22"},
		"no port":                {"tcp://localhost", "tcp://localhost:", "tcp://[::1]", "tcp://[::1]:", "http://localhost:"},
		"bad port":               {"tcp://localhost:0", "tcp://localhost:65536", "tcp://localhost:-1", "tcp://localhost:+22", "tcp://localhost:022", "tcp://localhost:22x", "tcp://localhost:2 2", "tcp://localhost:0x16", "tcp://localhost:ssh", "tcp://localhost:22:22", "tcp://localhost:99999999999999999999"},
		"N-12 another scheme":    {"udp://localhost:53", "file:///etc/passwd", "unix:///run/docker.sock", "ssh://localhost:22", "tcp+x://localhost:22", "javascript://localhost:22", " tcp://localhost:22", "tcp ://localhost:22", "//localhost:22"},
		"N-12 more than it says": {"tcp://user@localhost:22", "tcp://user:pass@localhost:22", "tcp://localhost:22/path", "tcp://localhost:22//", "tcp://localhost:22?x", "tcp://localhost:22#x", "http://localhost/x", "http://a@169.254.169.254", "tcp://localhost:22@169.254.169.254:80", "tcp://localhost\\@x:22"},
		"N-12 control bytes":     {"tcp://localhost:22\n", "tcp://local\x00host:22", "tcp://localhost:22\x1b", "tcp://local host:22", "tcp://local\thost:22", "tcp://\xff:22"},
		"N-12 not ASCII":         {"tcp://müller.example:22", "tcp://loca\u212ahost:22", "tcp://localhost\uff0evil:22", "tcp://\u202elocalhost:22", "tcp://127\u30020\u30020\u30021:22"},
		"N-12 octal, hexadecimal and short IPv4": {
			"tcp://0177.0.0.1:22", "tcp://0x7f.0.0.1:22", "tcp://0x7f000001:22", "tcp://0X7F000001:22", "tcp://2130706433:22", "tcp://127.1:22",
			"tcp://127.0.1:22", "tcp://127.0.0.0x1:22", "tcp://127.0.0.01:22", "tcp://127.0.0.08:22", "tcp://0:22", "tcp://0x:22", "tcp://08:22",
			"tcp://017700000001:22", "tcp://127.0.0.1.:22", "tcp://256.0.0.1:22", "tcp://1.2.3.4.5:22", "tcp://127.0.0.0x:22",
			"tcp://99999999999999999999999999:22", "tcp://0xffffffffffffffffffffffff:22",
		},
		"N-12 bad names": {
			"tcp://-a:22", "tcp://a-:22", "tcp://a..b:22", "tcp://.a:22", "tcp://.:22", "tcp://a,b:22", "tcp://a%2eb:22", "tcp://*:22", "tcp://a/b:22",
			"tcp://" + strings.Repeat("a", 64) + ":22", "tcp://" + strings.Repeat("a.", 127) + "a:22", "tcp://" + strings.Repeat("a.", 200) + "a:22",
		},
		"N-12 bad brackets": {
			"tcp://[::1:22", "tcp://::1:22", "tcp://[]:22", "tcp://[127.0.0.1]:22", "tcp://[localhost]:22", "tcp://[::1]22", "tcp://[::1]x:22", "tcp://[[::1]]:22",
			"tcp://x[::1]:22", "tcp://[fd00::1%eth0]:22", "tcp://[::1%25lo]:22", "tcp://[::ffff:0x7f000001]:22",
		},
		"N-12 nowhere": {
			"tcp://0.0.0.0:22", "tcp://[::]:22", "tcp://[::ffff:0.0.0.0]:22", "tcp://224.0.0.1:22", "tcp://239.255.255.250:1900", "tcp://[ff02::1]:22",
			"tcp://255.255.255.255:22", "tcp://[::ffff:255.255.255.255]:22",
		},
		"N-12 link-local": {"tcp://169.254.1.1:22", "tcp://[fe80::1]:22", "tcp://[fe80::1%eth0]:22", "tcp://[febf::1]:22"},
		"N-13 metadata": {
			"http://169.254.169.254", "http://[::ffff:169.254.169.254]", "http://[::ffff:a9fe:a9fe]", "http://[fd00:ec2::254]", "http://[fd00:ec2::23]", "http://[fd20:ce::254]",
			"http://[fd00:42::42]", "http://[fd00:a9fe:a9fe::1]", "http://100.100.100.200", "http://192.0.0.192", "http://168.63.129.16",
			"http://[64:ff9b::169.254.169.254]", "http://[64:ff9b::a9fe:a9fe]", "http://[64:ff9b::100.100.100.200]",
			"http://metadata.google.internal", "http://METADATA.Google.Internal", "http://metadata.google.internal.", "http://metadata", "http://metadata.goog",
			"http://instance-data", "http://instance-data.ec2.internal", "tcp://metadata.google.internal:80",
		},
		"N-14 long": {"tcp://" + strings.Repeat("a", 300) + ":22", strings.Repeat("[", 1<<20), strings.Repeat("tcp://", 1<<16)},
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range all {
				d, err := socketxp.ParseDestination(s)
				var e *socketxp.Error
				if !errors.As(err, &e) || e.Code != socketxp.CodeInvalid || d != (socketxp.Destination{}) {
					t.Errorf("ParseDestination(%.80q) = %v, %v", s, d, err)
				} else if len(e.Message) > 500 || socketxp.CheckDisplayText("", e.Message, 500) != nil {
					t.Errorf("the error of %.80q is not fit to print: %.500q", s, e.Message)
				}
			}
		})
	}
}

func FuzzParseDestination(f *testing.F) {
	for _, s := range []string{
		"tcp://localhost:22", "https://[::ffff:1.2.3.4]/", "http://0x7f.1", "tcp://a.b_c-d.:65535", "tcp://[fe80::1%eth0]:22", "tcp://u:p@h:1/",
		"http://metadata.google.internal.", "tcp://08:1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := socketxp.ParseDestination(s)
		if err != nil {
			return
		}
		if again, err := socketxp.ParseDestination(d.String()); err != nil || again != d {
			t.Errorf("%q is %+v, whose text %q is %+v, %v", s, d, d, again, err)
		}
		if socketxp.IsMetadataHost(d.Host) || d.Port < 1 || d.Port > 65535 {
			t.Errorf("%q is %+v", s, d)
		}
		// What a resolver could take for an address must be one by our own reading.
		name := strings.TrimSuffix(d.Host, ".")
		if last := name[strings.LastIndexByte(name, '.')+1:]; strings.Trim(last, "0123456789") == "" && !strings.Contains(d.Host, ":") {
			if a, err := netip.ParseAddr(d.Host); err != nil || !a.Is4() {
				t.Errorf("%q is %+v, which is a number and no address", s, d)
			}
		}
	})
}

func TestIsMetadataAddr(t *testing.T) {
	for _, c := range []struct {
		addr string
		want bool
	}{
		{"169.254.169.254", true},
		{"169.254.0.1", true},
		{"::ffff:169.254.169.254", true},
		{"fe80::1%eth0", true},
		{"fd00:ec2::254", true},
		{"100.100.100.200", true},
		{"64:ff9b::a9fe:a9fe", true},
		{"168.63.129.16", true},
		{"127.0.0.1", false},
		{"::1", false},
		{"192.168.0.1", false},
		{"100.100.100.201", false},
		{"fd00::1", false},
		{"64:ff9b::808:808", false},
		{"168.63.129.17", false},
	} {
		if got := socketxp.IsMetadataAddr(netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("N-13 IsMetadataAddr(%s) = %v", c.addr, got)
		}
	}
	if !socketxp.IsMetadataAddr(netip.Addr{}) {
		t.Error("J12 an invalid address is let through")
	}
}

func TestFindTunnel(t *testing.T) {
	tunnel := func(s string, ssh bool) socketxp.Tunnel {
		d, err := socketxp.ParseDestination(s)
		if err != nil {
			t.Fatal(err)
		}
		return socketxp.Tunnel{Destination: d, SSH: ssh}
	}
	all := []socketxp.Tunnel{
		tunnel("tcp://localhost:22", true), tunnel("tcp://localhost:5432", false), tunnel("tcp://192.168.0.9:5432", false), tunnel("http://[::1]:80", false),
		tunnel("https://localhost:8443", false), tunnel("tcp://localhost:8443", false),
	}
	for _, c := range []struct {
		host string
		port int
		want string
		code socketxp.Code
	}{
		{"", 22, "tcp://localhost:22", ""},
		{"localhost", 22, "tcp://localhost:22", ""},
		{"LOCALHOST", 22, "tcp://localhost:22", ""},
		{"127.0.0.1", 22, "", socketxp.CodeNotPublished},
		{"", 23, "", socketxp.CodeNotPublished},
		{"", 0, "", socketxp.CodeNotPublished},
		{"", 5432, "", socketxp.CodeInvalid},
		{"localhost", 5432, "tcp://localhost:5432", ""},
		{"192.168.0.9", 5432, "tcp://192.168.0.9:5432", ""},
		{"::1", 80, "http://[::1]:80", ""},
		{"", 8443, "https://localhost:8443", ""},
	} {
		got, err := socketxp.FindTunnel(all, c.host, c.port)
		if socketxp.CodeOf(err) != c.code || err == nil && got.Destination.String() != c.want || err != nil && got != (socketxp.Tunnel{}) {
			t.Errorf("N-11 FindTunnel(%q, %d) = %v, %v", c.host, c.port, got, err)
		}
	}
	var e *socketxp.Error
	if _, err := socketxp.FindTunnel(all, "", 5432); !errors.As(err, &e) || !strings.Contains(e.Hint, "localhost:5432, 192.168.0.9:5432") {
		t.Errorf("the hint is %+v", e)
	}
	if got, err := socketxp.FindTunnel(all, "", 22); err != nil || !got.SSH {
		t.Errorf("FindTunnel = %+v, %v", got, err)
	}
	if _, err := socketxp.FindTunnel(nil, "", 22); socketxp.CodeOf(err) != socketxp.CodeNotPublished {
		t.Errorf("a device that publishes nothing: %v", err)
	}
}
