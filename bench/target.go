package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// What a client asks the target for, in the first byte of a connection. A number of
// 8 bytes follows the first two.
const (
	askDown  = 'd' // send so many bytes, after a byte that says that it begins
	askUp    = 'u' // take so many bytes, after a byte that says so, and answer one at the end
	askEcho  = 'e' // send back what comes
	askFirst = 'f' // send a byte
)

// bulkBuffer is how much target and load move at once.
const bulkBuffer = 256 << 10

// listenAs listens at an address and tells the lab where.
func listenAs(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(os.Stdout, "listening at %s\n", l.Addr())
	return l, err
}

// serve has every connection of a listener handled in a goroutine of its own.
func serve(ctx context.Context, l net.Listener, handle func(*net.TCPConn)) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			return fmt.Errorf("it is a %T", c)
		}
		go func() {
			defer func() { _ = c.Close() }()
			handle(tcp)
		}()
	}
}

// serveTarget is the service that is reached.
func serveTarget(c *net.TCPConn) {
	buf := make([]byte, 64)
	if _, err := io.ReadFull(c, buf[:1]); err != nil {
		return
	}
	switch buf[0] {
	case askFirst:
		_, _ = c.Write(buf[:1])
	case askEcho:
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	case askDown, askUp:
		down := buf[0] == askDown
		if _, err := io.ReadFull(c, buf[:8]); err != nil {
			return
		}
		left := int64(binary.BigEndian.Uint64(buf)) //nolint:gosec // the load's own number
		if _, err := c.Write(buf[:1]); err != nil {
			return
		}
		big := make([]byte, bulkBuffer)
		for left > 0 {
			part := big[:min(left, bulkBuffer)]
			move := c.Read
			if down {
				move = c.Write
			}
			n, err := move(part)
			if err != nil {
				return
			}
			left -= int64(n)
		}
		if !down {
			_, _ = c.Write(buf[:1])
		}
	}
}
