package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"socketxp"
)

// only returns the bed's one device.
func (b *bed) only() *bedDevice {
	for _, d := range b.devices {
		return d
	}
	b.t.Fatal("there is no device")
	return nil
}

func TestSequenceIsKept(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	for range 3 {
		device := connect(t, dir, tunnel(t, "tcp://localhost:22"))
		await(t, device.connected)
		device.stop()
	}
	told, err := Logout(t.Context(), dir, "test") // on a channel of its own
	if told != nil || err != nil {
		t.Fatal(told, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	shown := b.gone.shown
	if len(shown) != 4 || len(shown[0]) != 0 {
		t.Fatalf("it showed %x", shown)
	}
	for i, kept := range b.gone.kept[:3] {
		if !bytes.Equal(shown[i+1], kept) {
			t.Errorf("it kept %x and showed %x", kept, shown[i+1])
		}
	}
	if _, err := os.Stat(dir.file(sequenceFileName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("logged out, and %s is there: %v", sequenceFileName, err)
	}
}

func TestSequenceIsOnDiskFirst(t *testing.T) {
	b := newBed(t)
	dir, key := b.login("sensor")
	b.with(func() {
		b.keptHook = func(value []byte) {
			if s, err := dir.sequence(key.ID); err != nil || !bytes.Equal(s.value, value) {
				t.Errorf("it says that it has kept %x, and has %x, %v", value, s.value, err)
			}
		}
	})
	device := connect(t, dir, tunnel(t, "tcp://localhost:22"))
	await(t, device.connected)
	if info, err := os.Stat(dir.file(sequenceFileName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	device.stop()
}

func TestSecondHolderIsAlive(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	b.with(func() { b.checkSequence = true })
	device := connect(t, dir, tunnel(t, "tcp://localhost:22"))
	if err := await(t, device.problems); socketxp.CodeOf(err) != socketxp.CodeQuarantined {
		t.Errorf("it was told %v", err)
	}
	if _, err := os.Stat(dir.file(sequenceFileName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it keeps a value that it was not given: %v", err)
	}
	device.stop()
}

func TestDamagedSequence(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	if err := dir.write(sequenceFileName, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	device := connect(t, dir, tunnel(t, "tcp://localhost:22"))
	err := await(t, device.problems)
	if err == nil || !strings.Contains(err.Error(), "device.seq is damaged") {
		t.Errorf("it was told %v", err)
	}
	device.stop()
	b.with(func() {
		if len(b.only().shown) != 0 {
			t.Error("it has shown itself to the gateway without its value")
		}
	})
}

func TestSequenceThatCantBeKept(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	if err := os.MkdirAll(filepath.Join(dir.path, sequenceFileName+stagedSuffix, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	device := connect(t, dir, tunnel(t, "tcp://localhost:22"))
	if err := await(t, device.problems); err == nil || !strings.Contains(err.Error(), "write "+dir.file(sequenceFileName)) {
		t.Errorf("it was told %v", err)
	}
	device.stop()
	b.with(func() {
		if d := b.only(); len(d.kept) != 0 || d.conn != nil {
			t.Error("it says that it has kept a value, or is connected")
		}
	})
}

func TestK05MovedMachine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "machine-id")
	for _, id := range []string{"", "uninitialized\n", strings.Repeat("a", 2000)} {
		if err := os.WriteFile(file, []byte(id), 0o600); err != nil {
			t.Fatal(err)
		}
		if h := machineHash([]string{file + ".none", file}); h != "" {
			t.Errorf("%.20q tells machines apart: %q", id, h)
		}
	}
	if err := os.WriteFile(file, []byte("b08dfa6083e7567a1921a715000001fb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if h := machineHash([]string{file + ".none", file}); len(h) != 43 || strings.Contains(h, "b08dfa60") {
		t.Errorf("the machine is %q", h)
	}

	b := newBed(t)
	dir, _ := b.login("sensor")
	machineIDs := machineIDFiles
	machineIDFiles = []string{file}
	defer func() { machineIDFiles = machineIDs }()
	for _, step := range []struct {
		name, machine string
		warned        bool
	}{
		{"it has never connected", "", false},
		{"the machine is the same", "b08dfa6083e7567a1921a715000001fb", false},
		{"K-05 the state is another machine's", "c19dfa6083e7567a1921a715000001fb", true},
		{"it was told once", "c19dfa6083e7567a1921a715000001fb", false},
	} {
		t.Run(step.name, func(t *testing.T) {
			if step.machine != "" {
				if err := os.WriteFile(file, []byte(step.machine+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			device := connect(t, dir, tunnel(t, "tcp://localhost:22"))
			await(t, device.connected)
			device.stop()
			if warned := len(device.warnings) > 0; warned != step.warned {
				t.Errorf("warned %v, want %v", warned, step.warned)
			}
		})
	}
}

func FuzzParseSequence(f *testing.F) {
	const id = "01a20baf-20ae-7456-abf9-67d074fdbbf2"
	f.Add([]byte(`{"DeviceId":"` + id + `","Sequence":"AAAAAAAAAAAAAAAAAAAAAA","Machine":"m"}`))
	f.Add([]byte(`{"DeviceId":"` + id + `","Sequence":"AAAAAAAAAAAAAAAAAAAAAB"}`))
	f.Add([]byte(`{"DeviceId":"01a20baf-20ae-7cd7-bd94-a53a4dd76c2f","Sequence":"AAAAAAAAAAAAAAAAAAAAAA"}`))
	f.Add([]byte(`{"Sequence":"AAAAAAAAAAAAAAAAAAAAAA"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseSequence(data, id)
		if err != nil {
			if len(s.value) != 0 {
				t.Errorf("an error and a value: %+v", s)
			}
			return
		}
		var file map[string]string
		if json.Unmarshal(data, &file) != nil || s.value != nil && (file["DeviceId"] != id || len(s.value) != socketxp.SequenceSize) {
			t.Errorf("%q is %+v", data, s)
		}
	})
}
