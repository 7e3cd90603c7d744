//go:build !linux

package gateway

import (
	"context"
	"errors"
	"syscall"
)

// poller is not there: every channel has a goroutine that waits.
type poller struct{}

func (*poller) opened() bool                                 { return false }
func (*poller) open() error                                  { return errors.ErrUnsupported }
func (*poller) close()                                       {}
func (*poller) run(ctx context.Context, _ func(id uint64))   { <-ctx.Done() }
func (*poller) arm(_ syscall.RawConn, _ uint64) error        { return errors.ErrUnsupported }
func readNow(_ syscall.RawConn, _ []byte) (n int, err error) { return 0, errors.ErrUnsupported }
