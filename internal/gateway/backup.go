package gateway

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"socketxp"
)

// A backup is a gzipped tar: the manifest, then the files it lists, in its order.
const (
	manifestName = "manifest.json"
	// DatabaseInBackup is the SQLite database; a backup beside PostgreSQL has none.
	DatabaseInBackup = "database/gateway.db"
	dataInBackup     = "data/"     // what else is in the data folder, by its path there
	externalInBackup = "external/" // the operator's certificate and key, from elsewhere
	databaseFile     = "gateway.db"
)

// Limits of what is read as a backup. A gateway's own has some ten files.
const (
	maxManifest    = 4 << 20
	maxBackupFiles = 10_000
	maxBackupName  = 1024
)

// BackupFormat is the version of the format.
const BackupFormat = 1

// Manifest says what is in a backup.
type Manifest struct {
	Format    int          `json:"format"`
	Program   string       `json:"program"` // the version that made it
	MadeAt    time.Time    `json:"made_at"`
	GatewayID string       `json:"gateway_id"`
	Engine    string       `json:"engine"` // of the database: sqlite or postgres
	Schema    int          `json:"schema"` // its version
	Users     int          `json:"users"`
	Devices   int          `json:"devices"`
	Files     []BackupFile `json:"files"`
}

// BackupFile is a file in a backup.
type BackupFile struct {
	Name   string `json:"name"` // with slashes
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hexadecimal

	path string // where it is read from
}

// Size returns how many bytes the files have together.
func (m Manifest) Size() (n int64) {
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// has reports whether the backup holds a file.
func (m Manifest) has(name string) bool {
	return slices.ContainsFunc(m.Files, func(f BackupFile) bool { return f.Name == name })
}

// notInBackup are the files of the data folder that mean nothing elsewhere, or
// that a copy while they are in use would be no copy of. Those that begin with a
// dot are half written.
var notInBackup = []string{
	nextSigningKeyFile, databaseFile, databaseFile + "-wal", databaseFile + "-shm", databaseFile + "-journal",
}

// isLock reports whether a name in the data folder is of a file that is there to be
// locked.
func isLock(name string) bool { return strings.HasSuffix(strings.ToLower(name), ".lock") }

// movedAside begins the name of the folder that a restore moves what was there to.
const movedAside = "before-restore-"

// CollectBackup completes m with the files of cfg's data folder and, unless that is
// "", the copy of the SQLite database at snapshot.
func CollectBackup(cfg Config, snapshot string, m *Manifest) error {
	m.Format, m.Files = BackupFormat, nil
	add := func(name, from string) error {
		f := BackupFile{Name: name, path: from}
		if err := f.sum(); err != nil {
			return err
		}
		m.Files = append(m.Files, f)
		return nil
	}
	// Under the lock the key file is whole. It may be newer than the copy of the
	// database: a restore makes a new key anyway.
	unlock, err := lockSigningKey(cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	if snapshot != "" {
		if err := add(DatabaseInBackup, snapshot); err != nil {
			return err
		}
	}
	err = filepath.WalkDir(cfg.DataDir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == cfg.DataDir {
			return err
		}
		rel, err := filepath.Rel(cfg.DataDir, p)
		if err != nil {
			return err
		}
		skip := slices.Contains(notInBackup, rel) || isLock(rel) || strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(rel, movedAside) || rel == "lost+found"
		switch {
		case skip && d.IsDir():
			return fs.SkipDir
		case skip || d.IsDir():
			return nil
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is neither a file nor a folder: it can't be in a backup", p)
		}
		return add(dataInBackup+filepath.ToSlash(rel), p)
	})
	if err != nil {
		return err
	}
	if cfg.TLSCert != "" {
		return errors.Join(add(externalInBackup+"tls-cert.pem", cfg.TLSCert), add(externalInBackup+"tls-key.pem", cfg.TLSKey))
	}
	return nil
}

func (f *BackupFile) sum() error {
	r, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	h := sha256.New()
	if f.Size, err = io.Copy(h, r); err != nil {
		return err
	}
	f.SHA256 = hex.EncodeToString(h.Sum(nil))
	return nil
}

// WriteBackup writes what CollectBackup found. Progress is called with the number
// of bytes of files done so far. A file that has changed since is an error.
func WriteBackup(ctx context.Context, w io.Writer, m Manifest, progress func(done int64)) error {
	packed := gzip.NewWriter(w)
	archive := tar.NewWriter(packed)
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	header := func(name string, size int64) error {
		return archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: m.MadeAt, Format: tar.FormatPAX})
	}
	if err := header(manifestName, int64(len(text))); err != nil {
		return err
	}
	if _, err := archive.Write(text); err != nil {
		return err
	}
	var done int64
	for _, f := range m.Files {
		if err := header(f.Name, f.Size); err != nil {
			return err
		}
		if err := f.copyTo(ctx, archive, func(n int64) { progress(done + n) }); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
		done += f.Size
	}
	return errors.Join(archive.Close(), packed.Close())
}

func (f *BackupFile) copyTo(ctx context.Context, w io.Writer, progress func(int64)) error {
	r, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	h := sha256.New()
	n, err := copyAll(ctx, io.MultiWriter(w, h), r, progress)
	if err != nil {
		return err
	}
	if n != f.Size || hex.EncodeToString(h.Sum(nil)) != f.SHA256 {
		return errors.New("it changed while it was copied: try again")
	}
	return nil
}

// copyAll copies until the end or ctx is done, and tells how far it is.
func copyAll(ctx context.Context, w io.Writer, r io.Reader, progress func(int64)) (n int64, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		k, err := io.CopyN(w, r, 4<<20)
		n += k
		progress(n)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// errNoBackup begins what is said of a file that is no backup, or a damaged one.
func errNoBackup(format string, args ...any) error {
	return socketxp.Errorf(socketxp.CodeInvalid, "the backup is not good: "+format, args...)
}

// ReadBackup reads a backup to its end and checks everything that it says of
// itself: each file is handed to open, which is called once begin, with the
// manifest, has returned nil. What is written there is good only if ReadBackup
// returns nil.
func ReadBackup(ctx context.Context, r io.Reader, begin func(Manifest) error, open func(BackupFile) (io.WriteCloser, error), progress func(done int64)) (Manifest, error) {
	var m Manifest
	in := bufio.NewReader(r)
	packed, err := gzip.NewReader(in)
	if err != nil {
		return m, errNoBackup("it is not a gzip file (%v)", err)
	}
	packed.Multistream(false)
	archive := tar.NewReader(packed)
	if m, err = readManifest(archive); err != nil {
		return m, err
	}
	if err := begin(m); err != nil {
		return m, err
	}
	var done int64
	for _, f := range m.Files {
		h, err := archive.Next()
		if err != nil {
			return m, errNoBackup("it ends before %s (%v)", f.Name, err)
		}
		if h.Typeflag != tar.TypeReg || h.Name != f.Name || h.Size != f.Size {
			return m, errNoBackup("where %s should be there is something else", f.Name)
		}
		w, err := open(f)
		if err != nil {
			return m, err
		}
		sum := sha256.New()
		err = readFile(ctx, w, archive, sum, func(n int64) { progress(done + n) })
		if err = errors.Join(err, w.Close()); err != nil {
			return m, err
		}
		if hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
			return m, errNoBackup("%s is not what it was", f.Name)
		}
		done += f.Size
	}
	if _, err := archive.Next(); !errors.Is(err, io.EOF) {
		return m, errNoBackup("it does not end after the last file")
	}
	// To the end of what is packed, where its checksum is.
	if n, err := io.Copy(io.Discard, io.LimitReader(packed, 1<<20)); err != nil || n == 1<<20 {
		return m, errNoBackup("its end is damaged")
	}
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		return m, errNoBackup("something follows it")
	}
	return m, nil
}

func readFile(ctx context.Context, w io.Writer, r io.Reader, sum hash.Hash, progress func(int64)) error {
	_, err := copyAll(ctx, io.MultiWriter(w, sum), r, progress)
	if err != nil && ctx.Err() == nil && !errors.As(err, new(*fs.PathError)) {
		return errNoBackup("it ends too early, or is damaged (%v)", err)
	}
	return err
}

func readManifest(archive *tar.Reader) (m Manifest, err error) {
	h, err := archive.Next()
	if err != nil {
		return m, errNoBackup("it is not a tar file (%v)", err)
	}
	if h.Typeflag != tar.TypeReg || h.Name != manifestName || h.Size > maxManifest {
		return m, errNoBackup("it does not begin with a manifest")
	}
	text, err := io.ReadAll(io.LimitReader(archive, maxManifest))
	if err != nil {
		return m, errNoBackup("the manifest can't be read (%v)", err)
	}
	// A newer program may say more; what matters is in the format's number.
	if err := json.Unmarshal(text, &m); err != nil {
		return m, errNoBackup("the manifest can't be read (%v)", err)
	}
	switch {
	case m.Format != BackupFormat:
		return m, socketxp.Errorf(socketxp.CodeVersion, "the backup has format %d, and this program knows %d", m.Format, BackupFormat).
			WithHint("use the version that made it, or a newer one")
	case len(m.Files) > maxBackupFiles:
		return m, errNoBackup("it has %d files", len(m.Files))
	case m.Engine != "sqlite" && m.Engine != "postgres":
		return m, errNoBackup("it is of a database that this program does not know")
	case m.has(DatabaseInBackup) != (m.Engine == "sqlite"):
		return m, errNoBackup("the database is missing, or one too many")
	}
	seen := make(map[string]bool, len(m.Files))
	for _, f := range m.Files {
		if err := f.check(); err != nil {
			return m, err
		}
		// On a file system that takes a and A for the same, one would undo the other.
		folded := strings.ToLower(f.Name)
		if seen[folded] {
			return m, errNoBackup("%q is in it twice", f.Name)
		}
		seen[folded] = true
	}
	for name := range seen {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if seen[dir] {
				return m, errNoBackup("%q is a file and a folder", dir)
			}
		}
	}
	return m, nil
}

// check refuses a name that could lead out of the folder that it is restored to,
// or stand for something that the gateway makes itself.
func (f BackupFile) check() error {
	_, err := hex.DecodeString(f.SHA256)
	if err != nil || len(f.SHA256) != 2*sha256.Size || f.Size < 0 {
		return errNoBackup("%q has no checksum or size", f.Name)
	}
	if len(f.Name) > maxBackupName || !fs.ValidPath(f.Name) || strings.ContainsAny(f.Name, "\\\x00") || !filepath.IsLocal(f.Name) {
		return errNoBackup("%q is not a name that a file can have in it", f.Name)
	}
	if f.Name == DatabaseInBackup || f.Name == externalInBackup+"tls-cert.pem" || f.Name == externalInBackup+"tls-key.pem" {
		return nil
	}
	rel, ok := strings.CutPrefix(f.Name, dataInBackup)
	first, _, _ := strings.Cut(rel, "/")
	reserved := slices.ContainsFunc(notInBackup, func(n string) bool { return strings.EqualFold(n, first) })
	if !ok || reserved || isLock(first) || strings.HasPrefix(first, ".") || strings.HasPrefix(first, movedAside) || strings.HasPrefix(first, "restored-") {
		return errNoBackup("%q is not a name that a file can have in it", f.Name)
	}
	return nil
}
