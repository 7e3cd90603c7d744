package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"socketxp"

	"golang.org/x/crypto/ssh"
)

// maxKnown bounds known_devices and ssh_known_hosts: 8,000 devices.
const maxKnown = 1 << 20

// knownDevice is a line of known_devices: gateway, device id, name and fingerprint,
// separated by single spaces. The first contact trusts the gateway's word for a
// device's key; every later one is compared with what was seen then.
type knownDevice struct {
	gateway, id, name, fingerprint string
}

func (k knownDevice) String() string {
	return strings.Join([]string{k.gateway, k.id, k.name, k.fingerprint}, " ")
}

// parseKnown reads known_devices. Empty lines and those that start with # are kept
// as zero values, so that indices are line numbers. A line that says nothing
// sensible is an error: what it may have guarded must not become unguarded.
func parseKnown(data []byte) ([]knownDevice, error) {
	var all []knownDevice
	for i, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		if line == "" || line[0] == '#' {
			all = append(all, knownDevice{})
			continue
		}
		f := strings.Split(line, " ")
		if len(f) != 4 {
			return nil, fmt.Errorf("line %d does not have four words", i+1)
		}
		k := knownDevice{f[0], f[1], f[2], f[3]}
		url, err := socketxp.CheckGatewayURL(k.gateway)
		if err != nil || url != k.gateway || !socketxp.ValidID(k.id) || socketxp.CheckDeviceName(k.name) != nil || !validFingerprint(k.fingerprint) {
			return nil, fmt.Errorf("line %d is not a gateway, a device's id, its name and a fingerprint", i+1)
		}
		all = append(all, k)
	}
	return all, nil
}

func validFingerprint(s string) bool {
	sum, ok := strings.CutPrefix(s, "SHA256:")
	b, err := base64.RawStdEncoding.Strict().DecodeString(sum)
	return ok && err == nil && len(b) == 32 && !strings.ContainsAny(sum, "\r\n")
}

// know compares a device with what was seen of it before, and writes it down if it
// is new. A key that was seen before may vouch for the one of now, by the vouchers that
// the gateway brings and can't make. ByName says that it was asked for by its name:
// then another device of that name is a stranger, too.
func (d *Dir) know(ctx context.Context, gatewayURL, id, name string, key ed25519.PublicKey, vouchers []socketxp.KeyVoucher, byName bool) error {
	follows := func(known string) bool { return socketxp.FollowsKey(id, known, vouchers, key) }
	this := knownDevice{gatewayURL, id, name, socketxp.Fingerprint(key)}
	// The file is replaced as a whole: to look needs no lock.
	if known, _, err := d.withDevice(this, follows, byName); err != nil || known {
		return err
	}
	release, err := d.lockKnown(ctx)
	if err != nil {
		return err
	}
	defer release()
	known, text, err := d.withDevice(this, follows, byName)
	if err != nil || known {
		return err
	}
	return d.write(knownFile, []byte(text))
}

// withDevice returns known_devices with this device in it, or known if that is how
// it is already. It is an error if the device is known by another key that its own does
// not follow.
func (d *Dir) withDevice(this knownDevice, follows func(fingerprint string) bool, byName bool) (known bool, text string, err error) {
	file := d.file(knownFile)
	data, err := d.read(knownFile, maxKnown, true)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, "", err
	}
	all, err := parseKnown(data)
	if err != nil {
		return false, "", hinted("repair the line or remove it", "%s: %v", file, err)
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if len(data) == 0 {
		lines = nil
	}
	at := slices.IndexFunc(all, func(k knownDevice) bool { return k.gateway == this.gateway && k.id == this.id })
	namesake := slices.IndexFunc(all, func(k knownDevice) bool {
		return k.gateway == this.gateway && k.name == this.name && k.id != this.id
	})
	switch {
	case at >= 0 && all[at].fingerprint != this.fingerprint && !follows(all[at].fingerprint):
		return false, "", changedKey(file, at, fmt.Sprintf("the device %s (%s)", this.name, this.id), all[at].fingerprint, this.fingerprint)
	case at < 0 && byName && namesake >= 0:
		return false, "", changedKey(file, namesake, "the device named "+this.name, all[namesake].fingerprint, this.fingerprint)
	case at >= 0 && all[at] == this:
		return true, "", nil
	case at >= 0:
		lines[at] = this.String() // renamed, or with a new key
	default:
		lines = append(lines, this.String())
	}
	if text = strings.Join(lines, "\n") + "\n"; len(text) > maxKnown {
		return false, "", hinted("remove the lines that are not needed", "%s is full", file)
	}
	return false, text, nil
}

// changedKey is as loud as ssh about it.
func changedKey(file string, index int, who, known, now string) error {
	return hinted(
		fmt.Sprintf("ask who looks after the device; if it was set up anew, remove line %d of %s", index+1, file),
		"THE DEVICE'S KEY HAS CHANGED: %s was known by the key %s and shows %s now; either it was set up anew, or somebody is in between", who, known, now)
}

// knowSSHHost has ssh find the built-in server's host key under hosts, or none if
// key is empty. The key needs no memory of its own: the link that leads to the
// server proves the device's.
func (d *Dir) knowSSHHost(ctx context.Context, hosts, key string) error {
	var line string
	if key != "" {
		parsed, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(key))
		if err != nil || len(bytes.TrimSpace(rest)) > 0 {
			return errors.New("the device's SSH host key is not valid")
		}
		line = hosts + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(parsed)))
	}
	// Most often there is nothing to change, and twenty that start together need not
	// wait for each other to see that.
	if now, _, err := d.withSSHHost(hosts, line); err != nil || now {
		return err
	}
	release, err := d.lockKnown(ctx)
	if err != nil {
		return err
	}
	defer release()
	now, text, err := d.withSSHHost(hosts, line)
	if err != nil || now {
		return err
	}
	return d.write(sshKnownFile, text)
}

// withSSHHost returns ssh_known_hosts with line in place of what it says of hosts,
// or now if that is how it is already.
func (d *Dir) withSSHHost(hosts, line string) (now bool, text []byte, err error) {
	data, err := d.read(sshKnownFile, maxKnown, true)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, nil, err
	}
	var lines []string
	for l := range strings.Lines(string(data)) {
		l = strings.TrimSuffix(l, "\n")
		if line != "" && l == line {
			return true, data, nil
		}
		if !strings.HasPrefix(l, hosts+" ") {
			lines = append(lines, l)
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	// Ports that are picked at random leave lines behind; the newest 1,000 will do.
	lines = lines[max(0, len(lines)-1000):]
	if len(lines) > 0 {
		text = []byte(strings.Join(lines, "\n") + "\n")
	}
	return bytes.Equal(text, data), text, nil
}

// sshHosts returns the names under which ssh looks for the host key of a port on
// this machine.
func sshHosts(port int) string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	if port != 22 {
		for i, n := range names {
			names[i] = "[" + n + "]:" + strconv.Itoa(port)
		}
	}
	return strings.Join(names, ",")
}

// sshHostName returns the name under which ssh looks for the host key of a device
// that it reaches by Proxy, as the block of SSHConfig has it.
func sshHostName(p Peer) string {
	name := p.DeviceID + p.DeviceName + SSHDomain
	if p.DevicePort != 22 {
		name = "[" + name + "]:" + strconv.Itoa(p.DevicePort)
	}
	return name
}
