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
// is new. ByName says that it was asked for by its name: then another device of
// that name is a stranger, too.
func (d *Dir) know(ctx context.Context, gatewayURL, id, name string, key ed25519.PublicKey, byName bool) error {
	release, err := d.lockKnown(ctx)
	if err != nil {
		return err
	}
	defer release()
	file := d.file(knownFile)
	data, err := d.read(knownFile, maxKnown, true)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all, err := parseKnown(data)
	if err != nil {
		return hinted("repair the line or remove it", "%s: %v", file, err)
	}
	this := knownDevice{gatewayURL, id, name, socketxp.Fingerprint(key)}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if len(data) == 0 {
		lines = nil
	}
	at := slices.IndexFunc(all, func(k knownDevice) bool { return k.gateway == gatewayURL && k.id == id })
	namesake := slices.IndexFunc(all, func(k knownDevice) bool { return k.gateway == gatewayURL && k.name == name && k.id != id })
	switch {
	case at >= 0 && all[at].fingerprint != this.fingerprint:
		return changedKey(file, at, fmt.Sprintf("the device %s (%s)", name, id), all[at].fingerprint, this.fingerprint)
	case at < 0 && byName && namesake >= 0:
		return changedKey(file, namesake, "the device named "+name, all[namesake].fingerprint, this.fingerprint)
	case at >= 0 && all[at] == this:
		return nil
	case at >= 0:
		lines[at] = this.String() // renamed
	default:
		lines = append(lines, this.String())
	}
	text := strings.Join(lines, "\n") + "\n"
	if len(text) > maxKnown {
		return hinted("remove the lines that are not needed", "%s is full", file)
	}
	return d.write(knownFile, []byte(text))
}

// changedKey is as loud as ssh about it.
func changedKey(file string, index int, who, known, now string) error {
	return hinted(
		fmt.Sprintf("ask who looks after the device; if it was set up anew, remove line %d of %s", index+1, file),
		"THE DEVICE'S KEY HAS CHANGED: %s was known by the key %s and shows %s now; either it was set up anew, or somebody is in between", who, known, now)
}

// knowSSHHost has ssh find the built-in server's host key under the local port, or
// none if key is empty. The key needs no memory of its own: the link that leads to
// the server proves the device's.
func (d *Dir) knowSSHHost(ctx context.Context, port int, key string) error {
	var line string
	hosts := sshHosts(port)
	if key != "" {
		parsed, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(key))
		if err != nil || len(bytes.TrimSpace(rest)) > 0 {
			return errors.New("the device's SSH host key is not valid")
		}
		line = hosts + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(parsed)))
	}
	release, err := d.lockKnown(ctx)
	if err != nil {
		return err
	}
	defer release()
	data, err := d.read(sshKnownFile, maxKnown, true)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var lines []string
	for l := range strings.Lines(string(data)) {
		if l = strings.TrimSuffix(l, "\n"); !strings.HasPrefix(l, hosts+" ") {
			lines = append(lines, l)
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	// Ports that are picked at random leave lines behind; the newest 1,000 will do.
	lines = lines[max(0, len(lines)-1000):]
	text := []byte(strings.Join(lines, "\n") + "\n")
	if len(lines) == 0 {
		text = nil
	}
	if bytes.Equal(text, data) {
		return nil
	}
	return d.write(sshKnownFile, text)
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
