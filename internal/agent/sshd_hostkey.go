//go:build unix

package agent

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"
)

// maxHostKeyFile is ten times the size of an Ed25519 key in OpenSSH's format.
const maxHostKeyFile = 4 << 10

// hostKey reads the key in file, and makes it first if there is no such file.
func hostKey(file string) (ssh.Signer, error) {
	signer, err := readHostKey(file)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeHostKey(file); err != nil {
			return nil, fmt.Errorf("make the ssh host key: %w", err)
		}
		signer, err = readHostKey(file)
	}
	if err != nil {
		return nil, fmt.Errorf("read the ssh host key: %w", err)
	}
	return signer, nil
}

func readHostKey(file string) (ssh.Signer, error) {
	f, err := os.Open(file) //nolint:gosec // G304: the path is the agent's own, in its work folder
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %v: others could read or replace it; it must be a file of mode 0600", file, mode)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxHostKeyFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxHostKeyFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", file, maxHostKeyFile)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if kind := signer.PublicKey().Type(); kind != ssh.KeyAlgoED25519 {
		return nil, fmt.Errorf("%s holds a key of type %s, not %s", file, kind, ssh.KeyAlgoED25519)
	}
	return signer, nil
}

// makeHostKey writes a new key to file. Visitors remember the key, so it is
// durable before the name exists: a crash leaves a whole key or none.
func makeHostKey(file string) (err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return err
	}
	dir := filepath.Dir(file)
	f, err := os.CreateTemp(dir, filepath.Base(file)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(pem.EncodeToMemory(block))
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return err
	}
	d, err := os.Open(dir) //nolint:gosec // G304: the agent's own work folder
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}
