// Package agent is the program that devices and laptops run: login, publishing
// tunnels, visiting those of others, and the built-in SSH server. It keeps its
// state in one folder (Dir), trusts no text that it gets from outside, and opens
// only what its own configuration publishes.
package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// The files of a work folder. INTERFACE lists them for users.
const (
	keyFile          = "device.key"
	sequenceFileName = "device.seq"
	lockFile         = "agent.lock"
	socketFile       = "agent.sock"
	sshHostKeyFile   = "ssh_host_ed25519_key"
	knownFile        = "known_devices"
	sshKnownFile     = "ssh_known_hosts"
	knownLockFile    = "known_devices.lock"
	authoritiesFile  = "ca.pem"
	stagedSuffix     = ".new"
	maxAuthorities   = 1 << 20
	systemWideFolder = "/var/lib/socketxp"
)

// Dir is the folder that holds an agent's state. Nobody but its owner may enter
// it: that is what keeps the key and the local socket from other users.
type Dir struct{ path string }

// DefaultDir returns the folder of an agent that was given none: the system's for
// root, else the user's own (own is true, and people are told).
func DefaultDir() (path string, own bool, err error) {
	if os.Geteuid() == 0 {
		return systemWideFolder, false, nil
	}
	if state := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "socketxp"), true, nil
	}
	if runtime.GOOS == "windows" {
		local, err := os.UserCacheDir()
		if err != nil {
			return "", true, hinted("give one by --work-dir", "there is no folder for the agent's state: %v", err)
		}
		return filepath.Join(local, "socketxp"), true, nil
	}
	home, err := os.UserHomeDir()
	if err != nil || !filepath.IsAbs(home) {
		return "", true, hinted("give one by --work-dir", "there is no folder for the agent's state: the user has no home")
	}
	return filepath.Join(home, ".local", "state", "socketxp"), true, nil
}

// OpenDir returns the folder at path. It need not exist yet; if it does, it must
// be this user's (or root's) alone.
func OpenDir(path string) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("work folder: %w", err)
	}
	d := &Dir{path}
	if err := d.check(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return d, nil
}

// Path returns the folder's absolute path.
func (d *Dir) Path() string { return d.path }

func (d *Dir) file(name string) string { return filepath.Join(d.path, name) }

func (d *Dir) check() error {
	info, err := os.Stat(d.path)
	switch {
	case err != nil:
		return fmt.Errorf("work folder: %w", err)
	case !info.IsDir():
		return hinted("give another by --work-dir", "the work folder %s is not a folder", d.path)
	}
	return checkPrivate(d.path, info)
}

// make creates the folder if there is none.
func (d *Dir) make() error {
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return fmt.Errorf("work folder: %w", err)
	}
	return d.check()
}

// read returns a file of at most limit bytes. With private, others must not be
// able to read or change it.
func (d *Dir) read(name string, limit int64, private bool) ([]byte, error) {
	return readFile(d.file(name), limit, private)
}

func readFile(path string, limit int64, private bool) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // G304: the user's own choice, or a file of the work folder
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, hinted("", "%s is not a regular file", path)
	}
	if private {
		if err := checkPrivate(path, info); err != nil {
			return nil, err
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, hinted("", "%s is larger than %d bytes", path, limit)
	}
	return data, nil
}

// write replaces a file, mode 0600. Whenever the machine stops, the file is the
// old one or the new one, whole. Two writers of a file must exclude each other.
func (d *Dir) write(name string, data []byte) error {
	if err := d.stage(name, data); err != nil {
		return err
	}
	return d.commit(name)
}

// stage writes the new text of a file, durably, beside it.
func (d *Dir) stage(name string, data []byte) (err error) {
	if err := d.make(); err != nil {
		return err
	}
	staged := d.file(name) + stagedSuffix
	if err := os.Remove(staged); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by a crash
		return err
	}
	f, err := os.OpenFile(staged, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // G304: a file of the work folder
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(staged)
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// commit makes the staged text the file's.
func (d *Dir) commit(name string) error {
	if err := os.Rename(d.file(name)+stagedSuffix, d.file(name)); err != nil {
		return err
	}
	return syncDir(d.path)
}

// overwrite replaces the text of a file by one that is as long, durably, in the
// place that it has: for a disk that has no room for a second one. A power cut in
// the middle of it can leave a mixture, where a disk does not write a sector whole.
func (d *Dir) overwrite(name string, data []byte) error {
	f, err := os.OpenFile(d.file(name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil && st.Size() != int64(len(data)) {
		err = fmt.Errorf("%s: %w", d.file(name), syscall.ENOSPC)
	}
	if err == nil {
		_, err = f.WriteAt(data, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// wipe overwrites a file and removes it, durably. On flash and on file systems
// that copy on write the old bytes may outlive it for a while. A file that isn't
// there is no error.
func (d *Dir) wipe(name string) error {
	for _, path := range []string{d.file(name) + stagedSuffix, d.file(name)} {
		f, err := os.OpenFile(path, os.O_WRONLY, 0) //nolint:gosec // G304: a file of the work folder
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = blank(f)
		}
		if err := errors.Join(err, os.Remove(path)); err != nil {
			return err
		}
	}
	err := syncDir(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func blank(f *os.File) error {
	info, err := f.Stat()
	if err == nil {
		_, err = f.Write(make([]byte, info.Size()))
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
