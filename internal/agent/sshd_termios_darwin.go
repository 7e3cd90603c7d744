package agent

import "golang.org/x/sys/unix"

type (
	modeFlag uint64
	modeWord = uint64
)

const getTermios, setTermios = unix.TIOCGETA, unix.TIOCSETA

const noChar = 0xff // _POSIX_VDISABLE

func init() {
	modeChars[11] = unix.VDSUSP
	modeChars[17] = unix.VSTATUS
}
