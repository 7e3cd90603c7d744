package agent

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"socketxp"
	"socketxp/internal/control"
)

// sequenceFile is what device.seq holds: the value of the device's sequence (see
// internal/control/SPEC.md, section 6), of which device it is, and on which machine
// it was written.
type sequenceFile struct {
	DeviceID string `json:"DeviceId"`
	Sequence string `json:"Sequence"`          // base64url
	Machine  string `json:"Machine,omitempty"` // see machineHash
}

// sequence is the value that the device holds; nil for none.
type sequence struct {
	value   []byte
	machine string
}

const maxSequenceFile = 4 << 10

// parseSequence reads the text of a device.seq. What is of another device than id
// is none.
func parseSequence(data []byte, id string) (sequence, error) {
	var f sequenceFile
	if err := socketxp.StrictUnmarshal(data, &f); err != nil {
		return sequence{}, err
	}
	value, err := base64.RawURLEncoding.Strict().DecodeString(f.Sequence)
	switch {
	case err != nil || len(value) != socketxp.SequenceSize || strings.ContainsAny(f.Sequence, "\r\n"):
		return sequence{}, fmt.Errorf("the sequence is not the base64url of %d bytes", socketxp.SequenceSize)
	case !socketxp.ValidID(f.DeviceID):
		return sequence{}, errors.New("DeviceId is not a UUID in lower case")
	case len(f.Machine) > 64:
		return sequence{}, errors.New("the machine is longer than 64 bytes")
	case f.DeviceID != id:
		return sequence{}, nil
	}
	return sequence{value, f.Machine}, nil
}

// sequence returns what the device with this id holds. Whoever asks has the
// folder's lock: the value must not be shown from two places.
func (d *Dir) sequence(id string) (sequence, error) {
	data, err := d.read(sequenceFileName, maxSequenceFile, true)
	if errors.Is(err, fs.ErrNotExist) {
		return sequence{}, nil
	}
	if err != nil {
		return sequence{}, err
	}
	s, err := parseSequence(data, id)
	if err != nil {
		return sequence{}, hinted("socketxp relogin TOKEN begins anew", "%s is damaged: %v", d.file(sequenceFileName), err)
	}
	return s, nil
}

// keepSequence replaces the value, durably.
func (d *Dir) keepSequence(id string, s sequence) error {
	data, err := json.MarshalIndent(sequenceFile{DeviceID: id, Sequence: base64.RawURLEncoding.EncodeToString(s.value), Machine: s.machine}, "", "  ")
	if err == nil {
		data = append(data, '\n')
		if err = d.write(sequenceFileName, data); errors.Is(err, syscall.ENOSPC) {
			// A device with a full disk is one that somebody wants to reach.
			err = d.overwrite(sequenceFileName, data)
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", d.file(sequenceFileName), err)
	}
	return nil
}

// machineIDFiles are where Linux and BSD systems keep the id of an installation.
var machineIDFiles = []string{"/etc/machine-id", "/var/lib/dbus/machine-id", "/etc/hostid"}

// machineHash returns what tells this machine from others, or "" if nothing does.
// The id itself is not for others to know.
func machineHash(files []string) string {
	for _, path := range files {
		data, err := readFile(path, 1<<10, false)
		if id := strings.TrimSpace(string(data)); err == nil && len(id) >= 32 {
			sum := sha256.Sum256([]byte("socketxp-machine/1\x00" + id))
			return base64.RawURLEncoding.EncodeToString(sum[:])
		}
	}
	return ""
}

// movedMachine is a warning: what a person should know before the gateway finds it.
func movedMachine(dir *Dir) error {
	return hinted("a copy that is to be a device of its own: socketxp relogin TOKEN --iot-device-name NAME",
		"the state in %s was written on another machine: if that one runs too, the device will be put in quarantine", dir.Path())
}

// openDevice opens a device's control channel and returns when the gateway has
// welcomed it. The next value of the sequence is on disk before the gateway is told
// so: no crash makes this machine look like two.
func (d *Dir) openDevice(ctx context.Context, gw *gateway, key DeviceKey, report control.Report, version string) (_ *control.Conn, w control.Welcome, err error) {
	held, err := d.sequence(key.ID)
	if err != nil {
		return nil, w, err
	}
	conn, err := gw.open(ctx, key.Key, control.RoleDevice, version)
	if err != nil {
		return nil, w, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	report.Sequence = held.value
	answer := control.Message(report)
	for {
		if err := conn.Send(ctx, answer); err != nil {
			return nil, w, unreachable(gw.addr.URL, err)
		}
		m, err := gw.await(ctx, conn)
		if err != nil {
			return nil, w, err
		}
		switch m := m.(type) {
		case control.SequenceNext:
			if err := d.keepSequence(key.ID, sequence{m.Next, machineHash(machineIDFiles)}); err != nil {
				return nil, w, err
			}
			answer = control.SequenceKept(m)
		case control.SequenceCheck:
			answer = control.SequenceHeld(m)
		case control.Welcome:
			return conn, m, nil
		default:
			return nil, w, unreachable(gw.addr.URL, errors.New("it answered with something else than a welcome"))
		}
	}
}
