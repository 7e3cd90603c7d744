package relay

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// held is how many bytes have been taken from a socket that are not counted in moved
// yet: those that are in the relay.
func held(tb testing.TB, from *net.TCPConn, moved *atomic.Int64) (n int64) {
	tb.Helper()
	raw, err := from.SyscallConn()
	if err != nil {
		tb.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		var unread int
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err != nil {
			return
		}
		unread, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		n = int64(info.Bytes_received) - int64(unread)
	}); err != nil {
		tb.Fatal(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return n - moved.Load()
}

// TestShares has 100 links of which one takes all it can get, in great pieces, and
// one takes nothing: the others have their share nevertheless. It counts bytes, which
// a busy machine moves later but not otherwise.
func TestShares(t *testing.T) {
	for name, wrap := range map[string]func(*net.TCPConn) net.Conn{
		"N-22 spliced": func(c *net.TCPConn) net.Conn { return c },
		"N-22 copied":  func(c *net.TCPConn) net.Conn { return wrapped{c} },
	} {
		t.Run(name, func(t *testing.T) {
			const links, hog, slow = 100, 0, 1
			r := New(Options{})
			var pairs [links]*Pair
			var visitors, devices, inner [links]*net.TCPConn
			var out sync.WaitGroup
			for i := range links {
				pairs[i] = expect(t, r)
				var far *net.TCPConn
				visitors[i], far = dialled(t)
				devices[i], inner[i] = dialled(t)
				kernel := 64 << 10 // small buffers, so that shares show after few bytes
				if i == slow {
					kernel = 4 << 20 // more than the relay may take out of them
				}
				for _, c := range []*net.TCPConn{visitors[i], far, devices[i], inner[i]} {
					if err := errors.Join(c.SetReadBuffer(kernel), c.SetWriteBuffer(kernel)); err != nil {
						t.Fatal(err)
					}
				}
				for c, ticket := range map[*net.TCPConn][]byte{far: pairs[i].VisitorTicket(), inner[i]: pairs[i].DeviceTicket()} {
					out.Go(func() {
						if err := r.Join(wrap(c), ticket); err != nil {
							t.Error(err)
						}
					})
				}
				done(t, "the meeting", pairs[i].Joined())
			}
			var ends sync.WaitGroup
			var got [links]atomic.Int64
			begin := make(chan struct{})
			for i := range links {
				size := 32 << 10
				if i == hog {
					size = 4 << 20
				}
				ends.Go(func() {
					b := make([]byte, size)
					<-begin
					for {
						if _, err := devices[i].Write(b); err != nil {
							return
						}
					}
				})
				if i != slow {
					ends.Go(func() {
						b := make([]byte, size)
						for {
							n, err := visitors[i].Read(b)
							got[i].Add(int64(n))
							if err != nil {
								return
							}
						}
					})
				}
			}
			defer out.Wait()
			defer ends.Wait()
			defer func() {
				for _, p := range pairs {
					p.Cut()
				}
			}()
			now := func() (n [links]int64, all int64) {
				for i := range got {
					n[i] = got[i].Load()
					all += n[i]
				}
				return n, all
			}
			close(begin)
			await(t, "all have begun", func() bool {
				n, _ := now()
				n[slow] = 1 << 20
				return slices.Min(n[:]) >= 1<<20
			})
			before, first := now()
			await(t, "4 MiB for each", func() bool {
				_, all := now()
				return all-first > (links-1)*4<<20
			})
			after, all := now()
			fair := float64(all-first) / (links - 1)
			var shares []float64
			for i := range got {
				if i != hog && i != slow {
					shares = append(shares, float64(after[i]-before[i])/fair)
				}
			}
			slices.Sort(shares)
			if half := shares[len(shares)/2]; half < 0.8 || shares[0] < 0.5 {
				t.Errorf("half of the others have %.2f of a fair share or less, one has %.2f", half, shares[0])
			}
			t.Logf("of a fair share: %.2f the hog, %.2f half of the others, %.2f the worst", float64(after[hog]-before[hog])/fair, shares[len(shares)/2], shares[0])

			// That one is held up, with little under way, and not cut.
			if n := held(t, inner[slow], &pairs[slow].moved[device]); n <= 0 || n > 256<<10 {
				t.Errorf("the relay holds %d bytes for who takes none", n)
			}
			if n, err := io.CopyN(io.Discard, visitors[slow], 64<<20); err != nil {
				t.Errorf("after %d bytes: %v", n, err)
			}
		})
	}
}
