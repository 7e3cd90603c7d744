//go:build !unix

package agent

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// checkPrivate leaves it to the folder's access list, which a user's own folders
// come with.
func checkPrivate(string, fs.FileInfo) error { return nil }

// syncDir does nothing: names are durable when the file is.
func syncDir(string) error { return nil }

// lockPath takes an exclusive lock that ends with release. These systems don't
// remove a file that is open, so a lock that was left by a crash can be taken over
// and a held one can't.
func lockPath(path string) (release func(), err error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, errLocked
	}
	f, err := os.OpenFile(filepath.Clean(path), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case os.IsExist(err):
		return nil, errLocked
	case err != nil:
		return nil, fmt.Errorf("lock: %w", err)
	}
	return func() {
		_ = f.Close()
		_ = os.Remove(path)
	}, nil
}
