package pgtest

import "syscall"

// endWithParent has the kernel end the server at once when we die, even by SIGKILL.
func endWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
}
