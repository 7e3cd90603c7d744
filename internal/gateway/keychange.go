package gateway

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"socketxp"
)

// The files of the data folder while the gateway is about to change its key.
const (
	nextCertFile   = "gateway.next.crt"
	nextKeyFile    = "gateway.next.key"
	changeFile     = "gateway.change"
	changeLockFile = "gateway.change.lock"
	maxChangeFile  = 4 << 10
)

// KeyChange is what stands in the data folder of a gateway that is about to change
// the key of its certificate. It holds from the moment when its file is there.
type KeyChange struct {
	Pin      string    `json:"pin"` // of the next key
	StagedAt time.Time `json:"staged_at"`
	ChangeAt time.Time `json:"change_at"` // not before
	// Forced changes the key though some devices don't know it.
	Forced bool `json:"forced,omitempty"`
	// Changing says that the files are being exchanged: there is no way back.
	Changing bool `json:"changing,omitempty"`
}

// KeySeenWithin is how long ago a device may have been seen to hold up a change of
// the key that it does not know.
const KeySeenWithin = 90 * 24 * time.Hour

// ErrNoKeyChange says that the gateway is not about to change its key.
var ErrNoKeyChange = socketxp.Errorf(socketxp.CodeNotFound, "no change of the gateway's key is under way").
	WithHint("socketxp-gateway admin rotate-tls-key begins one")

// ReadKeyChange returns the change that is under way in a data folder, or
// ErrNoKeyChange.
func ReadKeyChange(dir string) (KeyChange, error) {
	var c KeyChange
	path := filepath.Join(dir, changeFile)
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, ErrNoKeyChange
	case err != nil:
		return c, err
	case st.Size() > maxChangeFile:
		return c, fmt.Errorf("%s is damaged: it is larger than %d bytes", path, maxChangeFile)
	}
	text, err := os.ReadFile(path) //nolint:gosec // the operator's own folder
	if errors.Is(err, fs.ErrNotExist) {
		return c, ErrNoKeyChange
	}
	if err == nil {
		err = socketxp.StrictUnmarshal(text, &c)
	}
	if err == nil {
		err = socketxp.CheckPin(c.Pin)
	}
	if err != nil {
		return KeyChange{}, fmt.Errorf("%s is damaged: %w", path, err)
	}
	return c, nil
}

// StageKey makes the key that the gateway of a data folder will change to when
// overlap has passed. From then on, whether it runs or starts later, it announces it.
func StageKey(dir, host string, overlap time.Duration, now time.Time) (KeyChange, error) {
	var c KeyChange
	err := changing(dir, func() error {
		switch _, err := ReadKeyChange(dir); {
		case err == nil:
			return socketxp.Errorf(socketxp.CodeConflict, "a change of the gateway's key is under way already").
				WithHint("--status shows it, --now carries it out, --abort calls it off")
		case !errors.Is(err, ErrNoKeyChange):
			return err
		}
		// What a crash, or a change that was called off, has left behind was never
		// announced, or is not any more.
		cert, key := filepath.Join(dir, nextCertFile), filepath.Join(dir, nextKeyFile)
		for _, path := range []string{cert, key} {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := makeCertificate(cert, key, host); err != nil {
			return err
		}
		pin, err := PinOfFile(cert)
		if err != nil {
			return err
		}
		c = KeyChange{Pin: pin, StagedAt: now.UTC(), ChangeAt: now.Add(overlap).UTC()}
		return c.write(dir)
	})
	return c, err
}

// ChangeKeyNow has the gateway of a data folder change its key without waiting for
// the day, and with forced, whoever does not know the new one.
func ChangeKeyNow(dir string, forced bool, now time.Time) (KeyChange, error) {
	var c KeyChange
	err := changing(dir, func() (err error) {
		if c, err = ReadKeyChange(dir); err != nil || c.Changing {
			return err
		}
		c.ChangeAt, c.Forced = now.UTC(), forced
		return c.write(dir)
	})
	return c, err
}

// AbortKeyChange calls a change off: the key stays, and the next one is removed.
func AbortKeyChange(dir string) error {
	return changing(dir, func() error {
		c, err := ReadKeyChange(dir)
		switch {
		case errors.Is(err, ErrNoKeyChange):
			return err
		case err == nil && c.Changing:
			return socketxp.Errorf(socketxp.CodeConflict, "the key is being changed: it is too late to call it off")
		}
		// The file of the change first: what is left after a crash means nothing without it.
		return removeFiles(dir, changeFile, nextKeyFile, nextCertFile)
	})
}

func (c KeyChange) write(dir string) error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, changeFile), append(text, '\n'))
}

// changing runs do while nobody else, in this process or another, works on the
// change.
func changing(dir string, do func() error) error {
	f, err := os.OpenFile(filepath.Join(dir, changeLockFile), os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the operator's own folder
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock the change of the key: %w", err)
	}
	return do()
}

// carryOut makes the next key and its certificate those of the folder. From the
// first write on, a start after a crash does the rest.
func (c KeyChange) carryOut(dir string) error {
	return changing(dir, func() error {
		now, err := ReadKeyChange(dir)
		switch {
		case err != nil:
			return err
		case now.Pin != c.Pin:
			return errors.New("another change of the key is under way")
		}
		if !now.Changing {
			now.Changing = true
			if err := now.write(dir); err != nil {
				return err
			}
		}
		return exchange(dir)
	})
}

// finishChange does what is left of a change that a crash has broken off.
func finishChange(dir string) error {
	return changing(dir, func() error {
		switch c, err := ReadKeyChange(dir); {
		case errors.Is(err, ErrNoKeyChange):
			return nil
		case err != nil:
			return err
		case !c.Changing:
			return nil
		}
		return exchange(dir)
	})
}

// exchange may be broken off anywhere and called again.
func exchange(dir string) error {
	for _, f := range [][2]string{{nextKeyFile, certKeyFile}, {nextCertFile, certFile}} {
		err := os.Rename(filepath.Join(dir, f[0]), filepath.Join(dir, f[1]))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // done before the crash
			return err
		}
		if err := syncFolder(dir); err != nil {
			return err
		}
	}
	return removeFiles(dir, changeFile)
}

// removeFiles removes files in this order, durably. What is not there is no error.
func removeFiles(dir string, names ...string) error {
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := syncFolder(dir); err != nil {
			return err
		}
	}
	return nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the operator's own folder
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// nextPair returns the staged key and its certificate.
func (c KeyChange) nextPair(dir string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, nextCertFile), filepath.Join(dir, nextKeyFile))
	if err != nil {
		return nil, fmt.Errorf("the gateway's next key: %w", err)
	}
	if socketxp.PinOf(pair.Leaf) != c.Pin {
		return nil, errors.New("the gateway's next key is not the one that was staged")
	}
	return &pair, nil
}

// Running reports whether a gateway holds the data folder now.
func Running(dir string) (bool, error) {
	f, err := os.Open(filepath.Join(dir, lockFile)) //nolint:gosec // the operator's own folder
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	// Shared, so that two who ask do not take each other for a gateway. One that
	// starts in this very moment is refused, and says so.
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("ask who holds the data folder: %w", err)
	}
	return false, nil
}
