//go:build unix

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// checkPrivate refuses what others than its owner can read or change, and what
// belongs to somebody who is neither this user nor root.
func checkPrivate(path string, info fs.FileInfo) error {
	fix := "chmod 600 " + path
	if info.IsDir() {
		fix = "chmod 700 " + path
	}
	if info.Mode().Perm()&0o077 != 0 {
		return hinted(fix, "%s is open to other users (mode %#o)", path, info.Mode().Perm())
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return hinted("run as its owner, or chown it", "%s belongs to another user (%d)", path, stat.Uid)
	}
	return nil
}

// syncDir makes the names in a folder durable.
func syncDir(path string) error {
	f, err := os.Open(path) //nolint:gosec // G304: the work folder
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// lockPath takes an exclusive lock that ends with the process, or with release. It
// returns ErrAgentRuns if another process has it.
func lockPath(path string) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // G304: a file of the work folder
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}
