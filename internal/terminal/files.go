package terminal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/pkg/sftp"

	"socketxp"
)

const (
	// maxFileOps is how many things may be done with files at a time: a server takes
	// ten sessions of one connection, and the terminal is one.
	maxFileOps = 4
	// maxEntries is how many entries of a folder are listed, and maxListing how much of
	// the server's answer is read for it.
	maxEntries = 5000
	maxListing = 2 << 20
	// maxPath is what Linux takes.
	maxPath = 4096
)

// File is an entry of a folder.
type File struct {
	Name       string
	Type       string
	Size       int64
	Mode       string // the permissions, in octal
	ModifiedAt time.Time
}

// CheckPath returns an error unless p can be a path.
func CheckPath(p string) error {
	if len(p) > maxPath || strings.ContainsRune(p, 0) {
		return socketxp.Errorf(socketxp.CodeInvalid, "the path is longer than %d bytes, or has a NUL", maxPath)
	}
	return nil
}

// List returns a folder's absolute path and its entries, or the first of them. The
// empty path is the user's home folder.
func (t *Terminal) List(ctx context.Context, p string) (dir string, entries []File, truncated bool, err error) {
	if p == "" {
		p = "."
	}
	err = t.files(ctx, maxListing, func(c *sftp.Client) error {
		if dir, err = c.RealPath(p); err != nil {
			return err
		}
		found, err := c.ReadDirContext(ctx, dir)
		if err != nil && len(found) == 0 {
			return err
		}
		truncated = err != nil || len(found) > maxEntries
		entries = make([]File, 0, min(len(found), maxEntries))
		for _, f := range found[:min(len(found), maxEntries)] {
			entries = append(entries, fileOf(f))
		}
		return nil
	})
	return strings.ToValidUTF8(dir, "\uFFFD"), entries, truncated, err
}

func fileOf(f fs.FileInfo) File {
	kind := "other"
	switch m := f.Mode(); {
	case m.IsRegular():
		kind = "file"
	case m.IsDir():
		kind = "directory"
	case m&fs.ModeSymlink != 0:
		kind = "link"
	}
	return File{
		Name: strings.ToValidUTF8(f.Name(), "\uFFFD"), Type: kind, Size: max(f.Size(), 0),
		Mode: fmt.Sprintf("%04o", f.Mode().Perm()), ModifiedAt: f.ModTime().UTC(),
	}
}

// Download writes a file's content to what begin returns, which is called with the
// file's name and size once it is open. It returns how much was written.
func (t *Terminal) Download(ctx context.Context, p string, begin func(name string, size int64) (io.Writer, error)) (written int64, err error) {
	err = t.files(ctx, -1, func(c *sftp.Client) error {
		f, err := c.Open(p)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return socketxp.Errorf(socketxp.CodeInvalid, "this is no file")
		}
		w, err := begin(path.Base(p), max(info.Size(), 0))
		if err != nil {
			return err
		}
		// A file that grows meanwhile is taken as it was, and one that shrinks is cut off.
		written, err = f.WriteTo(&limitedWriter{w, max(info.Size(), 0)})
		if err == nil && written < info.Size() {
			err = io.ErrUnexpectedEOF
		}
		if errors.Is(err, errEnough) {
			err = nil
		}
		return err
	})
	return written, err
}

var errEnough = errors.New("this is enough")

// limitedWriter takes no more than left bytes.
type limitedWriter struct {
	io.Writer
	left int64
}

func (w *limitedWriter) Write(b []byte) (int, error) {
	if w.left == 0 && len(b) > 0 {
		return 0, errEnough
	}
	n, err := w.Writer.Write(b[:min(int64(len(b)), w.left)])
	w.left -= int64(n)
	if err == nil && n < len(b) {
		err = errEnough
	}
	return n, err
}

// Upload writes what r has to a file, which is there whole or not at all. With
// overwrite it takes the place of one that is there, else that is CodeConflict.
func (t *Terminal) Upload(ctx context.Context, p string, overwrite bool, r io.Reader) (written int64, err error) {
	// A person who goes away leaves nothing behind: what was begun is removed.
	ctx, cancel := withGrace(ctx, cleanUp)
	defer cancel()
	err = t.files(ctx, -1, func(c *sftp.Client) error {
		old, err := c.Lstat(p) // a link is no file, and not followed
		switch {
		case err == nil && (!overwrite || !old.Mode().IsRegular()):
			return errExists
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		}
		temp := path.Join(path.Dir(p), "."+rand.Text()+".part")
		f, err := c.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
		if err != nil {
			return err
		}
		defer func() {
			if err != nil {
				_ = c.Remove(temp)
			}
		}()
		if old != nil {
			// Before there is anything to read in it. To give it to another's file only root
			// is allowed: else it is the user's, as any file that they write anew.
			if s, ok := old.Sys().(*sftp.FileStat); ok {
				_ = f.Chown(int(s.UID), int(s.GID))
			}
			if err = f.Chmod(old.Mode().Perm()); err != nil {
				_ = f.Close()
				return err
			}
		}
		written, err = f.ReadFromWithConcurrency(r, 16)
		if closed := f.Close(); err == nil {
			err = closed
		}
		if err != nil {
			return err
		}
		if old != nil {
			err = c.PosixRename(temp, p)
			return err
		}
		if _, err = c.Lstat(p); err == nil {
			err = errExists // since it was asked
			return err
		}
		err = c.Rename(temp, p)
		return err
	})
	return written, err
}

// cleanUp is how long an upload that was called off may take to remove what it has
// written.
const cleanUp = 10 * time.Second

// withGrace returns a context that is done a while after ctx is.
func withGrace(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(d, cancel)
		context.AfterFunc(later, func() { timer.Stop() })
	})
	return later, func() {
		stop()
		cancel()
	}
}

var errExists = socketxp.Errorf(socketxp.CodeConflict, "there is something of this name already").WithHint("overwrite=true puts a file in the place of a file")

// MakeDirectory makes a folder.
func (t *Terminal) MakeDirectory(ctx context.Context, p string) error {
	return t.files(ctx, -1, func(c *sftp.Client) error {
		if _, err := c.Lstat(p); err == nil {
			return errExists
		}
		return c.Mkdir(p)
	})
}

// files has do use a session of its own, of which it reads no more than limit bytes if
// that is not negative, and tells its error to people.
func (t *Terminal) files(ctx context.Context, limit int64, do func(*sftp.Client) error) error {
	t.mu.Lock()
	client, busy := t.client, t.fileOps >= maxFileOps
	if client != nil && !busy {
		t.fileOps++
	}
	t.mu.Unlock()
	switch {
	case client == nil:
		return socketxp.Errorf(socketxp.CodeConflict, "the terminal is not open")
	case busy:
		return socketxp.Errorf(socketxp.CodeTooManyLinks, "no more than %d things can be done with files at a time", maxFileOps)
	}
	release := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.fileOps--
	}
	session, err := client.NewSession()
	if err != nil {
		release()
		return fileError(err)
	}
	// A server may leave a session open that was closed here: what reads it then has
	// its place for as long as the terminal lives.
	ours, theirs := io.Pipe()
	in, err1 := session.StdinPipe()
	out, err2 := session.StdoutPipe()
	if err := errors.Join(err1, err2, session.RequestSubsystem("sftp")); err != nil {
		_ = session.Close()
		release()
		return socketxp.Errorf(socketxp.CodeConflict, "the device's SSH server has no SFTP")
	}
	go func() {
		defer release()
		t.guard(func() {
			_, err := io.Copy(theirs, out)
			_ = theirs.CloseWithError(err)
		})
	}()
	end := func() {
		_ = ours.CloseWithError(io.ErrClosedPipe)
		_ = session.Close()
	}
	defer end()
	stop := context.AfterFunc(ctx, end)
	defer stop()
	var reader io.Reader = ours
	if limit >= 0 {
		reader = io.LimitReader(ours, limit)
	}
	c, err := sftp.NewClientPipe(reader, in)
	if err == nil {
		err = do(c)
	}
	return fileError(err)
}

// fileError says what went wrong with a file.
func fileError(err error) error {
	var ours *socketxp.Error
	var status *sftp.StatusError
	switch {
	case err == nil, errors.As(err, &ours):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return socketxp.Errorf(socketxp.CodeNotFound, "there is no such file or folder")
	case errors.Is(err, fs.ErrPermission):
		return socketxp.Errorf(socketxp.CodeForbidden, "the device does not permit that to this user")
	case errors.As(err, &status):
		return socketxp.Errorf(socketxp.CodeConflict, "the device could not do that: %s", printable(status.Error()))
	}
	return &socketxp.Error{Code: socketxp.CodeUnavailable, Message: "the transfer was broken off", Err: err}
}
