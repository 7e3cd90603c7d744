package relay

import (
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// splice moves bytes from socket to socket inside the kernel, by way of a pipe.
//
// io.Copy between two *net.TCPConn does this too, but holds a pipe of 1 MiB for
// as long as it waits: two more descriptors for each direction of an idle link,
// and a user who isn't root gets 64 such pipes (fs.pipe-user-pages-soft) before
// the kernel gives out small ones. It also says what it has moved only when it
// is done. Here a direction has a pipe only while it has bytes.
func splice(dst, src *net.TCPConn, moved *atomic.Int64) error {
	from, err := src.SyscallConn()
	if err != nil {
		return err
	}
	to, err := dst.SyscallConn()
	if err != nil {
		return err
	}
	s := &splicer{moved: moved}
	defer s.giveBack()
	fill, drain := s.fill, s.drain // once, not a closure for every call
	for {
		if err := from.Read(fill); err != nil {
			return err
		}
		if s.err != nil {
			return s.err
		}
		if s.held == 0 {
			return nil
		}
		if err := to.Write(drain); err != nil {
			return err
		}
		if s.err != nil {
			return s.err
		}
	}
}

// splicer is one direction's state.
type splicer struct {
	pipe  *pipe // nil while there is nothing to move
	held  int   // bytes in the pipe
	moved *atomic.Int64
	err   error
}

// fill takes what the source has into the pipe. It returns false if the source
// has nothing now. No bytes and no error is the source's end.
func (s *splicer) fill(fd uintptr) bool {
	if s.pipe == nil {
		if s.pipe, s.err = takePipe(); s.err != nil {
			return true
		}
	}
	n, err := spliceOnce(int(fd), s.pipe.w, bufferSize)
	if err == unix.EAGAIN { //nolint:errorlint // an Errno as the kernel gave it
		s.giveBack()
		return false
	}
	s.held, s.err = n, err
	return true
}

// drain gives what is in the pipe to the destination. It returns false if the
// destination takes no more now.
func (s *splicer) drain(fd uintptr) bool {
	for s.held > 0 {
		n, err := spliceOnce(s.pipe.r, int(fd), s.held)
		if err == unix.EAGAIN { //nolint:errorlint // an Errno as the kernel gave it
			return false
		}
		if err != nil {
			s.err = err
			return true
		}
		s.held -= n
		s.moved.Add(int64(n))
	}
	return true
}

// giveBack returns the pipe to the pool. A pipe with bytes in it is closed: they
// are one link's and must never come out in another.
func (s *splicer) giveBack() {
	if s.pipe == nil {
		return
	}
	if s.held == 0 {
		pipes.Put(s.pipe)
	} else {
		s.pipe.close()
	}
	s.pipe = nil
}

func spliceOnce(from, to, size int) (int, error) {
	for {
		n, err := unix.Splice(from, nil, to, nil, size, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if err != unix.EINTR {
			return max(int(n), 0), err
		}
	}
}

// pipe is a pair of descriptors and what closes them when the pool drops it.
type pipe struct {
	r, w    int
	cleanup runtime.Cleanup
}

var pipes sync.Pool

func takePipe() (*pipe, error) {
	if p, ok := pipes.Get().(*pipe); ok {
		return p, nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	// A refusal (the user has too many pages in pipes) costs speed only.
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, bufferSize)
	p := &pipe{r: fds[0], w: fds[1]}
	p.cleanup = runtime.AddCleanup(p, func(fds [2]int) {
		_ = unix.Close(fds[0])
		_ = unix.Close(fds[1])
	}, fds)
	return p, nil
}

func (p *pipe) close() {
	p.cleanup.Stop()
	_ = unix.Close(p.r)
	_ = unix.Close(p.w)
}
