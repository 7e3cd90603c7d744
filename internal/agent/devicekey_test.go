package agent

import (
	"crypto/ed25519"
	"reflect"
	"strings"
	"testing"

	"socketxp"
)

const goodKey = `{"DeviceId":"019ab6f2-7c1e-7a3b-9d60-2f6c1b9e4d11","DeviceKey":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",` +
	`"DeviceName":"sensor","DeviceGroup":"lab","Gateway":"https://gateway.example.com","GatewayPin":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}`

const pendingKey = `{"DeviceId":"","DeviceKey":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8","DeviceName":"","DeviceGroup":"","Gateway":"https://localhost:8443","GatewayPin":""}`

func TestParseDeviceKey(t *testing.T) {
	k, err := ParseDeviceKey([]byte(goodKey))
	if err != nil {
		t.Fatal(err)
	}
	seed := make([]byte, ed25519.SeedSize)
	for i := range seed {
		seed[i] = byte(i)
	}
	want := DeviceKey{
		ID: "019ab6f2-7c1e-7a3b-9d60-2f6c1b9e4d11", Name: "sensor", Group: "lab", Key: ed25519.NewKeyFromSeed(seed),
		Gateway: socketxp.GatewayAddress{URL: "https://gateway.example.com", Pin: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"},
	}
	if !reflect.DeepEqual(k, want) {
		t.Errorf("%+v", k)
	}
	if _, err := ParseDeviceKey([]byte(pendingKey)); err != nil {
		t.Error(err)
	}
	change := func(old, new string) string {
		if !strings.Contains(goodKey, old) {
			t.Fatalf("nothing to change: %s", old)
		}
		return strings.Replace(goodKey, old, new, 1)
	}
	for name, text := range map[string]string{
		"empty":             "",
		"half of it":        goodKey[:120],
		"twice":             goodKey + goodKey,
		"unknown key":       change(`"DeviceName"`, `"Token":"x","DeviceName"`),
		"key in other case": change(`"DeviceKey"`, `"devicekey"`),
		"no key":            change(`"DeviceKey":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",`, ``),
		"short key":         change(`Hh8","DeviceName`, `","DeviceName`),
		"padded key":        change(`Hh8","DeviceName`, `Hh8=","DeviceName`),
		"loose bits":        change(`Hh8","DeviceName`, `Hh9","DeviceName`),
		"key with a break":  change(`AAEC`, `AA\nEC`),
		"id not a UUID":     change(`019ab6f2-7c1e-7a3b-9d60-2f6c1b9e4d11`, `../../etc`),
		"no id":             change(`019ab6f2-7c1e-7a3b-9d60-2f6c1b9e4d11`, ``),
		"name":              change(`"sensor"`, `"Sensor\u001b[31m"`),
		"group":             change(`"lab"`, `""`),
		"plain http":        change(`https:`, `http:`),
		"gateway's path":    change(`example.com`, `example.com/x`),
		"pin":               change(`"GatewayPin":"AAEC`, `"GatewayPin":"`),
		"pin with a break":  change(`"GatewayPin":"AAEC`, `"GatewayPin":"AA\nEC`),
		"next pin":          change(`"GatewayPin"`, `"GatewayNextPin":"AQEC","GatewayPin"`),
		"next pin twice":    change(`"GatewayPin"`, `"GatewayNextPin":"AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8","GatewayNextPin":"","GatewayPin"`),
		"the same next pin": change(`"GatewayPin"`, `"GatewayNextPin":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8","GatewayPin"`),
		"next pin alone":    change(`"GatewayPin":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"`, `"GatewayPin":"","GatewayNextPin":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"`),
		"large":             goodKey + strings.Repeat(" ", maxDeviceKey),
	} {
		if k, err := ParseDeviceKey([]byte(text)); err == nil {
			t.Errorf("%s: it was taken: %+v", name, k)
		} else if strings.Contains(err.Error(), "AAECAwQF") {
			t.Errorf("%s: the error quotes the key: %v", name, err)
		}
	}
}

func FuzzParseDeviceKey(f *testing.F) {
	f.Add([]byte(goodKey))
	f.Add([]byte(pendingKey))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := ParseDeviceKey(data)
		if err != nil {
			return
		}
		text, err := k.text()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseDeviceKey(text)
		if err != nil || !reflect.DeepEqual(k, again) {
			t.Errorf("%+v became %+v, %v", k, again, err)
		}
	})
}
