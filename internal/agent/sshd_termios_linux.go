package agent

import "golang.org/x/sys/unix"

type (
	modeFlag uint32
	modeWord = uint32
)

const getTermios, setTermios = unix.TCGETS, unix.TCSETS

const noChar = 0 // _POSIX_VDISABLE

func init() {
	modeInput[37] = unix.IUCLC
	modeLocal[52] = unix.XCASE
	modeOutput[71] = unix.OLCUC
}
