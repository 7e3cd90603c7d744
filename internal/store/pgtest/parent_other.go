//go:build unix && !linux

package pgtest

import "syscall"

// endWithParent has no equivalent here: the server is ended by stop alone.
func endWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{}
}
