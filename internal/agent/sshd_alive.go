//go:build unix

package agent

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// aliveRequest is what either end of an SSH connection asks to get an answer; any
// answer is a sign of life.
const aliveRequest = "keepalive@openssh.com"

// listened is a connection that knows for how long its peer has said nothing.
type listened struct {
	net.Conn
	since time.Time
	heard atomic.Int64 // nanoseconds after since
}

func newListened(c net.Conn) *listened { return &listened{Conn: c, since: time.Now()} }

// Read notes that something came.
func (l *listened) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if n > 0 {
		l.hear()
	}
	return n, err
}

// hear has the silence begin now.
func (l *listened) hear() { l.heard.Store(int64(time.Since(l.since))) }

func (l *listened) silence() time.Duration {
	return time.Since(l.since) - time.Duration(l.heard.Load())
}

// keepAlive asks a silent client for a sign of life, and closes the connection of
// one that gives none; then it returns true. It ends with ctx, which ends
// after the connection.
func (l *listened) keepAlive(ctx context.Context, conn ssh.Conn) bool {
	var answering sync.WaitGroup
	defer answering.Wait() // no longer than the connection, which ends before ctx
	asking := make(chan struct{}, 1)
	for {
		switch silence := l.silence(); {
		case silence >= deadLimit:
			// Whoever is stuck in a write to the client is freed by this.
			_ = conn.Close()
			return true
		case silence >= aliveInterval:
			select {
			case asking <- struct{}{}:
				answering.Go(func() {
					defer func() { <-asking }()
					_, _, _ = conn.SendRequest(aliveRequest, true, nil)
				})
			default: // still unanswered
			}
		}
		next := aliveInterval - l.silence()%aliveInterval
		if !sleep(ctx, next) {
			return false
		}
	}
}

// pace holds whoever waits on it to a rate, with bursts.
type pace struct {
	every time.Duration
	burst int
	next  time.Time // when the next one is due at the rate
}

// wait returns when there is room for one more, or ctx has ended.
func (p *pace) wait(ctx context.Context) {
	now := time.Now()
	if earliest := now.Add(-time.Duration(p.burst) * p.every); p.next.Before(earliest) {
		p.next = earliest
	}
	p.next = p.next.Add(p.every)
	if ahead := p.next.Sub(now); ahead > 0 {
		sleep(ctx, ahead)
	}
}
