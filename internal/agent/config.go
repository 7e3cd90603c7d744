package agent

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"socketxp"
)

// maxConfig is how much of config.json is read.
const maxConfig = 1 << 20

// Config is what config.json asks for.
type Config struct {
	WorkDir string // "" leaves it to the default
	Publish []Tunnel
	Visits  []ConfigVisit
	// AuthToken, Name and Group are from older files: to log in, if the device is not
	// registered yet.
	AuthToken, Name, Group string
	// Notes are for people: what was ignored, and what should be changed.
	Notes []string
}

// ConfigVisit is a slave-mode tunnel of config.json.
type ConfigVisit struct {
	Local                LocalPort
	DeviceID, DeviceName string
	DeviceHost           string // "" is the one there is
	DevicePort           int
}

// configFile is the form on disk.
type configFile struct {
	WorkDir       string         `json:"work_dir"`
	SSHUsers      []string       `json:"ssh_users"`
	SSH           configSSH      `json:"ssh"`
	Tunnels       []configTunnel `json:"tunnels"`
	AuthToken     string         `json:"authtoken"`
	TunnelEnabled *bool          `json:"tunnel_enabled"`
	Region        string         `json:"region"`
}

type configTunnel struct {
	Destination    string    `json:"destination"`
	EnableSSH      bool      `json:"enable_ssh"`
	SSHUsers       []string  `json:"ssh_users"`
	SSH            configSSH `json:"ssh"`
	Subdomain      string    `json:"subdomain"`
	CustomDomain   string    `json:"custom_domain"`
	Protocol       string    `json:"protocol"`
	IotDeviceID    string    `json:"iot_device_id"`
	IotDeviceName  string    `json:"iot_device_name"`
	IotDeviceGroup string    `json:"iot_device_group"`
	IotSlave       bool      `json:"iot_slave"`
	PeerDeviceHost string    `json:"peer_device_host"`
	PeerDevicePort int       `json:"peer_device_port"`
}

// configSSH is what visitors of the built-in SSH server may do, and whether the gateway
// may sign in to this machine's sshd by single-use keys. What a tunnel leaves
// out is as at the top level, and what that leaves out as in DefaultSSHPolicy.
type configSSH struct {
	Users                *[]string `json:"users"` // older files: ssh_users
	AllowTCPForwarding   *bool     `json:"allow_tcp_forwarding"`
	AllowAgentForwarding *bool     `json:"allow_agent_forwarding"`
	AcceptEnv            *[]string `json:"accept_env"`
	SingleUseKeys        *bool     `json:"single_use_keys"`
}

// forServer reports whether something is set that only the built-in SSH server heeds.
func (c configSSH) forServer() bool {
	return c.AllowTCPForwarding != nil || c.AllowAgentForwarding != nil || c.AcceptEnv != nil
}

// or fills what is left out.
func (c configSSH) or(outer configSSH) configSSH {
	return configSSH{
		Users:                cmp.Or(c.Users, outer.Users),
		AllowTCPForwarding:   cmp.Or(c.AllowTCPForwarding, outer.AllowTCPForwarding),
		AllowAgentForwarding: cmp.Or(c.AllowAgentForwarding, outer.AllowAgentForwarding),
		AcceptEnv:            cmp.Or(c.AcceptEnv, outer.AcceptEnv),
		SingleUseKeys:        cmp.Or(c.SingleUseKeys, outer.SingleUseKeys),
	}
}

// withUsers takes ssh_users for users.
func (c configSSH) withUsers(users []string) (configSSH, error) {
	if len(users) == 0 {
		return c, nil
	}
	if c.Users != nil {
		return c, hinted("keep users in ssh", "ssh_users and users in ssh are the same: give one of them")
	}
	c.Users = &users
	return c, nil
}

// tunnel returns the users and the policy.
func (c configSSH) tunnel() ([]string, SSHPolicy) {
	var users []string
	policy := DefaultSSHPolicy()
	for _, set := range []struct {
		from *bool
		to   *bool
	}{{c.AllowTCPForwarding, &policy.TCPForwarding}, {c.AllowAgentForwarding, &policy.AgentForwarding}} {
		if set.from != nil {
			*set.to = *set.from
		}
	}
	if c.AcceptEnv != nil {
		policy.AcceptEnv = *c.AcceptEnv
	}
	if c.Users != nil {
		users = *c.Users
	}
	return users, policy
}

// ReadConfig is ParseConfig of a file, which errors name.
func ReadConfig(path string) (Config, error) {
	data, err := readFile(path, maxConfig, false)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("config file %s: there is no such file", path)
	}
	if err != nil {
		return Config{}, fmt.Errorf("config file: %w", err)
	}
	c, err := ParseConfig(data)
	if err != nil {
		var e *socketxp.Error
		if errors.As(err, &e) {
			return c, &socketxp.Error{Code: e.Code, Message: "config file " + path + ": " + e.Message, Hint: e.Hint}
		}
		return c, fmt.Errorf("config file %s: %w", path, err)
	}
	return c, nil
}

// ParseConfig reads the text of a config.json. An unknown key is an error that
// names the nearest known one, and so is a value that can't be meant.
func ParseConfig(data []byte) (Config, error) {
	var f configFile
	if len(data) > maxConfig {
		return Config{}, hinted("", "it is larger than %d bytes", maxConfig)
	}
	if err := socketxp.StrictUnmarshal(data, &f); err != nil {
		return Config{}, hinted(nearestKey(err, configFile{}, configTunnel{}, configSSH{}), "%v", err)
	}
	c := Config{WorkDir: f.WorkDir, AuthToken: f.AuthToken}
	if c.WorkDir != "" && !filepath.IsAbs(c.WorkDir) {
		return Config{}, hinted("", "work_dir %q is not an absolute path", c.WorkDir)
	}
	if f.AuthToken != "" {
		c.note("authtoken is in the file for everyone who can read it: remove it once the device is registered")
	}
	if f.Region != "" {
		c.note("region is ignored: the gateway is the one that the token or device.key names")
	}
	outer, err := f.SSH.withUsers(f.SSHUsers)
	if err != nil {
		return Config{}, err
	}
	// For a server that no tunnel asks for, too: who sets something expects that it holds.
	_, policy := outer.tunnel()
	if err := policy.Check(); err != nil {
		return Config{}, err
	}
	for i, t := range f.Tunnels {
		if err := c.add(t, outer); err != nil {
			var e *socketxp.Error
			if errors.As(err, &e) {
				return Config{}, hinted(e.Hint, "tunnel %d: %s", i+1, e.Message)
			}
			return Config{}, err
		}
	}
	if len(c.Publish) > socketxp.MaxTunnels {
		return Config{}, hinted("", "there are more than %d tunnels", socketxp.MaxTunnels)
	}
	if f.TunnelEnabled != nil && !*f.TunnelEnabled {
		c.Publish, c.Visits = nil, nil
		c.note("tunnel_enabled is false: no tunnel is opened")
	}
	return c, nil
}

func (c *Config) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(c.Notes, n) {
		c.Notes = append(c.Notes, n)
	}
}

// add takes one tunnel.
func (c *Config) add(t configTunnel, outer configSSH) error {
	if !slices.Contains([]string{"", "tcp", "http", "tls"}, t.Protocol) {
		return hinted("", "the protocol %q is not tcp, http or tls", t.Protocol)
	}
	if t.Subdomain != "" || t.CustomDomain != "" {
		c.note("subdomain and custom_domain are ignored: there are no public URLs")
	}
	if t.IotSlave {
		return c.addVisit(t)
	}
	if t.PeerDevicePort != 0 || t.PeerDeviceHost != "" {
		return hinted("", "peer_device_port and peer_device_host are for iot_slave")
	}
	dest, err := socketxp.ParseDestination(t.Destination)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(c.Publish, func(p Tunnel) bool { return p.Destination == dest }) {
		return hinted("", "%s is there twice", dest)
	}
	own, err := t.SSH.withUsers(t.SSHUsers)
	if err != nil {
		return err
	}
	tunnel := Tunnel{Destination: dest, SSH: t.EnableSSH}
	asked, effective := own.SingleUseKeys != nil && *own.SingleUseKeys, own.or(outer)
	switch {
	case t.EnableSSH:
		tunnel.Users, tunnel.Policy = effective.tunnel()
		tunnel.SingleUseKeys = asked // which Check refuses
	case t.SSH.forServer():
		return hinted("add enable_ssh", "ssh is for the built-in SSH server")
	case asked || effective.SingleUseKeys != nil && *effective.SingleUseKeys && tunnel.mayHaveKeys():
		tunnel.SingleUseKeys = true
		tunnel.Users, _ = effective.tunnel()
	case t.SSH.Users != nil: // the older ssh_users was never asked what it is for
		return hinted("add enable_ssh, or single_use_keys for the sshd of this machine", "ssh has users for nothing")
	}
	if err := tunnel.Check(); err != nil {
		return err
	}
	c.Publish = append(c.Publish, tunnel)
	for _, older := range []struct {
		value string
		to    *string
		check func(string) error
	}{{t.IotDeviceName, &c.Name, socketxp.CheckDeviceName}, {t.IotDeviceGroup, &c.Group, socketxp.CheckGroup}} {
		if older.value == "" {
			continue
		}
		if err := older.check(older.value); err != nil {
			return err
		}
		if *older.to != "" && *older.to != older.value {
			return hinted("", "the tunnels name several devices or groups; this machine is one device")
		}
		*older.to = older.value
	}
	if t.IotDeviceID != "" {
		c.note("iot_device_id is ignored: the device's id is in device.key")
	}
	return nil
}

func (c *Config) addVisit(t configTunnel) error {
	local, err := ParseLocalPort(t.Destination)
	if err != nil {
		return err
	}
	v := ConfigVisit{Local: local, DeviceID: t.IotDeviceID, DeviceName: t.IotDeviceName, DeviceHost: t.PeerDeviceHost, DevicePort: t.PeerDevicePort}
	if err := v.check(); err != nil {
		return err
	}
	if t.EnableSSH || t.SSH != (configSSH{}) {
		return hinted("it belongs to the device's own configuration", "enable_ssh and ssh are not for iot_slave")
	}
	c.Visits = append(c.Visits, v)
	return nil
}

// CheckPeer returns an error unless exactly one of id and name is given, and valid,
// and the port is one.
func CheckPeer(id, name string, port int) error {
	switch {
	case id == "" && name == "":
		return hinted("name it by its id or its name", "slave mode needs a device")
	case id != "" && name != "":
		return hinted("give one of them", "slave mode needs the device's id or its name, not both")
	case port < 1 || port > 65535:
		return hinted("it is the port that the device publishes, such as 22", "slave mode needs the device's port, 1 to 65535")
	case id != "" && !socketxp.ValidID(id):
		return hinted("socketxp status on the device shows it", "the device id %q is not valid", Printable(clip(id)))
	case name != "":
		return socketxp.CheckDeviceName(name)
	}
	return nil
}

// nearestKey returns a hint for a key that is not known, of those of the forms.
func nearestKey(err error, forms ...any) string {
	quoted, ok := strings.CutPrefix(err.Error(), "unknown key ")
	if !ok {
		return ""
	}
	key, err := strconv.Unquote(quoted)
	if err != nil {
		return ""
	}
	var known []string
	for _, f := range forms {
		known = append(known, socketxp.JSONKeys(f)...)
	}
	near := socketxp.Nearest(clip(key), known)
	if near == "" {
		return ""
	}
	return "did you mean " + strconv.Quote(near) + "?"
}
