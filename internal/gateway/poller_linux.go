package gateway

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"socketxp/internal/control"
)

// poller is an epoll instance of our own. It is itself a file that Go's runtime waits
// for: whoever runs it takes no thread. The zero poller is not open.
type poller struct {
	file *os.File
	raw  syscall.RawConn
}

func (p *poller) opened() bool { return p.raw != nil }

// open makes the poller. Without an error it must be run, or closed.
func (p *poller) open() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // what has os.File hand it to the runtime
		_ = unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(fd), "epoll")
	raw, err := file.SyscallConn()
	if err == nil {
		err = file.SetReadDeadline(time.Time{}) // fails if the runtime can't wait for it
	}
	if err != nil {
		_ = file.Close()
		return err
	}
	p.file, p.raw = file, raw
	return nil
}

func (p *poller) close() {
	if p.file != nil {
		_ = p.file.Close()
	}
}

// run calls ready with the id of every socket that was armed and can be read, until
// ctx is done.
func (p *poller) run(ctx context.Context, ready func(id uint64)) {
	if !p.opened() {
		<-ctx.Done()
		return
	}
	defer p.close()
	stop := context.AfterFunc(ctx, func() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var events [128]unix.EpollEvent
	_ = p.raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.EpollWait(int(fd), events[:], 0)
			if n <= 0 {
				return err != nil && !errors.Is(err, unix.EINTR)
			}
			for _, e := range events[:n] {
				ready(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32) //nolint:gosec // the two halves of an id
			}
		}
	})
	<-ctx.Done()
}

// arm has ready called once when there is something to read at a socket, or its end.
// A socket that is closed leaves by itself.
func (p *poller) arm(socket syscall.RawConn, id uint64) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(id), Pad: int32(id >> 32)} //nolint:gosec // the two halves
	var armed error
	err := socket.Control(func(fd uintptr) {
		if p.raw.Control(func(epoll uintptr) {
			armed = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_MOD, int(fd), &event)
			if errors.Is(armed, unix.ENOENT) {
				armed = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, int(fd), &event)
			}
		}) != nil {
			armed = os.ErrClosed
		}
	})
	return errors.Join(err, armed)
}

// readNow reads what is there: if that is nothing, it is control.ErrNothing.
func readNow(socket syscall.RawConn, b []byte) (n int, err error) {
	var failed error
	err = socket.Read(func(fd uintptr) bool {
		for {
			n, failed = unix.Read(int(fd), b)
			if !errors.Is(failed, unix.EINTR) {
				return true
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case errors.Is(failed, unix.EAGAIN):
		return 0, control.ErrNothing
	case failed != nil:
		return 0, os.NewSyscallError("read", failed)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}
