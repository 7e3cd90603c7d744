package socketxp

import (
	"crypto/ed25519"
	"slices"
	"time"
)

// DeviceKeyState is what a key is to a device. The zero state is good for nothing.
type DeviceKeyState string

// The states.
const (
	DeviceKeyCurrent DeviceKeyState = "current"
	// DeviceKeyNext is one that the device has made: from the first connection with it on it
	// is the current one.
	DeviceKeyNext    DeviceKeyState = "next"
	DeviceKeyRetired DeviceKeyState = "retired"
	// DeviceKeyVoid is a next key that was never used and had to make room for another.
	DeviceKeyVoid DeviceKeyState = "void"
)

// KeyStageLife is how long a next key can't be replaced by another: a device that
// was told that it is staged has it on its disk by then.
const KeyStageLife = 24 * time.Hour

// MaxVouchers bounds how far back the keys of a device are remembered.
const MaxVouchers = 32

// KeySuccession is a device's change from one key to the next.
type KeySuccession struct {
	Current, Next ed25519.PublicKey
	// Vouch is the current key's signature over KeyVouch.
	Vouch []byte
}

// KeyVoucher is a key that a device had, and how it vouches for the one after it.
type KeyVoucher struct {
	Key   ed25519.PublicKey
	Vouch []byte // over KeyVouch
}

// KeyReplacement gives a device a new key by a token.
type KeyReplacement struct {
	AccountID, TokenID string
	Old, New           ed25519.PublicKey
	// Allow says whether the token is for this device.
	Allow func(Device) error
}

// These separate the signatures from all others of a device key.
const (
	keyVouchContext   = "socketxp-key-vouch/1\x00"
	keyChangeContext  = "socketxp-key-change/1\x00"
	keyReplaceContext = "socketxp-key-replace/1\x00"
)

// KeyVouch returns what a device's key signs to vouch for the next one: whoever
// knows the one may trust the other.
func KeyVouch(deviceID string, current, next ed25519.PublicKey) []byte {
	return slices.Concat([]byte(keyVouchContext), []byte(deviceID), current, next)
}

// KeyChangeProof returns what the next key signs to show that the device has it. The
// nonce is the gateway's, of one control channel, so that it can be used on no other.
func KeyChangeProof(deviceID string, current, next ed25519.PublicKey, nonce []byte) []byte {
	return slices.Concat([]byte(keyChangeContext), []byte(deviceID), current, next, nonce)
}

// KeyReplaceProof returns what both keys sign to give a device a new key by a token.
// A replay can only do the same again, which changes nothing.
func KeyReplaceProof(token string, old, next ed25519.PublicKey) []byte {
	return slices.Concat([]byte(keyReplaceContext), RegistrationProof(token, next), old)
}

// FollowsKey reports whether the vouchers lead from the key of a fingerprint to key:
// each of them signs for the next one, and the last for key.
func FollowsKey(deviceID, fingerprint string, vouchers []KeyVoucher, key ed25519.PublicKey) bool {
	from := slices.IndexFunc(vouchers, func(v KeyVoucher) bool { return Fingerprint(v.Key) == fingerprint })
	if from < 0 || len(vouchers) > MaxVouchers {
		return false
	}
	for i := from; i < len(vouchers); i++ {
		next := key
		if i+1 < len(vouchers) {
			next = vouchers[i+1].Key
		}
		if len(vouchers[i].Key) != ed25519.PublicKeySize || !ed25519.Verify(vouchers[i].Key, KeyVouch(deviceID, vouchers[i].Key, next), vouchers[i].Vouch) {
			return false
		}
	}
	return true
}
