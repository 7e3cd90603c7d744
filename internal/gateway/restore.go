package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"socketxp"
)

// restoringDir is where a restore keeps what it has not put in its place yet. As
// long as it is there, the data folder is neither the old one nor the new one, and
// no gateway starts in it.
const restoringDir = ".restoring"

// errRestoring returns an error if a restore of dir was interrupted.
func errRestoring(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, restoringDir)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return socketxp.Errorf(socketxp.CodeConflict, "a restore of the data folder %s was interrupted, or is under way", dir).
		WithHint("socketxp-gateway admin restore --force FILE, again")
}

// RestoreOptions say how a backup becomes a data folder.
type RestoreOptions struct {
	Dir   string
	Force bool // move what is there aside
	// Begin is called with the manifest before anything is read further.
	Begin func(Manifest) error
	// Prepare is called when all files have been read and found good, before anything
	// in the data folder is touched, with the folder that is to become the data
	// folder and the database that is there now, "" for none.
	Prepare  func(m Manifest, staged, oldDatabase string) error
	Progress func(done int64)
}

// Restore puts a backup in the place of the data folder, which must be empty or
// missing unless o.Force, and must not be in use. It returns where it has moved
// what was there, "" for nowhere. With an error before anything was touched the
// folder is as it was; one that was interrupted later is refused by gateways, and
// another restore sets it right.
func Restore(ctx context.Context, r io.Reader, o RestoreOptions) (m Manifest, aside string, err error) {
	if err := makeDataDir(o.Dir); err != nil {
		return m, "", err
	}
	lock, err := LockDataDir(o.Dir)
	if err != nil {
		return m, "", err
	}
	defer func() { _ = lock.Close() }()
	there, err := usedNames(o.Dir)
	if err != nil {
		return m, "", err
	}
	if len(there) > 0 && !o.Force {
		return m, "", socketxp.Errorf(socketxp.CodeConflict, "the data folder %s is in use: it holds %s", o.Dir, there[0]).
			WithHint("name an empty one with --data-dir, or add --force to move what is there aside")
	}
	interrupted := errRestoring(o.Dir) != nil
	staging := filepath.Join(o.Dir, restoringDir)
	if err := os.RemoveAll(staging); err != nil {
		return m, "", err
	}
	staged := filepath.Join(staging, "data")
	if err := os.MkdirAll(staged, 0o700); err != nil {
		return m, "", err
	}
	touched := interrupted
	defer func() {
		if !touched { // else it stays, and with it the folder is refused
			err = errors.Join(err, os.RemoveAll(staging))
		}
	}()
	begin := func(m Manifest) error {
		if err := checkSpace(staging, m.Size()); err != nil {
			return err
		}
		return o.Begin(m)
	}
	m, err = ReadBackup(ctx, r, begin, func(f BackupFile) (io.WriteCloser, error) { return createStaged(staged, f.Name) }, o.Progress)
	if err != nil {
		return m, "", err
	}
	oldDatabase := ""
	if slices.Contains(there, databaseFile) {
		oldDatabase = filepath.Join(o.Dir, databaseFile)
	}
	if err := o.Prepare(m, staged, oldDatabase); err != nil {
		return m, "", err
	}
	if err := settle(o.Dir, staging); err != nil {
		return m, "", err
	}
	if err := ctx.Err(); err != nil {
		return m, "", err // the last moment to be told to stop
	}
	// Again: who looked at the old database may have tidied up behind it.
	if there, err = usedNames(o.Dir); err != nil {
		return m, "", err
	}
	touched = true
	if aside, err = moveAside(o.Dir, there); err != nil {
		return m, aside, err
	}
	names, err := os.ReadDir(staged)
	if err != nil {
		return m, aside, err
	}
	for _, n := range names {
		if err := os.Rename(filepath.Join(staged, n.Name()), filepath.Join(o.Dir, n.Name())); err != nil {
			return m, aside, err
		}
	}
	if err := syncDir(o.Dir); err != nil {
		return m, aside, err
	}
	// With this the folder is the new one.
	if err := os.RemoveAll(staging); err != nil {
		return m, aside, err
	}
	return m, aside, syncDir(o.Dir)
}

// usedNames returns what is in the data folder besides what every look at it
// leaves.
func usedNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		switch name := e.Name(); {
		case isLock(name), name == restoringDir, name == "lost+found", strings.HasPrefix(name, movedAside):
		default:
			out = append(out, name)
		}
	}
	return out, nil
}

// checkSpace refuses what would not fit on dir's disk, with a bit to spare.
func checkSpace(dir string, size int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return err
	}
	const spare = 16 << 20
	free := int64(st.Bavail) * st.Bsize //nolint:gosec // far below 2^63
	if free-spare < size {
		return socketxp.Errorf(socketxp.CodeUnavailable, "the files of the backup have %s, and %s has room for %s", bytesText(size), dir, bytesText(free)).
			WithHint("make room, or name a folder on another disk")
	}
	return nil
}

// createStaged makes a file of the backup where it is to be in the data folder.
func createStaged(staged, name string) (io.WriteCloser, error) {
	to, _ := strings.CutPrefix(name, dataInBackup)
	switch {
	case name == DatabaseInBackup:
		to = databaseFile
	case strings.HasPrefix(name, externalInBackup):
		to = RestoredName(name)
	}
	p := filepath.Join(staged, filepath.FromSlash(to))
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the name was checked, and is below staged
}

// RestoredName is the name in the data folder of a file that was elsewhere when the
// backup was made.
func RestoredName(name string) string {
	return "restored-" + strings.TrimPrefix(name, externalInBackup)
}

// settle has all that is staged on the disk, and gives it to the owner of the data
// folder.
func settle(dir, staging string) error {
	return filepath.WalkDir(staging, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(p) //nolint:gosec // below staging, which is ours
		if err != nil {
			return err
		}
		return errors.Join(giveAway(f, dir), f.Sync(), f.Close())
	})
}

// moveAside moves names of dir into a new folder in it, which it returns.
func moveAside(dir string, names []string) (string, error) {
	if len(names) == 0 {
		return "", nil
	}
	var aside string
	for n := 1; ; n++ {
		aside = filepath.Join(dir, movedAside+time.Now().UTC().Format("20060102-150405"))
		if n > 1 {
			aside += fmt.Sprintf("-%d", n)
		}
		err := os.Mkdir(aside, 0o700)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	for _, name := range names {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(aside, name)); err != nil {
			return aside, err
		}
	}
	return aside, errors.Join(syncDir(aside), syncDir(dir))
}

// bytesText is a size for people.
func bytesText(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}
