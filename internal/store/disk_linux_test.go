package store_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"socketxp"
	"socketxp/internal/store"
)

// smallDisk returns a file system of so many KiB.
func smallDisk(t *testing.T, kib int) string {
	t.Helper()
	dir := t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dk,mode=700", kib))
	if errors.Is(err, syscall.EPERM) && os.Getenv("CI") == "" {
		t.Skip("mounting needs root")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all the room that is left, and returns what gives it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range []int{64 << 10, 1 << 10} {
		for err == nil {
			_, err = f.Write(make([]byte, block))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		err = nil
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// journal is what was acknowledged: names of devices.
type journal []string

// write registers devices until one is refused, or there are most of them, and
// returns the refusal.
func (j *journal) write(acme *tenant, most int) error {
	for range most {
		name := fmt.Sprintf("dev-%d", len(*j))
		r := acme.registration(name, "")
		r.Device.Facts.Hostname = strings.Repeat("h", 200)
		if _, _, err := acme.register(r); err != nil {
			return err
		}
		*j = append(*j, name)
	}
	return nil
}

// check fails unless just what was acknowledged is there, whole.
func (j journal) check(acme *tenant, path string) {
	acme.t.Helper()
	devices, total, err := acme.store.Devices(acme.t.Context(), acme.id, socketxp.DeviceQuery{Limit: 200})
	acme.must(err)
	if total.Devices != len(j) {
		acme.t.Errorf("%d devices are there, %d were acknowledged: %v", total.Devices, len(j), deviceNames(devices))
	}
	for _, name := range j {
		acme.device(name)
	}
	if records := len(acme.chain()); records != len(j)+1 {
		acme.t.Errorf("%d audit records of %d acts", records, len(j)+1)
	}
	if path != "" {
		if _, err := store.Inspect(acme.t.Context(), "sqlite:"+path, true); err != nil {
			acme.t.Errorf("the database is damaged: %v", err)
		}
	}
}

func TestDiskFull(t *testing.T) {
	dir := smallDisk(t, 4096)
	path := filepath.Join(dir, "socketxp.db")
	s := open(t, "sqlite:"+path)
	acme := newTenant(t, s, "acme")
	var done journal
	acme.must(done.write(acme, 3))
	for round := range 3 {
		free := fill(t, dir)
		err := done.write(acme, 100)
		t.Run("P-03 a write is refused and says why", func(t *testing.T) {
			wantCode(t, err, socketxp.CodeUnavailable)
			if own := new(socketxp.Error); !errors.As(err, &own) || own.Message != "the gateway's disk is full" || own.Hint == "" {
				t.Errorf("it says %v", err)
			}
		})
		t.Run("P-03 reads go on", func(t *testing.T) {
			done.check(acme, "")
			if err := s.Ping(t.Context()); err != nil {
				t.Error(err)
			}
		})
		free()
		t.Run("P-03 it recovers by itself", func(t *testing.T) {
			acme.must(done.write(acme, 2))
			done.check(acme, path)
		})
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	t.Run("P-03 killed while it is full", func(t *testing.T) {
		free := fill(t, dir)
		_ = done.write(acme, 100)
		// What is on the disk now is what a process that is killed leaves.
		crashed := t.TempDir()
		for _, name := range []string{"socketxp.db", "socketxp.db-wal"} {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(crashed, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		free()
		again := *acme
		again.store = open(t, "sqlite:"+crashed+"/socketxp.db")
		done.check(&again, crashed+"/socketxp.db")
	})
}

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", argv, err, out)
	}
	return strings.TrimSpace(string(out))
}

// overcommitted returns a file system that believes in more room than the disk
// below it has: what is written is taken, and its fsync fails when below it is full.
// That is filled by filling the second folder.
func overcommitted(t *testing.T) (dir, below string) {
	t.Helper()
	for _, program := range []string{"losetup", "mkfs.ext4"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%v: CI must run everything", err)
			}
			t.Skip(err)
		}
	}
	below = smallDisk(t, 16<<10)
	image := filepath.Join(below, "image")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 64<<20)); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-O", "^has_journal", "-E", "nodiscard", image)
	device, err := exec.CommandContext(t.Context(), "losetup", "--find", "--show", image).Output()
	if err != nil {
		t.Skipf("the kernel gives no loop device: %v", err)
	}
	loop := strings.TrimSpace(string(device))
	detach := func() { _ = exec.Command("losetup", "--detach", loop).Run() }
	dir = t.TempDir()
	if err := syscall.Mount(loop, dir, "ext4", 0, "errors=continue"); err != nil {
		detach()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
		detach()
	})
	return dir, below
}

func TestFsyncFails(t *testing.T) {
	dir, below := overcommitted(t)
	path := filepath.Join(dir, "socketxp.db")
	db, err := store.Open(t.Context(), "sqlite:"+path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	acme := newTenant(t, db, "acme")
	var done journal
	acme.must(done.write(acme, 3))
	acme.device("dev-0")
	free := fill(t, below)
	// New blocks of the file system have nowhere to go now.
	err = done.write(acme, 2000)
	t.Run("P-04 nothing is acknowledged whose fsync failed", func(t *testing.T) {
		wantCode(t, err, socketxp.CodeUnavailable)
		if own := new(socketxp.Error); !errors.As(err, &own) || own.Message != "the gateway's disk fails" || !strings.Contains(err.Error(), "disk I/O error") {
			t.Fatalf("after %d devices it says %v", len(done), err)
		}
	})
	free()
	t.Run("P-04 and nothing after it, though the disk takes it again", func(t *testing.T) {
		probe := filepath.Join(dir, "probe")
		f, err := os.Create(probe)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, strings.Repeat("x", 1<<20)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Sync(), f.Close(), os.Remove(probe)); err != nil {
			t.Fatalf("the disk does not take it: %v", err)
		}
		before := len(done)
		for name, write := range map[string]func() error{
			"an act":           func() error { return done.write(acme, 1) },
			"an audit record":  func() error { _, err := db.AppendAudit(t.Context(), acme.entry("test")); return err },
			"a setting":        func() error { return db.SetSetting(t.Context(), "k", "v") },
			"the clock":        func() error { _, err := db.RaiseClock(t.Context(), t0); return err },
			"a failed sign-in": func() error { _, err := db.TakeTry(t.Context(), acme.owner.ID, [32]byte{}, t0); return err },
		} {
			err := write()
			if own := new(socketxp.Error); socketxp.CodeOf(err) != socketxp.CodeUnavailable || !errors.As(err, &own) || own.Message != "the gateway's disk fails" {
				t.Errorf("%s: %v", name, err)
			}
		}
		if len(done) != before {
			t.Error("it was acknowledged")
		}
		if db.Ping(t.Context()) == nil {
			t.Error("the database says that it is well")
		}
	})
	t.Run("P-04 reads go on", func(t *testing.T) { acme.device("dev-0") })
	_ = db.Close()
	t.Run("P-04 opened anew, all that was acknowledged is there", func(t *testing.T) {
		again := *acme
		again.store = open(t, "sqlite:"+path)
		done.check(&again, path)
		if err := done.write(&again, 3); err != nil {
			t.Error(err)
		}
		done.check(&again, path)
	})
}
