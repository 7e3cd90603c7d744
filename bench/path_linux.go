package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// path is what lies between two hosts of their own: a delay, and some packets that
// are lost. Not every kernel has netem, nor the virtual cables that it works on: the
// packets pass through this process, from the TUN device of one network namespace to
// that of the other.
type path struct {
	delay time.Duration // each way
	loss  float64       // part of the packets, each way
}

// String names the path in the report.
func (p path) String() string {
	return fmt.Sprintf("%v each way, %.0f %% loss", p.delay, p.loss*100)
}

const (
	mtu = 1500
	// maxUnderWay is how many packets one direction holds: 48 MiB, several times what
	// TCP's windows let through in 100 ms.
	maxUnderWay = 32 << 10
)

// lay makes the two namespaces of a lab and starts to carry packets between them. It
// needs root.
func (l *lab) lay(ctx context.Context, p path) error {
	suffix := fmt.Sprint(os.Getpid())
	near, err := newNamespace(ctx, "bench-near-"+suffix, "10.77.77.1", "10.77.77.2")
	if err != nil {
		return err
	}
	l.near = near
	far, err := newNamespace(ctx, "bench-far-"+suffix, "10.77.77.2", "10.77.77.1")
	if err != nil {
		return err
	}
	l.far = far
	go p.carry(near.tun, far.tun, 1)
	go p.carry(far.tun, near.tun, 2)
	return nil
}

// packet is one under way.
type packet struct {
	data []byte
	due  time.Time
}

// carry moves packets in one direction until a device is closed. Which ones are lost
// is the same each time.
func (p path) carry(to, from *os.File, seed uint64) {
	underWay := make(chan packet, maxUnderWay)
	go func() {
		defer close(underWay)
		chance := rand.New(rand.NewPCG(seed, 77)) //nolint:gosec // no secret
		for {
			data := make([]byte, mtu)
			n, err := from.Read(data)
			if err != nil {
				return
			}
			if chance.Float64() < p.loss {
				continue
			}
			select {
			case underWay <- packet{data[:n], time.Now().Add(p.delay)}:
			default: // a queue that is full drops, as a router's does
			}
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for next := range underWay {
		if wait := time.Until(next.due); wait > 0 {
			timer.Reset(wait)
			<-timer.C
		}
		if _, err := to.Write(next.data); errors.Is(err, os.ErrClosed) {
			return
		}
	}
}

// namespace is a network of its own with one device, which leads to its peer. A nil
// one is the machine's own network.
type namespace struct {
	name, addr string
	tun        *os.File
}

const tunName = "bench0"

func newNamespace(ctx context.Context, name, addr, peer string) (_ *namespace, err error) {
	ns := &namespace{name: name, addr: addr}
	defer func() {
		if err != nil {
			ns.close()
		}
	}()
	ip := func(args ...string) error {
		out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput() //nolint:gosec // our own words
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	if err := ip("netns", "add", name); err != nil {
		return nil, err
	}
	if ns.tun, err = ns.openTUN(); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"addr", "add", addr, "peer", peer, "dev", tunName},
		{"link", "set", tunName, "mtu", fmt.Sprint(mtu), "txqueuelen", "10000", "up"},
	} {
		if err := ip(append([]string{"-n", name}, args...)...); err != nil {
			return nil, err
		}
	}
	return ns, nil
}

// within runs do in a thread that is in the namespace. What do opens stays there.
func (ns *namespace) within(do func() error) error {
	if ns == nil {
		return do()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- func() error {
			fd, err := unix.Open("/run/netns/"+ns.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer func() { _ = unix.Close(fd) }()
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return err
			}
			return do()
		}()
	}()
	return <-done
}

// dial connects to a numeric address in the namespace.
func (ns *namespace) dial(ctx context.Context, addr string) (c net.Conn, err error) {
	err = ns.within(func() error {
		c, err = new(net.Dialer).DialContext(ctx, "tcp", addr)
		return err
	})
	return c, err
}

// openTUN makes the namespace's TUN device and returns this end of it.
func (ns *namespace) openTUN() (tun *os.File, err error) {
	err = ns.within(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		req, err := unix.NewIfreq(tunName)
		if err == nil {
			req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
		if err != nil {
			return fmt.Errorf("a TUN device: %w", errors.Join(err, unix.Close(fd)))
		}
		tun = os.NewFile(uintptr(fd), "tun")
		return nil
	})
	return tun, err
}

// inside returns the command line that runs argv in the namespace.
func (ns *namespace) inside(argv []string) []string {
	if ns == nil {
		return argv
	}
	return append([]string{"ip", "netns", "exec", ns.name}, argv...)
}

func (ns *namespace) close() {
	if ns == nil {
		return
	}
	if ns.tun != nil {
		_ = ns.tun.Close()
	}
	_ = exec.Command("ip", "netns", "del", ns.name).Run() //nolint:gosec,noctx // our own name; at the end
}

// host is the address at which things in the namespace listen.
func (ns *namespace) host() string {
	if ns == nil {
		return "127.0.0.1"
	}
	return ns.addr
}
