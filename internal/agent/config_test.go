package agent

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"socketxp"
)

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig([]byte(`{
		"work_dir": "/var/lib/x", "ssh_users": ["pi"],
		"tunnels": [
			{"destination": "tcp://127.0.0.1:22", "ssh_users": ["older files have it for nothing"]},
			{"destination": "http://localhost", "subdomain": "", "custom_domain": ""},
			{"destination": "tcp://localhost:2222", "enable_ssh": true},
			{"destination": "tcp://localhost:2223", "enable_ssh": true, "ssh_users": ["root", "pi"]},
			{"destination": "tcp://localhost:3000", "iot_slave": true, "iot_device_name": "sensor", "peer_device_port": 22}
		]
	}`))
	if err != nil {
		t.Fatal(err)
	}
	ssh, two := tunnel(t, "tcp://localhost:2222"), tunnel(t, "tcp://localhost:2223")
	ssh.SSH, ssh.Users = true, []string{"pi"}
	two.SSH, two.Users = true, []string{"root", "pi"}
	ssh.Policy, two.Policy = DefaultSSHPolicy(), DefaultSSHPolicy()
	local, err := ParseLocalPort("tcp://localhost:3000")
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		WorkDir: "/var/lib/x",
		Publish: []Tunnel{tunnel(t, "tcp://127.0.0.1:22"), tunnel(t, "http://localhost:80"), ssh, two},
		Visits:  []ConfigVisit{{Local: local, DeviceName: "sensor", DevicePort: 22}},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("%+v\nwant %+v", c, want)
	}
}

func TestParseSSHConfig(t *testing.T) {
	c, err := ParseConfig([]byte(`{
		"ssh": {"users": ["pi"], "allow_agent_forwarding": true, "accept_env": ["LANG", "MY_*"]},
		"tunnels": [
			{"destination": "tcp://localhost:22", "enable_ssh": true},
			{"destination": "tcp://localhost:23", "enable_ssh": true, "ssh": {"allow_tcp_forwarding": false, "accept_env": []}},
			{"destination": "tcp://localhost:24", "enable_ssh": true, "ssh_users": ["root"], "ssh": {"allow_agent_forwarding": false}},
			{"destination": "tcp://localhost:25"}
		]
	}`))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		users  []string
		policy SSHPolicy
	}{
		{[]string{"pi"}, SSHPolicy{TCPForwarding: true, AgentForwarding: true, AcceptEnv: []string{"LANG", "MY_*"}}},
		{[]string{"pi"}, SSHPolicy{AgentForwarding: true, AcceptEnv: []string{}}},
		{[]string{"root"}, SSHPolicy{TCPForwarding: true, AcceptEnv: []string{"LANG", "MY_*"}}},
		{nil, SSHPolicy{}},
	} {
		if got := c.Publish[i]; !slices.Equal(got.Users, want.users) || !got.Policy.equal(want.policy) {
			t.Errorf("tunnel %d: %+v, want %+v", i+1, got, want)
		}
	}
}

func TestParseOldConfig(t *testing.T) {
	c, err := ParseConfig([]byte(`{"authtoken": "t", "tunnel_enabled": true, "region": "eu", "tunnels": [
		{"destination": "tcp://127.0.0.1:22", "protocol": "tls", "iot_device_id": "x", "iot_device_name": "sensor", "iot_device_group": "lab", "iot_slave": false},
		{"destination": "tcp://127.0.0.1:23", "protocol": "tcp", "iot_device_name": "sensor", "subdomain": "a"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.AuthToken != "t" || c.Name != "sensor" || c.Group != "lab" || len(c.Publish) != 2 {
		t.Errorf("%+v", c)
	}
	for _, note := range []string{"authtoken", "region", "iot_device_id", "subdomain"} {
		if !strings.Contains(strings.Join(c.Notes, "\n"), note) {
			t.Errorf("nothing is said of %s: %q", note, c.Notes)
		}
	}
	c, err = ParseConfig([]byte(`{"tunnel_enabled": false, "tunnels": [{"destination": "tcp://127.0.0.1:22"}]}`))
	if err != nil || len(c.Publish) != 0 || len(c.Notes) != 1 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, message, hint string }{
		{"C-08 a misspelt key", `{"tunels": []}`, `unknown key "tunels"`, `"tunnels"`},
		{"C-08 a misspelt key of a tunnel", `{"tunnels": [{"destnation": "tcp://localhost:1"}]}`, `unknown key "destnation"`, `"destination"`},
		{"C-08 a misspelt security option", `{"ssh_user": ["pi"]}`, `unknown key "ssh_user"`, `"ssh_users"`},
		{"C-09 a key twice", `{"work_dir": "/a", "work_dir": "/b"}`, "twice", ""},
		{"C-09 another case", `{"Tunnels": []}`, "not spelt", ""},
		{"C-09 deep", `{"tunnels": ` + strings.Repeat("[", 100_000), "", ""},
		{"C-09 large", strings.Repeat(" ", maxConfig) + "{}", "larger", ""},
		{"something after it", `{} {}`, "follows", ""},
		{"C-03 a relative folder", `{"work_dir": "state"}`, "absolute", ""},
		{"N-13 a metadata service", `{"tunnels": [{"destination": "tcp://169.254.169.254:80"}]}`, "tunnel 1", ""},
		{"a scheme", `{"tunnels": [{"destination": "udp://localhost:1"}]}`, "tunnel 1", ""},
		{"twice the same", `{"tunnels": [{"destination": "tcp://localhost:1"}, {"destination": "tcp://LOCALHOST:1"}]}`, "tunnel 2: tcp://localhost:1 is there twice", ""},
		{"two names", `{"tunnels": [{"destination": "tcp://localhost:1", "iot_device_name": "a"}, {"destination": "tcp://localhost:2", "iot_device_name": "b"}]}`, "one device", ""},
		{"a protocol", `{"tunnels": [{"destination": "tcp://localhost:1", "protocol": "udp"}]}`, "protocol", ""},
		{"C-08 a misspelt option of ssh", `{"ssh": {"allow_tcp_forwardng": false}}`, `unknown key "allow_tcp_forwardng"`, `"allow_tcp_forwarding"`},
		{"C-08 another misspelt option of ssh", `{"tunnels": [{"destination": "tcp://localhost:22", "enable_ssh": true, "ssh": {"accept_envs": []}}]}`, `unknown key "accept_envs"`, `"accept_env"`},
		{"C-08 ssh without the server", `{"tunnels": [{"destination": "tcp://localhost:22", "ssh": {"allow_tcp_forwarding": false}}]}`, "built-in SSH server", "enable_ssh"},
		{"C-08 users twice", `{"ssh_users": ["pi"], "ssh": {"users": ["root"]}}`, "the same", ""},
		{"C-08 users of a tunnel twice", `{"tunnels": [{"destination": "tcp://localhost:22", "enable_ssh": true, "ssh_users": ["pi"], "ssh": {"users": ["root"]}}]}`, "tunnel 1: ssh_users", ""},
		{"C-08 a variable that runs code", `{"ssh": {"accept_env": ["LD_PRELOAD"]}}`, "never taken", ""},
		{"C-08 the same in a tunnel", `{"tunnels": [{"destination": "tcp://localhost:22", "enable_ssh": true, "ssh": {"accept_env": ["BASH_ENV"]}}]}`, "tunnel 1: accept_env: BASH_ENV is never taken", ""},
		{"C-08 all variables", `{"ssh": {"accept_env": ["*"]}}`, "too wide", "LC_*"},
		{"C-08 no variable", `{"ssh": {"accept_env": ["A=B"]}}`, "not valid", ""},
		{"single-use keys of the built-in server", `{"tunnels": [{"destination": "tcp://localhost:22", "enable_ssh": true, "ssh": {"single_use_keys": true}}]}`, "no single-use keys", "sshd"},
		{"single-use keys elsewhere", `{"tunnels": [{"destination": "tcp://192.168.0.1:22", "ssh": {"single_use_keys": true}}]}`, "no single-use keys", "localhost"},
		{"single-use keys of a web page", `{"tunnels": [{"destination": "http://localhost:80", "ssh": {"single_use_keys": true}}]}`, "no single-use keys", ""},
		{"C-08 users of nothing", `{"tunnels": [{"destination": "tcp://localhost:22", "ssh": {"users": ["pi"]}}]}`, "for nothing", "single_use_keys"},
		{"C-08 a misspelt single_use_keys", `{"ssh": {"single_use_key": true}}`, `unknown key "single_use_key"`, `"single_use_keys"`},
		{"ssh in slave mode", `{"tunnels": [{"destination": "tcp://localhost:0", "iot_slave": true, "iot_device_name": "a", "peer_device_port": 22, "ssh": {"users": ["pi"]}}]}`, "not for iot_slave", ""},
		{"SSH elsewhere", `{"tunnels": [{"destination": "tcp://192.168.0.1:22", "enable_ssh": true}]}`, "built-in SSH", ""},
		{"slave mode without a port", `{"tunnels": [{"destination": "tcp://localhost:0", "iot_slave": true, "iot_device_name": "a"}]}`, "port", ""},
		{"slave mode without a device", `{"tunnels": [{"destination": "tcp://localhost:0", "iot_slave": true, "peer_device_port": 22}]}`, "device", ""},
		{"slave mode for others", `{"tunnels": [{"destination": "tcp://0.0.0.0:1", "iot_slave": true, "iot_device_name": "a", "peer_device_port": 22}]}`, "this machine only", ""},
		{"a peer's port without slave mode", `{"tunnels": [{"destination": "tcp://localhost:1", "peer_device_port": 22}]}`, "iot_slave", ""},
		{"too many", `{"tunnels": [` + strings.TrimSuffix(manyTunnels(65), ",") + `]}`, "more than 64", ""},
	} {
		_, err := ParseConfig([]byte(c.text))
		var e *socketxp.Error
		switch {
		case err == nil:
			t.Errorf("%s: it was taken", c.name)
		case !strings.Contains(err.Error(), c.message):
			t.Errorf("%s: %v", c.name, err)
		case c.hint != "" && (!errors.As(err, &e) || !strings.Contains(e.Hint, c.hint)):
			t.Errorf("%s: hint %q", c.name, e.Hint)
		}
	}
}

func manyTunnels(n int) string {
	var b strings.Builder
	for i := range n {
		d := socketxp.Destination{Scheme: "tcp", Host: "localhost", Port: i + 1}
		b.WriteString(`{"destination": "` + d.String() + `"},`)
	}
	return b.String()
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"work_dir": "/a", "ssh_users": ["pi"], "tunnels": [{"destination": "tcp://localhost:22", "enable_ssh": true}]}`))
	f.Add([]byte(`{"authtoken": "x", "tunnel_enabled": false, "region": "x", "tunnels": [{"destination": "http://a", "protocol": "http"}]}`))
	f.Add([]byte(`{"tunnels": [{"destination": "tcp://localhost:0", "iot_slave": true, "iot_device_name": "a", "peer_device_port": 22}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig(data)
		if err != nil {
			return
		}
		if len(c.Publish) > socketxp.MaxTunnels {
			t.Errorf("%d tunnels", len(c.Publish))
		}
		for _, p := range c.Publish {
			if again, err := socketxp.ParseDestination(p.Destination.String()); err != nil || again != p.Destination || p.Check() != nil {
				t.Errorf("%+v would be published: %v", p, err)
			}
		}
		for _, v := range c.Visits {
			for _, a := range v.Local.addrs {
				if !a.IsLoopback() {
					t.Errorf("it would listen on %s", a)
				}
			}
		}
	})
}

// TestConfigSingleUseKeys finds which tunnels the gateway may be let in to.
func TestConfigSingleUseKeys(t *testing.T) {
	t.Parallel()
	const tunnels = `"tunnels": [
		{"destination": "tcp://localhost:22"},
		{"destination": "tcp://127.0.0.1:23", "ssh": {"single_use_keys": %s, "users": ["root"]}},
		{"destination": "tcp://192.168.0.1:22"},
		{"destination": "http://localhost:80"},
		{"destination": "tcp://localhost:24", "enable_ssh": true}
	]`
	for text, want := range map[string][]string{
		`{"ssh": {"single_use_keys": true, "users": ["pi"]}, ` + fmt.Sprintf(tunnels, "true"):                                {"22 pi", "23 root"},
		`{"ssh": {"single_use_keys": true}, ` + fmt.Sprintf(tunnels, "true"):                                                 {"22 ", "23 root"},
		`{"ssh": {"users": ["pi"]}, ` + fmt.Sprintf(tunnels, "true"):                                                         {"23 root"},
		`{"ssh": {"single_use_keys": false}, ` + fmt.Sprintf(tunnels, "true"):                                                {"23 root"},
		`{` + fmt.Sprintf(tunnels, "true"):                                                                                   {"23 root"},
		`{` + strings.Replace(fmt.Sprintf(tunnels, "false"), `, "users": ["root"]`, "", 1):                                   nil,
		`{"ssh": {"single_use_keys": true}, ` + strings.Replace(fmt.Sprintf(tunnels, "false"), `, "users": ["root"]`, "", 1): {"22 "},
	} {
		c, err := ParseConfig([]byte(text + "}"))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var got []string
		for _, p := range c.Publish {
			if p.SingleUseKeys {
				got = append(got, fmt.Sprintf("%d %s", p.Destination.Port, strings.Join(p.Users, ",")))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
