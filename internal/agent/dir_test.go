package agent

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestWriteCrash stops between the steps of writing a file.
func TestWriteCrash(t *testing.T) {
	dir := newDir(t)
	old, new := []byte("the old key\n"), []byte("the new key, which is longer\n")
	if err := dir.write(keyFile, old); err != nil {
		t.Fatal(err)
	}
	holds := func(want []byte) {
		t.Helper()
		if got, err := dir.read(keyFile, 1<<10, true); err != nil || !bytes.Equal(got, want) {
			t.Errorf("it holds %q, %v", got, err)
		}
	}
	t.Run("P-02 in the middle of the new text", func(t *testing.T) {
		if err := os.WriteFile(dir.file(keyFile)+stagedSuffix, new[:5], 0o600); err != nil {
			t.Fatal(err)
		}
		holds(old)
	})
	t.Run("P-02 before the rename", func(t *testing.T) {
		if err := dir.stage(keyFile, new); err != nil {
			t.Fatal(err)
		}
		holds(old)
	})
	t.Run("P-02 after the rename", func(t *testing.T) {
		if err := dir.commit(keyFile); err != nil {
			t.Fatal(err)
		}
		holds(new)
	})
	t.Run("wiped, and what a crash had staged too", func(t *testing.T) {
		if err := dir.stage(keyFile, old); err != nil {
			t.Fatal(err)
		}
		if err := dir.wipe(keyFile); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir.Path()); err != nil || len(left) != 0 {
			t.Errorf("%v, %v", left, err)
		}
		if err := dir.wipe(keyFile); err != nil {
			t.Errorf("wiping nothing: %v", err)
		}
	})
}

const writeForever = "SOCKETXP_TEST_WRITE_FOREVER"

// init, because it must come before TestMain.
func init() {
	path := os.Getenv(writeForever)
	if path == "" {
		return
	}
	dir := &Dir{path}
	for {
		for _, c := range []string{"a", "b"} {
			if err := dir.write(keyFile, []byte(strings.Repeat(c, 8000))); err != nil {
				os.Exit(1) //nolint:forbidigo // this is a main
			}
		}
	}
}

// TestWriteKilled kills a process that does nothing but write the key file.
func TestWriteKilled(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := newDir(t)
	for round := range 30 {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), writeForever+"="+dir.Path())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		until(t, func() error {
			_, err := os.Stat(dir.file(keyFile))
			return err
		})
		sleep(t.Context(), time.Duration(round%10)*time.Millisecond+jitter(time.Millisecond))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		data, err := dir.read(keyFile, 1<<20, true)
		if text := string(data); err != nil || text != strings.Repeat("a", 8000) && text != strings.Repeat("b", 8000) {
			t.Fatalf("P-02 round %d: %d bytes, %v", round, len(data), err)
		}
		if err := dir.write(keyFile, data); err != nil {
			t.Fatalf("round %d: what a crash left is in the way: %v", round, err)
		}
	}
}

func TestDirIsPrivate(t *testing.T) {
	if os.PathSeparator != '/' {
		t.Skip("there are no modes")
	}
	dir := newDir(t)
	if err := dir.write(keyFile, []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o660, 0o644} {
		if err := os.Chmod(dir.file(keyFile), mode); err != nil {
			t.Fatal(err)
		}
		if _, err := dir.read(keyFile, 10, true); err == nil {
			t.Errorf("a key of mode %o was read", mode)
		}
	}
	for _, mode := range []fs.FileMode{0o750, 0o701, 0o777} {
		if err := os.Chmod(dir.Path(), mode); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenDir(dir.Path()); err == nil {
			t.Errorf("a folder of mode %o was opened", mode)
		}
		if err := dir.stage(keyFile, nil); err == nil {
			t.Errorf("a key was written to a folder of mode %o", mode)
		}
	}
}

func TestReadIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, 11), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readFile(path, 10, true); err == nil {
		t.Error("11 bytes of 10 were read")
	}
	if data, err := readFile(path, 11, true); err != nil || len(data) != 11 {
		t.Errorf("%d, %v", len(data), err)
	}
	if _, err := readFile(filepath.Dir(path), 11, false); err == nil {
		t.Error("a folder was read")
	}
}

func TestLock(t *testing.T) {
	dir := newDir(t)
	release, err := dir.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dir.lock(); !errors.Is(err, errLocked) {
		t.Errorf("%v", err)
	}
	release()
	release, err = dir.lock()
	if err != nil {
		t.Fatal(err)
	}
	release()
}

func TestOverwrite(t *testing.T) {
	d, err := OpenDir(filepath.Join(t.TempDir(), "work"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.write("a", []byte("before")); err != nil {
		t.Fatal(err)
	}
	if err := d.overwrite("a", []byte("behind")); err != nil {
		t.Error(err)
	}
	for name, text := range map[string]string{"a": "longer than that", "b": "nothing"} {
		if d.overwrite(name, []byte(text)) == nil {
			t.Errorf("%s was overwritten", name)
		}
	}
	if got, err := os.ReadFile(d.file("a")); err != nil || string(got) != "behind" {
		t.Errorf("it holds %q, %v", got, err)
	}
}
