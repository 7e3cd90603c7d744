package agent

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"socketxp"
)

// DeviceKey is what device.key holds: all that a device needs after login.
type DeviceKey struct {
	// ID, Name and Group are the gateway's. Before the gateway has answered a login,
	// ID is empty: the key is on disk first, so that no crash can lose a key that a
	// gateway has registered.
	ID, Name, Group string
	Key             ed25519.PrivateKey
	Gateway         socketxp.GatewayAddress
}

// maxDeviceKey is some ten times the size of the largest valid file.
const maxDeviceKey = 16 << 10

// deviceKeyFile is the form on disk, which factories write too.
type deviceKeyFile struct {
	DeviceID    string `json:"DeviceId"`
	DeviceKey   string `json:"DeviceKey"` // base64url of the Ed25519 seed
	DeviceName  string `json:"DeviceName"`
	DeviceGroup string `json:"DeviceGroup"`
	Gateway     string `json:"Gateway"`
	GatewayPin  string `json:"GatewayPin"`
	// GatewayNextPin is there while the gateway is about to change its key.
	GatewayNextPin string `json:"GatewayNextPin,omitempty"`
}

// ParseDeviceKey reads the text of a device.key. It refuses unknown keys, a key
// that is not exactly a seed, and a name, group or address that no gateway gives
// out. Errors don't quote the text.
func ParseDeviceKey(data []byte) (DeviceKey, error) {
	var f deviceKeyFile
	if len(data) > maxDeviceKey {
		return DeviceKey{}, fmt.Errorf("it is larger than %d bytes", maxDeviceKey)
	}
	if err := socketxp.StrictUnmarshal(data, &f); err != nil {
		return DeviceKey{}, err
	}
	seed, err := base64.RawURLEncoding.Strict().DecodeString(f.DeviceKey)
	if err != nil || len(seed) != ed25519.SeedSize || strings.ContainsAny(f.DeviceKey, "\r\n") { // which Go's base64 would skip
		return DeviceKey{}, errors.New("DeviceKey is not the base64url of 32 bytes")
	}
	k := DeviceKey{ID: f.DeviceID, Name: f.DeviceName, Group: f.DeviceGroup, Key: ed25519.NewKeyFromSeed(seed)}
	if k.Gateway.URL, err = socketxp.CheckGatewayURL(f.Gateway); err != nil {
		return DeviceKey{}, err
	}
	k.Gateway.Pin, k.Gateway.NextPin = f.GatewayPin, f.GatewayNextPin
	if err := k.Gateway.CheckPins(); err != nil {
		return DeviceKey{}, err
	}
	if f.DeviceID == "" {
		if f.DeviceName != "" || f.DeviceGroup != "" {
			return DeviceKey{}, errors.New("DeviceName or DeviceGroup without DeviceId")
		}
		return k, nil
	}
	if !socketxp.ValidID(f.DeviceID) {
		return DeviceKey{}, errors.New("DeviceId is not a UUID in lower case")
	}
	if err := socketxp.CheckDeviceName(f.DeviceName); err != nil {
		return DeviceKey{}, err
	}
	return k, socketxp.CheckGroup(f.DeviceGroup)
}

// text is what ParseDeviceKey reads.
func (k DeviceKey) text() ([]byte, error) {
	data, err := json.MarshalIndent(deviceKeyFile{
		DeviceID: k.ID, DeviceKey: base64.RawURLEncoding.EncodeToString(k.Key.Seed()),
		DeviceName: k.Name, DeviceGroup: k.Group, Gateway: k.Gateway.URL, GatewayPin: k.Gateway.Pin,
		GatewayNextPin: k.Gateway.NextPin,
	}, "", "  ")
	return append(data, '\n'), err
}

// Fingerprint returns how the device's public key is shown.
func (k DeviceKey) Fingerprint() string { return socketxp.Fingerprint(k.public()) }

func (k DeviceKey) public() ed25519.PublicKey {
	return k.Key.Public().(ed25519.PublicKey) //nolint:forcetypeassert // it is what crypto/ed25519 says
}

// anyKey returns the key in the folder, registered or not, or fs.ErrNotExist.
func (d *Dir) anyKey() (DeviceKey, error) {
	data, err := d.read(keyFile, maxDeviceKey, true)
	if err != nil {
		return DeviceKey{}, err
	}
	k, err := ParseDeviceKey(data)
	if err != nil {
		return DeviceKey{}, hinted("copy it whole, or remove it and log in again", "%s is damaged: %v", d.file(keyFile), err)
	}
	return k, nil
}

// Key returns the key of the registered device. It is a *NotRegisteredError if
// there is none.
func (d *Dir) Key() (DeviceKey, error) {
	k, err := d.anyKey()
	if errors.Is(err, fs.ErrNotExist) || err == nil && k.ID == "" {
		return DeviceKey{}, notRegistered()
	}
	return k, err
}

func (d *Dir) writeKey(k DeviceKey) error {
	data, err := k.text()
	if err == nil {
		err = d.write(keyFile, data)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", d.file(keyFile), err)
	}
	return nil
}
