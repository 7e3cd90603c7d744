package gateway

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// The files of the data folder, besides the database and the signing key.
const (
	lockFile    = "gateway.lock"
	certFile    = "gateway.crt"
	certKeyFile = "gateway.key"
)

// PrepareDataDir makes the data folder with mode 0700 if it is missing. One that
// others may look into is an error: the keys in it are the gateway. So is one that
// a restore has not finished.
func PrepareDataDir(dir string) error {
	if err := makeDataDir(dir); err != nil {
		return err
	}
	return errRestoring(dir)
}

func makeDataDir(dir string) error {
	if dir == "" {
		return errors.New("there is no data folder")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	st, err := os.Stat(dir)
	switch {
	case err != nil:
		return fmt.Errorf("the data folder: %w", err)
	case !st.IsDir():
		return fmt.Errorf("the data folder %s is not a folder", dir)
	case st.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("the data folder %s is open to others (mode %#o): chmod 700 %s", dir, st.Mode().Perm(), dir)
	}
	return nil
}

// LockDataDir returns a file that holds the data folder until it is closed, or
// the process is gone.
func LockDataDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the operator's own folder
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	if err := errors.Join(giveAway(f, dir), syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another gateway runs in %s: one folder, one gateway", dir)
		}
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	return f, nil
}

// readPrivateKey reads a PEM file with one PKCS #8 key that nobody else can read.
func readPrivateKey(path string) (any, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is open to others (mode %#o): chmod 600 %s", path, st.Mode().Perm(), path)
	}
	text, err := os.ReadFile(path) //nolint:gosec // the operator's own file
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s is not a PEM file", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

func encodePrivateKey(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// writeFile writes a file whole or not at all, and has it on the disk when it
// returns. Only the folder's owner can read it, as CreateTemp makes it.
func writeFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := giveAway(f, dir); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// giveAway makes a file the folder's owner's, if root made it: what an admin command
// leaves there, a gateway that runs as somebody else must be able to read.
func giveAway(f *os.File, dir string) error {
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if owner, ok := st.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		return f.Chown(int(owner.Uid), int(owner.Gid))
	}
	return nil
}

// syncDir has the names in a folder on the disk when it returns.
func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the operator's own folder
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}
