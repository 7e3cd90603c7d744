//go:build unix

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

// supply is a connection of which as much comes as is read.
type supply struct{ net.Conn }

func (supply) Read(p []byte) (int, error) { return len(p), nil }
func (supply) Close() error               { return nil }

// packets is what the library holds of a stream: packets, which a read takes as many
// of as it has room for.
type packets struct {
	mu   sync.Mutex // guards the following
	more *sync.Cond
	held [][2]int // bytes of data, and on the wire, of each
	end  bool
}

func newPackets() *packets {
	p := new(packets)
	p.more = sync.NewCond(&p.mu)
	return p
}

func (p *packets) put(data, wire int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = append(p.held, [2]int{data, wire})
	p.more.Signal()
}

// sum returns how many bytes of data are held, and on the wire.
func (p *packets) sum() (data, wire int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.held {
		data, wire = data+int64(h[0]), wire+int64(h[1])
	}
	return data, wire
}

func (p *packets) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end = true
	p.more.Signal()
}

func (p *packets) Read(b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.held) == 0 && !p.end {
		p.more.Wait()
	}
	for n < len(b) && len(p.held) > 0 {
		take := min(len(b)-n, p.held[0][0])
		n += take
		if p.held[0][0] -= take; p.held[0][0] == 0 {
			p.held = p.held[1:]
		} else {
			p.held[0][1] -= take
		}
	}
	if n == 0 {
		err = io.EOF
	}
	return n, err
}

// reader reads a stream: a piece for each turn that it is given, or at once when
// turns is closed.
type reader struct {
	*packets
	stream *stream
	turns  chan bool
}

func newReader(f *inflow) *reader {
	r := &reader{packets: newPackets(), turns: make(chan bool, 1)}
	r.stream = f.stream(r.packets)
	go func() {
		buffer := make([]byte, inputBuffer)
		for {
			<-r.turns
			if _, err := r.stream.Read(buffer); err != nil {
				return
			}
		}
	}()
	return r
}

// receive has a packet come for r.
func (r *reader) receive(f *inflow, data, wire int) error {
	if _, err := f.Read(make([]byte, wire)); err != nil {
		return err
	}
	r.put(data, wire)
	return nil
}

// TestInflowCountsEnough has clients send anything to programs that take it at any
// time: what is counted is never less than what is held.
func TestInflowCountsEnough(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("N-22 seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 0)) // the same each time
				f := newInflow(newListened(supply{}), 1<<40, time.Hour)
				all := make([]*reader, 5)
				for i := range all {
					all[i] = newReader(f)
				}
				prompt := random.IntN(4)
				for _, r := range all[:prompt] {
					close(r.turns)
				}
				held := func() (n int64) {
					for _, r := range all {
						_, wire := r.sum()
						n += wire
					}
					return n
				}
				for range 2000 {
					i := random.IntN(len(all))
					r := all[i]
					if ahead, _ := r.sum(); i >= prompt && len(r.turns) == 0 && random.IntN(2) == 0 {
						r.turns <- true
					} else if ahead <= channelWindow-32<<10 {
						data := 1 + random.IntN(8)
						if random.IntN(3) == 0 {
							data = 1 + random.IntN(32<<10)
						}
						if err := r.receive(f, data, data+35+random.IntN(20)); err != nil {
							t.Fatal(err)
						}
					}
					synctest.Wait()
					if got, want := f.untaken(), held(); got < want {
						t.Errorf("%d are counted, %d are held", got, want)
						break
					}
				}
				for _, r := range all[prompt:] {
					close(r.turns)
				}
				synctest.Wait()
				for range 10 { // the marks follow
					if err := all[0].receive(f, reviewEvery, reviewEvery); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				if got := f.untaken(); held() != 0 || got > 2*reviewEvery {
					t.Errorf("%d are counted, %d are held", got, held())
				}
				for _, r := range all {
					r.finish()
				}
			})
		})
	}
}

// TestInflowWaits is what happens at the limit.
func TestInflowWaits(t *testing.T) {
	const limit = 100_000
	run := func(name string, do func(t *testing.T, f *inflow, r *reader)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newInflow(newListened(supply{}), limit, time.Minute)
				r := newReader(f)
				for f.untaken() <= limit {
					if err := r.receive(f, 1, 36); err != nil {
						t.Fatal(err)
					}
				}
				do(t, f, r)
				r.finish()
				close(r.turns)
			})
		})
	}
	said := func(f *inflow, r *reader) *strings.Builder {
		b := new(strings.Builder)
		r.stream.say = b
		return b
	}
	run("N-22 it ends if nothing is taken", func(t *testing.T, f *inflow, r *reader) {
		told, start := said(f, r), time.Now()
		if _, err := f.Read(make([]byte, 1)); !errors.Is(err, errUntaken) || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if !strings.Contains(told.String(), "no program takes") {
			t.Errorf("%q", told)
		}
	})
	var beside sync.WaitGroup
	run("N-22 it goes on when it is taken", func(t *testing.T, f *inflow, r *reader) {
		beside.Go(func() {
			<-time.After(59 * time.Second)
			r.turns <- true // all of it is less than a read takes
		})
		if _, err := f.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		beside.Wait()
	})
	run("and soon when the last read had room for that and no more", func(t *testing.T, f *inflow, r *reader) {
		start := time.Now()
		beside.Go(func() {
			<-time.After(time.Second)
			data, _ := r.sum()
			_, _ = r.stream.Read(make([]byte, data))
			r.turns <- true // waits, as there is nothing
		})
		for range 2 { // the second has no room before it is known that there is nothing
			if _, err := f.Read(make([]byte, limit)); err != nil || time.Since(start) > time.Second+3*settled {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		}
		beside.Wait()
	})
	run("a slow program has its client wait, not cut", func(t *testing.T, f *inflow, r *reader) {
		start := time.Now()
		var over atomic.Bool
		beside.Go(func() {
			for {
				<-time.After(50 * time.Second)
				if over.Load() {
					return
				}
				if f.silence() > 2*time.Minute {
					t.Error("the client is taken for silent")
				}
				if _, err := r.stream.Read(make([]byte, 1)); err != nil {
					return
				}
			}
		})
		for range 20 {
			if err := r.receive(f, 1, 36); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < time.Hour {
			t.Errorf("20 packets came in %v", took)
		}
		over.Store(true)
		beside.Wait()
	})
	run("a client who can't be told is not waited for", func(t *testing.T, f *inflow, r *reader) {
		stuck, w := io.Pipe()
		r.stream.say = w
		start := time.Now()
		if _, err := f.Read(make([]byte, 1)); !errors.Is(err, errUntaken) || time.Since(start) != time.Minute+sayLimit {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		_ = stuck.Close()
		f.telling.Wait()
	})
	run("a connection that is closed waits no more", func(t *testing.T, f *inflow, _ *reader) {
		beside.Go(func() {
			<-time.After(time.Second)
			_ = f.Close()
		})
		start := time.Now()
		if _, err := f.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		beside.Wait()
	})
	run("N-22 data after their end", func(t *testing.T, f *inflow, r *reader) {
		r.finish()
		r.turns <- true
		r.turns <- true
		synctest.Wait() // read to the end
		r.put(1, 36)
		if _, err := f.Read(make([]byte, reviewEvery)); !errors.Is(err, errAfterEnd) {
			t.Error(err)
		}
	})
}

// metered counts what is read.
type metered struct {
	net.Conn
	n atomic.Int64
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	m.n.Add(int64(n))
	return n, err
}

// metered returns a client of the bed's server, and what the server reads of it.
func (b *sshBed) metered(t *testing.T) (*ssh.Client, *metered) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	theirs := &metered{Conn: c}
	var serving sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	serving.Go(func() { _ = b.server.ServeConn(ctx, theirs) })
	t.Cleanup(func() {
		cancel()
		serving.Wait()
	})
	conn, channels, requests, err := ssh.NewClientConn(ours, "", &ssh.ClientConfig{User: b.user, HostKeyCallback: ssh.FixedHostKey(b.server.signer.PublicKey())})
	if err != nil {
		t.Fatal(err)
	}
	return ssh.NewClient(conn, channels, requests), theirs
}

// flood starts a program that takes nothing and returns its input and what it says.
func flood(t *testing.T, c *ssh.Client) (io.Writer, *lockedBuffer) {
	t.Helper()
	s := newSession(t, c)
	says := new(lockedBuffer)
	s.Stderr = says
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("exec sleep 1000"); err != nil {
		t.Fatal(err)
	}
	return in, says
}

// TestSSHInputFlood sends to programs that take nothing.
func TestSSHInputFlood(t *testing.T) {
	t.Parallel()
	// What isn't held but on its way to a program, in packets of one byte: a pipe, and
	// what is in hand.
	const onTheWay = (64<<10 + inputBuffer) * 36
	t.Run("N-22 packets of one byte", func(t *testing.T) {
		b := newSSHBed(t, func(s *SSHServer) { s.untaken, s.untakenLimit = 256<<10, 100*time.Millisecond })
		client, meter := b.metered(t)
		in, says := flood(t, client)
		for {
			if _, err := in.Write([]byte{1}); err != nil {
				break
			}
		}
		waitFor(t, "a reason", func() bool { return strings.Contains(says.String(), "no program takes") })
		waitFor(t, "a reason in the log", func() bool { return strings.Contains(b.log.String(), errUntaken.Error()) })
		if got := meter.n.Load(); got > onTheWay+512<<10 {
			t.Errorf("%d bytes were read", got)
		}
	})
	t.Run("N-22 a program that takes nothing, and others beside it", func(t *testing.T) {
		b := newSSHBed(t)
		client, _ := b.metered(t)
		in, _ := flood(t, client)
		stuck := make(chan error, 1)
		go func() {
			_, err := io.Copy(in, io.LimitReader(&counter{}, 4<<20))
			stuck <- err
		}()
		for range 3 {
			s := newSession(t, client)
			s.Stdin = io.LimitReader(&counter{}, 2*maxUntaken)
			if out, err := s.Output("wc -c"); err != nil || strings.TrimSpace(string(out)) != fmt.Sprint(2*maxUntaken) {
				t.Errorf("%q, %v", out, err)
			}
		}
		s := newSession(t, client)
		if out, err := s.Output("head -c 20000000 /dev/zero | wc -c"); err != nil || string(out) != "20000000\n" {
			t.Errorf("%q, %v", out, err)
		}
		select {
		case err := <-stuck:
			t.Errorf("it was taken: %v", err)
		default:
		}
	})
	t.Run("N-22 what is no program's is thrown away", func(t *testing.T) {
		b := newSSHBed(t)
		client := b.client()
		channel, requests, err := client.OpenChannel("session", nil)
		if err != nil {
			t.Fatal(err)
		}
		go ssh.DiscardRequests(requests)
		if ok, err := channel.SendRequest("exec", true, ssh.Marshal(struct{ S string }{"exec sleep 1000 <&-"})); !ok || err != nil {
			t.Fatal(ok, err)
		}
		for _, w := range []io.Writer{channel, channel.Stderr()} {
			if n, err := io.Copy(w, io.LimitReader(&counter{}, 3*channelWindow)); err != nil || n != 3*channelWindow {
				t.Errorf("%d, %v", n, err)
			}
		}
	})
}

// TestSSHInputFloodMemory looks at what a flood costs.
func TestSSHInputFloodMemory(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		skip(t, "needs /proc")
	}
	t.Parallel()
	b, pid := alone(t)
	known, err := os.ReadFile(b.known)
	if err != nil {
		t.Fatal(err)
	}
	_, _, key, _, _, err := ssh.ParseKnownHosts(known)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ssh.Dial("tcp", fmt.Sprint("127.0.0.1:", b.port), &ssh.ClientConfig{User: b.user, HostKeyCallback: ssh.FixedHostKey(key)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	var flooding sync.WaitGroup
	for range 3 {
		in, _ := flood(t, c)
		flooding.Go(func() {
			for n := 0; n < channelWindow; n++ {
				if _, err := in.Write([]byte{1}); err != nil {
					return
				}
			}
			t.Error("it was not cut")
		})
	}
	flooding.Wait()
	if got := memory(t, pid, "VmHWM"); got > 96 {
		t.Errorf("P-18: %d MiB", got)
	}
}
