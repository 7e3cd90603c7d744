//go:build unix

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"socketxp"
)

const (
	sshFolder          = ".ssh"
	authorizedKeysFile = "authorized_keys"
	// stagedKeysFile is what takes the file's place. Under the folder's lock there is one
	// at a time, and one that is there was left by a crash.
	stagedKeysFile = "authorized_keys.socketxp"
	// keyEditWithin bounds an edit, whatever the user's home folder is made of.
	keyEditWithin = 5 * time.Second
	// keyEditTries is how often an edit begins anew because somebody else has changed
	// the file in between.
	keyEditTries = 10
)

// editKeys has a process that runs as the user edit the user's authorized_keys: what
// the user has put in the way can then lead to nothing that is not the user's, and
// what hangs there is killed.
func editKeys(ctx context.Context, executable string, as account, edit keyEdit) (made bool, err error) {
	limited, cancel := context.WithTimeout(ctx, keyEditWithin)
	defer cancel()
	edit.Home = as.home
	request, err := json.Marshal(edit)
	if err != nil {
		return false, err
	}
	var out limitedBuffer
	cmd := exec.CommandContext(limited, executable, authorizedKeysCommand)
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.Stdin, cmd.Stdout = bytes.NewReader(request), &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: as.credential}
	cmd.WaitDelay = time.Second
	switch err := cmd.Run(); {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case limited.Err() != nil:
		return false, hinted("", "the home folder of %s did not answer within %v", as.name, keyEditWithin)
	case err != nil:
		return false, fmt.Errorf("edit authorized_keys of %s: %w", as.name, err)
	}
	var answer keyEdited
	if err := socketxp.StrictUnmarshal(out.data, &answer); err != nil {
		return false, fmt.Errorf("edit authorized_keys of %s: the answer can't be read", as.name)
	}
	if answer.Error != "" {
		return false, hinted(Printable(cut(answer.Hint)), "%s", Printable(cut(answer.Error)))
	}
	return answer.Made, nil
}

// cut bounds what a process said that the user may have taken over.
func cut(s string) string { return s[:min(len(s), 300)] }

// limitedBuffer keeps the beginning of what is written.
type limitedBuffer struct{ data []byte }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.data = append(b.data, p[:min(len(p), maxKeyEdit-len(b.data))]...)
	return len(p), nil
}

// editAuthorizedKeys edits the file in the home folder of the user it runs as. The
// file is the old one or the new one, whole, whenever the machine stops; mode and
// group stay. Made says that there was none.
func editAuthorizedKeys(edit keyEdit) (made bool, err error) {
	dir, err := openSSHFolder(edit.Home, edit.Add != "")
	if errors.Is(err, fs.ErrNotExist) && edit.Add == "" {
		return false, nil // what is not there needs no removing
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = dir.Close() }()
	// Of two agents one waits; the parent ends it if that takes too long.
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		return false, fmt.Errorf("lock %s: %w", dir.Name(), err)
	}
	if err := unix.Unlinkat(int(dir.Fd()), stagedKeysFile, 0); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by a crash
		return false, err
	}
	for range keyEditTries {
		made, err = editOnce(dir, edit)
		if !errors.Is(err, errKeysChanged) {
			break
		}
	}
	return made, err
}

var errKeysChanged = errors.New("somebody else is changing authorized_keys")

// openSSHFolder opens ~/.ssh, which must be the user's own folder and no link. With
// create it is made if there is none.
func openSSHFolder(home string, create bool) (*os.File, error) {
	h, err := os.Open(home) //nolint:gosec // G304: the user's own, opened by the user
	if err != nil {
		return nil, err
	}
	defer func() { _ = h.Close() }()
	path := filepath.Join(home, sshFolder)
	if create {
		if err := unix.Mkdirat(int(h.Fd()), sshFolder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make %s: %w", path, err)
		}
	}
	fd, err := unix.Openat(int(h.Fd()), sshFolder, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, err
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EMLINK):
		return nil, hinted("put a folder there", "%s is a link, or not a folder", path)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	dir := os.NewFile(uintptr(fd), path)
	info, err := dir.Stat()
	if err == nil {
		err = checkOwner(path, info)
	}
	if err != nil {
		_ = dir.Close()
		return nil, err
	}
	return dir, nil
}

func checkOwner(path string, info fs.FileInfo) error {
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return hinted("chown it", "%s does not belong to the user", path)
	}
	return nil
}

// openKeys opens authorized_keys in the folder for reading; fs.ErrNotExist if there is
// none. What is not a plain file of the user's alone is refused, without waiting for
// anything and without reading from it.
func openKeys(dir *os.File) (*os.File, fs.FileInfo, error) {
	path := filepath.Join(dir.Name(), authorizedKeysFile)
	fd, err := unix.Openat(int(dir.Fd()), authorizedKeysFile, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, err
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EMLINK):
		return nil, nil, hinted("put the file itself there", "%s is a link", path)
	case err != nil:
		return nil, nil, fmt.Errorf("open %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	info, err := f.Stat()
	if err == nil {
		err = checkKeys(path, info)
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

func checkKeys(path string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return hinted("put a file there", "%s is not a plain file", path)
	case !ok || st.Nlink != 1:
		return hinted("copy it, so that it has one name", "%s has several names (hard links)", path)
	case info.Size() > maxAuthorizedKeys:
		return hinted("", "%s is larger than %d bytes", path, maxAuthorizedKeys)
	}
	return checkOwner(path, info)
}

// editOnce makes the edit, or returns errKeysChanged if the file was changed by others
// meanwhile. The caller has the folder's lock.
func editOnce(dir *os.File, edit keyEdit) (made bool, err error) {
	var text []byte
	f, old, err := openKeys(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if edit.Add == "" {
			return false, nil
		}
		made = true
	case err != nil:
		return false, err
	default:
		text, err = io.ReadAll(io.LimitReader(f, maxAuthorizedKeys+1))
		_ = f.Close()
		if err != nil {
			return false, fmt.Errorf("read %s: %w", f.Name(), err)
		}
		if len(text) > maxAuthorizedKeys { // since its size was looked at
			return false, errKeysChanged
		}
	}
	next := withoutKeys(text, edit.Remove)
	if edit.Add != "" {
		next = withKey(next, edit.Add)
	}
	if bytes.Equal(next, text) {
		return false, nil
	}
	if len(next) > maxAuthorizedKeys {
		return false, hinted("", "%s would be larger than %d bytes", filepath.Join(dir.Name(), authorizedKeysFile), maxAuthorizedKeys)
	}
	if edit.RemoveFile && len(next) == 0 {
		if err := unchanged(dir, old); err != nil {
			return false, err
		}
		return false, errors.Join(unix.Unlinkat(int(dir.Fd()), authorizedKeysFile, 0), dir.Sync())
	}
	if err := stageKeys(dir, next, old); err != nil {
		_ = unix.Unlinkat(int(dir.Fd()), stagedKeysFile, 0)
		return false, err
	}
	return made, dir.Sync()
}

// unchanged returns errKeysChanged if the file is not any more the one that was read;
// nil stands for none.
func unchanged(dir *os.File, old fs.FileInfo) error {
	f, now, err := openKeys(dir)
	if errors.Is(err, fs.ErrNotExist) && old == nil {
		return nil
	}
	if err != nil {
		return err
	}
	_ = f.Close()
	if old == nil || !os.SameFile(old, now) || !old.ModTime().Equal(now.ModTime()) || old.Size() != now.Size() {
		return errKeysChanged
	}
	return nil
}

// stageKeys writes the text beside the file, durably, and puts it in the file's place.
func stageKeys(dir *os.File, text []byte, old fs.FileInfo) (err error) {
	at := int(dir.Fd())
	path := filepath.Join(dir.Name(), stagedKeysFile)
	fd, err := unix.Openat(at, stagedKeysFile, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	if old != nil {
		err = keepOwner(f, old)
	}
	if err == nil {
		_, err = f.Write(text)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := unchanged(dir, old); err != nil {
		return err
	}
	return unix.Renameat(at, stagedKeysFile, at, authorizedKeysFile)
}

// keepOwner gives a new file the group and the mode of the old one.
func keepOwner(f *os.File, old fs.FileInfo) error {
	was, ok := old.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("the file has no owner")
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if is, ok := info.Sys().(*syscall.Stat_t); !ok || is.Gid != was.Gid {
		if err := f.Chown(-1, int(was.Gid)); err != nil {
			return err
		}
	}
	return f.Chmod(old.Mode())
}
