package agent

import (
	"context"
	"errors"
	"time"

	"socketxp"
)

// errLocked says that another process has the lock.
var errLocked = errors.New("another process has the lock")

// lock makes this process the folder's one agent until release. It returns
// errLocked if there is one already.
func (d *Dir) lock() (release func(), err error) {
	if err := d.make(); err != nil {
		return nil, err
	}
	return lockPath(d.file(lockFile))
}

// lockKnown excludes the other slave-mode agents of the folder while the files are
// changed that they share.
func (d *Dir) lockKnown(ctx context.Context) (release func(), err error) {
	if err := d.make(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		release, err := lockPath(d.file(knownLockFile))
		if !errors.Is(err, errLocked) {
			return release, err
		}
		// Held for the few milliseconds that writing a file takes.
		if !sleep(ctx, 20*time.Millisecond) {
			return nil, socketxp.Errorf(socketxp.CodeUnavailable, "another process holds %s", d.file(knownLockFile))
		}
	}
}

// sleep waits for d. It returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
