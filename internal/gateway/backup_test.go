package gateway

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"socketxp"
)

// savedFiles are a data folder as a backup is made of it.
var savedFiles = map[string]string{
	"gateway.db": "the database", "signing.key": "the signing key", "gateway.crt": "certificate", "gateway.key": "key", "acme/site/cert.pem": "deep",
}

// leftOut are in the folder and must not be in a backup.
var leftOut = map[string]string{
	"gateway.db-wal": "x", "gateway.db-shm": "x", "gateway.lock": "", "signing.lock": "", "gateway.change.lock": "", "signing.next.key": "x", ".new-123": "x",
	"before-restore-20260101-000000/signing.key": "old",
}

func writeTree(t testing.TB, dir string, trees ...map[string]string) {
	t.Helper()
	for _, tree := range trees {
		for name, text := range tree {
			p := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o700), os.WriteFile(p, []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// tree is what a folder holds, folders included.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() {
			out[rel+"/"] = info.Mode().String()
			return nil
		}
		text, err := os.ReadFile(p)
		out[rel] = info.Mode().String() + " " + string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// aBackup returns the bytes of a backup of savedFiles.
func aBackup(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	writeTree(t, dir, savedFiles, leftOut)
	cfg := DefaultConfig()
	cfg.DataDir = dir
	m := Manifest{Program: "test", MadeAt: time.Unix(1_800_000_000, 0).UTC(), Engine: "sqlite", Schema: 1, GatewayID: "gw", Devices: 3}
	if err := CollectBackup(cfg, filepath.Join(dir, "gateway.db"), &m); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := WriteBackup(t.Context(), &out, m, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func restoreInto(dir string, backup []byte, change ...func(*RestoreOptions)) (Manifest, string, error) {
	o := RestoreOptions{
		Dir: dir, Begin: func(Manifest) error { return nil }, Progress: func(int64) {},
		Prepare: func(Manifest, string, string) error { return nil },
	}
	for _, f := range change {
		f(&o)
	}
	return Restore(context.Background(), bytes.NewReader(backup), o)
}

type memoryFile struct {
	bytes.Buffer
	done func(string)
}

func (f *memoryFile) Close() error {
	f.done(f.String())
	return nil
}

// readAll returns the files in a backup.
func readAll(backup []byte) (map[string]string, error) {
	got := map[string]string{}
	_, err := ReadBackup(context.Background(), bytes.NewReader(backup), func(Manifest) error { return nil }, func(f BackupFile) (io.WriteCloser, error) {
		return &memoryFile{done: func(text string) { got[f.Name] = text }}, nil
	}, func(int64) {})
	return got, err
}

func force(o *RestoreOptions) { o.Force = true }

// holdsSaved checks that dir has what was saved, and nothing else but locks and
// what was moved aside.
func holdsSaved(t *testing.T, dir string) {
	t.Helper()
	got := tree(t, dir)
	maps.DeleteFunc(got, func(name, _ string) bool {
		return strings.HasSuffix(name, "/") || name == lockFile || strings.HasPrefix(name, movedAside)
	})
	for name, text := range savedFiles {
		if got[name] != "-rw------- "+text {
			t.Errorf("%s is %q", name, got[name])
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("besides there is %v", got)
	}
	if err := PrepareDataDir(dir); err != nil {
		t.Errorf("a gateway would not start in it: %v", err)
	}
}

func TestBackupRoundTrip(t *testing.T) {
	backup := aBackup(t)
	dir := filepath.Join(t.TempDir(), "new")
	m, aside, err := restoreInto(dir, backup)
	if err != nil || aside != "" || m.Devices != 3 || m.GatewayID != "gw" || len(m.Files) != len(savedFiles) {
		t.Fatalf("%+v, %q, %v", m, aside, err)
	}
	holdsSaved(t, dir)

	t.Run("the operator's own certificate", func(t *testing.T) {
		own := t.TempDir()
		writeTree(t, own, map[string]string{"c.pem": "own certificate", "k.pem": "own key", "data/signing.key": "k"})
		cfg := DefaultConfig()
		cfg.DataDir, cfg.TLSCert, cfg.TLSKey = filepath.Join(own, "data"), filepath.Join(own, "c.pem"), filepath.Join(own, "k.pem")
		m := Manifest{Engine: "postgres"}
		var out bytes.Buffer
		if err := errors.Join(CollectBackup(cfg, "", &m), WriteBackup(t.Context(), &out, m, func(int64) {})); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(own, "new")
		if _, _, err := restoreInto(dir, out.Bytes()); err != nil {
			t.Fatal(err)
		}
		if got := tree(t, dir); got["restored-tls-cert.pem"] != "-rw------- own certificate" || got["restored-tls-key.pem"] != "-rw------- own key" {
			t.Errorf("%v", got)
		}
	})
	t.Run("a file that changes meanwhile", func(t *testing.T) {
		dir := t.TempDir()
		writeTree(t, dir, map[string]string{"signing.key": "before"})
		cfg := DefaultConfig()
		cfg.DataDir = dir
		m := Manifest{Engine: "postgres"}
		if err := CollectBackup(cfg, "", &m); err != nil {
			t.Fatal(err)
		}
		writeTree(t, dir, map[string]string{"signing.key": "behind"})
		if err := WriteBackup(t.Context(), io.Discard, m, func(int64) {}); err == nil || !strings.Contains(err.Error(), "changed") {
			t.Errorf("%v", err)
		}
	})
	t.Run("what is no file", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		cfg := DefaultConfig()
		cfg.DataDir = dir
		if err := CollectBackup(cfg, "", &Manifest{}); err == nil {
			t.Error("a link was followed")
		}
	})
}

// What is not a whole backup, byte for byte, is refused before the folder is
// touched.
func TestRestoreDamaged(t *testing.T) {
	backup := aBackup(t)
	dir := newDataDir(t)
	writeTree(t, dir, map[string]string{"gateway.db": "in use", lockFile: ""})
	before := tree(t, dir)
	refused := func(t *testing.T, n int, b []byte) {
		t.Helper()
		if _, _, err := restoreInto(dir, b, force); err == nil {
			t.Fatalf("byte %d of %d: restored", n, len(backup))
		}
		if after := tree(t, dir); !maps.Equal(after, before) {
			t.Fatalf("byte %d of %d: the folder was touched: %v", n, len(backup), after)
		}
	}
	t.Run("cut off", func(t *testing.T) {
		for n := range backup {
			if _, err := readAll(backup[:n]); err == nil {
				t.Fatalf("%d of %d bytes are taken for a backup", n, len(backup))
			}
			if n%20 == 0 {
				refused(t, n, backup[:n])
			}
		}
	})
	t.Run("a byte changed", func(t *testing.T) {
		want := must[map[string]string](t)(readAll(backup))
		for n := range backup {
			b := bytes.Clone(backup)
			b[n] ^= 0x10
			// Packed data can be written in more than one way: then nothing has changed.
			if got, err := readAll(b); err == nil && !maps.Equal(got, want) {
				t.Fatalf("byte %d of %d: it was taken for %v", n, len(backup), got)
			}
			if n%20 == 10 {
				if _, err := readAll(b); err != nil {
					refused(t, n, b)
				}
			}
		}
	})
	t.Run("something behind it", func(t *testing.T) { refused(t, len(backup), append(bytes.Clone(backup), backup...)) })
	t.Run("the database is not good", func(t *testing.T) {
		_, _, err := restoreInto(dir, backup, force, func(o *RestoreOptions) {
			o.Prepare = func(_ Manifest, staged, old string) error {
				if old != filepath.Join(dir, "gateway.db") || tree(t, staged)["gateway.db"] != "-rw------- the database" {
					t.Errorf("staged in %s beside %s", staged, old)
				}
				return errors.New("damaged")
			}
		})
		if err == nil || !maps.Equal(tree(t, dir), before) {
			t.Errorf("%v, and the folder has %v", err, tree(t, dir))
		}
	})
	t.Run("told to stop", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		_, _, err := Restore(ctx, bytes.NewReader(backup), RestoreOptions{
			Dir: dir, Force: true, Begin: func(Manifest) error { return nil }, Progress: func(int64) {},
			Prepare: func(Manifest, string, string) error { cancel(); return nil },
		})
		if !errors.Is(err, context.Canceled) || !maps.Equal(tree(t, dir), before) {
			t.Errorf("%v, and the folder has %v", err, tree(t, dir))
		}
	})
	t.Run("and then it is restored", func(t *testing.T) {
		_, aside, err := restoreInto(dir, backup, force)
		if err != nil {
			t.Fatal(err)
		}
		holdsSaved(t, dir)
		if got := tree(t, aside); got["gateway.db"] != "-rw------- in use" || len(got) != 1 {
			t.Errorf("aside is %v", got)
		}
	})
}

func TestRestoreRefuses(t *testing.T) {
	backup := aBackup(t)
	t.Run("a folder that is used", func(t *testing.T) {
		dir := newDataDir(t)
		writeTree(t, dir, map[string]string{"signing.key": "x"})
		if _, _, err := restoreInto(dir, backup); socketxp.CodeOf(err) != socketxp.CodeConflict || !strings.Contains(err.Error(), "signing.key") {
			t.Errorf("%v", err)
		}
	})
	t.Run("while a gateway runs", func(t *testing.T) {
		dir := newDataDir(t)
		lock := must[*os.File](t)(LockDataDir(dir))
		defer func() { _ = lock.Close() }()
		if _, _, err := restoreInto(dir, backup, force); err == nil || !strings.Contains(err.Error(), "another gateway runs") {
			t.Errorf("%v", err)
		}
	})
	t.Run("a folder that others can look into", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, _, err := restoreInto(dir, backup); err == nil {
			t.Error("restored")
		}
	})
}

// A restore that was interrupted while it moved things leaves a folder that no
// gateway starts in, and another one sets it right.
func TestRestoreInterrupted(t *testing.T) {
	backup := aBackup(t)
	dir := newDataDir(t)
	writeTree(t, dir, map[string]string{"gateway.db": "old", "signing.key": "old"})
	// As after a crash: one old file is aside, one new file in its place.
	writeTree(t, dir, map[string]string{movedAside + "1/gateway.db": "old", "gateway.crt": "certificate", restoringDir + "/data/gateway.db": "the database"})
	if err := os.Remove(filepath.Join(dir, "gateway.db")); err != nil {
		t.Fatal(err)
	}
	for _, try := range []func() error{
		func() error { return PrepareDataDir(dir) },
		func() error {
			cfg := DefaultConfig()
			cfg.DataDir = dir
			_, err := New(t.Context(), cfg, Deps{})
			return err
		},
	} {
		if err := try(); socketxp.CodeOf(err) != socketxp.CodeConflict || !strings.Contains(err.Error(), "interrupted") {
			t.Errorf("%v", err)
		}
	}
	if _, _, err := restoreInto(dir, backup[:100], force); err == nil {
		t.Error("restored")
	}
	if PrepareDataDir(dir) == nil {
		t.Error("after a restore that failed the interrupted one is forgotten")
	}
	_, _, err := restoreInto(dir, backup, force)
	if err != nil {
		t.Fatal(err)
	}
	holdsSaved(t, dir)
	if tree(t, dir)[movedAside+"1/gateway.db"] != "-rw------- old" {
		t.Error("what was moved aside first is gone")
	}
}

// packed returns an archive with a manifest, changed, and these entries.
func packed(t testing.TB, m Manifest, entries ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: manifestName, Size: int64(len(text)), Mode: 0o600}), second(w.Write(text))); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := w.WriteHeader(&e); err != nil {
			t.Fatal(err)
		}
		if e.Size > 0 {
			if _, err := w.Write(bytes.Repeat([]byte("x"), int(e.Size))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func second(_ int, err error) error { return err }

const sumOfX = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" // SHA-256 of "x"

func TestRestoreHostile(t *testing.T) {
	good := func(names ...string) Manifest {
		m := Manifest{Format: BackupFormat, Engine: "postgres"}
		for _, n := range names {
			m.Files = append(m.Files, BackupFile{Name: n, Size: 1, SHA256: sumOfX})
		}
		return m
	}
	entries := func(names ...string) (out []tar.Header) {
		for _, n := range names {
			out = append(out, tar.Header{Typeflag: tar.TypeReg, Name: n, Size: 1, Mode: 0o600})
		}
		return out
	}
	try := func(t *testing.T, b []byte) error {
		t.Helper()
		parent := t.TempDir()
		dir := filepath.Join(parent, "data")
		_, _, err := restoreInto(dir, b)
		if names := slices.Collect(maps.Keys(tree(t, parent))); err != nil && len(names) > 2 { // the folder and its lock
			t.Errorf("there is %v", names)
		}
		return err
	}
	if err := try(t, packed(t, good("data/a"), entries("data/a")...)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"", ".", "..", "../a", "/etc/passwd", "data/../../a", "data/..", "data", "data/", "data//a", "data/./a", `data\..\a`, "data/a\x00b", "a", "external/other",
		"data/gateway.lock", "data/Gateway.DB", "data/gateway.db", "data/gateway.db-wal", "data/gateway.db-wal/x", "data/.restoring", "data/.restoring/data/x", "data/.hidden",
		"data/before-restore-1/x", "data/restored-tls-key.pem", "data/" + strings.Repeat("a", maxBackupName), "database/gateway.db",
	} {
		t.Run(fmt.Sprintf("name %.20q", name), func(t *testing.T) {
			m := good(name)
			b := packed(t, m)
			if name != "" && !strings.ContainsRune(name, 0) && !strings.HasSuffix(name, "/") {
				b = packed(t, m, entries(name)...)
			}
			if try(t, b) == nil {
				t.Error("restored")
			}
		})
	}
	for name, b := range map[string][]byte{
		"twice":                    packed(t, good("data/a", "data/a"), entries("data/a", "data/a")...),
		"twice in another case":    packed(t, good("data/a", "data/A"), entries("data/a", "data/A")...),
		"a file and a folder":      packed(t, good("data/a", "data/a/b"), entries("data/a", "data/a/b")...),
		"missing":                  packed(t, good("data/a", "data/b"), entries("data/a")...),
		"one more":                 packed(t, good("data/a"), entries("data/a", "data/b")...),
		"another order":            packed(t, good("data/a", "data/b"), entries("data/b", "data/a")...),
		"a link":                   packed(t, good("data/a"), tar.Header{Typeflag: tar.TypeSymlink, Name: "data/a", Linkname: "/etc/passwd"}),
		"a hard link":              packed(t, good("data/a"), tar.Header{Typeflag: tar.TypeLink, Name: "data/a", Linkname: "data/b"}),
		"a device":                 packed(t, good("data/a"), tar.Header{Typeflag: tar.TypeBlock, Name: "data/a"}),
		"larger than it says":      packed(t, good("data/a"), tar.Header{Typeflag: tar.TypeReg, Name: "data/a", Size: 2}),
		"no manifest":              packed(t, good(), entries("data/a")...)[:0],
		"a newer format":           packed(t, Manifest{Format: BackupFormat + 1, Engine: "postgres"}),
		"an unknown database":      packed(t, Manifest{Format: BackupFormat, Engine: "oracle"}),
		"SQLite without database":  packed(t, Manifest{Format: BackupFormat, Engine: "sqlite"}),
		"more than the disk holds": packed(t, Manifest{Format: BackupFormat, Engine: "postgres", Files: []BackupFile{{Name: "data/a", Size: 1 << 60, SHA256: sumOfX}}}),
		"sizes that overflow": packed(t, Manifest{Format: BackupFormat, Engine: "postgres", Files: []BackupFile{
			{Name: "data/a", Size: 1 << 62, SHA256: sumOfX}, {Name: "data/b", Size: 1 << 62, SHA256: sumOfX},
		}}),
		"a size below zero": packed(t, Manifest{Format: BackupFormat, Engine: "postgres", Files: []BackupFile{{Name: "data/a", Size: -1, SHA256: sumOfX}}}),
		"another checksum":  packed(t, Manifest{Format: BackupFormat, Engine: "postgres", Files: []BackupFile{{Name: "data/a", Size: 1, SHA256: strings.Repeat("0", 64)}}}, entries("data/a")...),
	} {
		t.Run(name, func(t *testing.T) {
			if try(t, b) == nil {
				t.Error("restored")
			}
		})
	}
}

type discardFile struct{ io.Writer }

func (discardFile) Close() error { return nil }

// Whatever is read as a backup, it is refused, or its files have the names and
// checksums that it says.
func FuzzReadBackup(f *testing.F) {
	backup := aBackup(f)
	f.Add(backup)
	f.Add(backup[:len(backup)/2])
	f.Add(packed(f, Manifest{Format: BackupFormat, Engine: "postgres"}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var names []string
		m, err := ReadBackup(t.Context(), bytes.NewReader(b), func(m Manifest) error {
			if m.Size() > 1<<20 {
				return errors.New("too large for this test")
			}
			return nil
		}, func(f BackupFile) (io.WriteCloser, error) {
			names = append(names, f.Name)
			return discardFile{io.Discard}, nil
		}, func(int64) {})
		for _, n := range names {
			if !filepath.IsLocal(n) || strings.HasPrefix(n, ".") || strings.Contains(n, "..") && slices.Contains(strings.Split(n, "/"), "..") {
				t.Errorf("a file was to be made at %q", n)
			}
		}
		if err == nil && len(names) != len(m.Files) {
			t.Errorf("%d of %d files were read", len(names), len(m.Files))
		}
	})
}
