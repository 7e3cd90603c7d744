package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"socketxp"
)

// MaxForwards is how many local ports one command opens; each has a control channel
// of its own.
const MaxForwards = 64

// ParseForward reads LPORT:DEVICE:PORT, or LPORT:DEVICE:HOST:PORT for a device that
// publishes one port of several hosts. LPORT 0 is any port that is free.
func ParseForward(s string) (ConfigVisit, error) {
	bad := hinted("it looks like 3000:kiosk:22, or 8080:kiosk:192.168.1.20:80", "the forward %q is not LPORT:DEVICE:PORT", Printable(clip(s)))
	lport, rest, ok := strings.Cut(s, ":")
	device, tunnel, more := strings.Cut(rest, ":")
	if !ok || !more {
		return ConfigVisit{}, bad
	}
	host, port := "", tunnel
	if strings.Contains(tunnel, ":") {
		var err error
		if host, port, err = net.SplitHostPort(tunnel); err != nil || host == "" {
			return ConfigVisit{}, bad
		}
	}
	local, err := ParseLocalPort("tcp://localhost:" + lport)
	if err != nil {
		return ConfigVisit{}, bad
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return ConfigVisit{}, bad
	}
	v := ConfigVisit{Local: local, DeviceHost: host, DevicePort: int(n)}
	if v.DeviceID, v.DeviceName, err = ParseDevice(device); err != nil {
		return ConfigVisit{}, err
	}
	return v, v.check()
}

// String returns the tunnel as ParseForward reads it behind the local port.
func (v ConfigVisit) String() string {
	device := v.DeviceID + v.DeviceName + ":"
	if v.DeviceHost != "" {
		return device + net.JoinHostPort(v.DeviceHost, strconv.Itoa(v.DevicePort))
	}
	return device + strconv.Itoa(v.DevicePort)
}

// check returns an error unless v names one tunnel of one device.
func (v ConfigVisit) check() error {
	if err := CheckPeer(v.DeviceID, v.DeviceName, v.DevicePort); err != nil || v.DeviceHost == "" {
		return err
	}
	_, err := socketxp.ParseDestination(socketxp.Destination{Scheme: "tcp", Host: v.DeviceHost, Port: v.DevicePort}.String())
	return err
}

// forwardFile is the form of a file of local ports: the slave-mode tunnels of
// config.json, and nothing else.
type forwardFile struct {
	Tunnels []forwardTunnel `json:"tunnels"`
}

type forwardTunnel struct {
	Destination    string `json:"destination"`
	IotSlave       *bool  `json:"iot_slave"`
	IotDeviceID    string `json:"iot_device_id"`
	IotDeviceName  string `json:"iot_device_name"`
	PeerDeviceHost string `json:"peer_device_host"`
	PeerDevicePort int    `json:"peer_device_port"`
}

// ReadForwards is ParseForwards of a file, which errors name.
func ReadForwards(path string) ([]ConfigVisit, error) {
	data, err := readFile(path, maxConfig, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hinted("", "there is no file %s", path)
	}
	if err != nil {
		return nil, err
	}
	all, err := ParseForwards(data)
	if err != nil {
		var e *socketxp.Error
		if errors.As(err, &e) {
			return nil, hinted(e.Hint, "%s: %s", path, e.Message)
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return all, nil
}

// ParseForwards reads the text of a file of local ports. An unknown key is an error
// that names the nearest known one, and so is a value that can't be meant.
func ParseForwards(data []byte) ([]ConfigVisit, error) {
	if len(data) > maxConfig {
		return nil, hinted("", "it is larger than %d bytes", maxConfig)
	}
	var f forwardFile
	if err := socketxp.StrictUnmarshal(data, &f); err != nil {
		return nil, hinted(nearestKey(err, forwardFile{}, forwardTunnel{}), "%v", err)
	}
	if len(f.Tunnels) == 0 {
		return nil, hinted(`it looks like {"tunnels": [{"destination": "tcp://localhost:3000", "iot_device_name": "kiosk", "peer_device_port": 22}]}`,
			"there are no tunnels in it")
	}
	all := make([]ConfigVisit, 0, len(f.Tunnels))
	for i, t := range f.Tunnels {
		v, err := t.visit()
		if err != nil {
			var e *socketxp.Error
			if errors.As(err, &e) {
				return nil, hinted(e.Hint, "tunnel %d: %s", i+1, e.Message)
			}
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

func (t forwardTunnel) visit() (ConfigVisit, error) {
	if t.IotSlave != nil && !*t.IotSlave {
		return ConfigVisit{}, hinted("what this machine publishes is opened by socketxp --config", "iot_slave is false")
	}
	local, err := ParseLocalPort(t.Destination)
	if err != nil {
		return ConfigVisit{}, err
	}
	v := ConfigVisit{Local: local, DeviceID: t.IotDeviceID, DeviceName: t.IotDeviceName, DeviceHost: t.PeerDeviceHost, DevicePort: t.PeerDevicePort}
	return v, v.check()
}

// CheckForwards returns an error if there are too many, or two of one local port.
func CheckForwards(all []ConfigVisit) error {
	if len(all) > MaxForwards {
		return hinted("start a second one", "there are more than %d forwards", MaxForwards)
	}
	seen := make(map[int]bool)
	for _, v := range all {
		if p := v.Local.port; p != 0 && seen[p] {
			return hinted("0 is any port that is free", "the local port %d is there twice", p)
		}
		seen[v.Local.port] = true
	}
	return nil
}

// Bind returns the port on another address of this machine: "localhost" or an IP
// address. One that others can reach needs remote: whoever reaches the port reaches
// the device.
func (l LocalPort) Bind(host string, remote bool) (LocalPort, error) {
	if strings.EqualFold(host, "localhost") {
		l.addrs = loopbacks()
		return l, nil
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	switch {
	case err != nil || addr.Zone() != "" || addr.IsMulticast():
		return l, hinted("it is localhost, or an IP address of this machine", "the address %q can't be bound", Printable(clip(host)))
	case !addr.Unmap().IsLoopback() && !remote:
		return l, hinted("add --allow-remote if that is meant",
			"on %s other machines could use the ports, and reach the devices without a token", addr)
	}
	l.addrs = []netip.Addr{addr.Unmap()}
	return l, nil
}

func loopbacks() []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
}
