//go:build linux || darwin

package agent

import "golang.org/x/sys/unix"

// What the opcodes stand for; some are not on every system. Speeds (128, 129) mean
// nothing where there is no line.
var (
	modeChars = map[byte]int{
		1: unix.VINTR, 2: unix.VQUIT, 3: unix.VERASE, 4: unix.VKILL, 5: unix.VEOF, 6: unix.VEOL, 7: unix.VEOL2, 8: unix.VSTART,
		9: unix.VSTOP, 10: unix.VSUSP, 12: unix.VREPRINT, 13: unix.VWERASE, 14: unix.VLNEXT, 18: unix.VDISCARD,
	}
	modeInput = map[byte]modeFlag{
		30: unix.IGNPAR, 31: unix.PARMRK, 32: unix.INPCK, 33: unix.ISTRIP, 34: unix.INLCR, 35: unix.IGNCR, 36: unix.ICRNL,
		38: unix.IXON, 39: unix.IXANY, 40: unix.IXOFF, 41: unix.IMAXBEL, 42: unix.IUTF8,
	}
	modeLocal = map[byte]modeFlag{
		50: unix.ISIG, 51: unix.ICANON, 53: unix.ECHO, 54: unix.ECHOE, 55: unix.ECHOK, 56: unix.ECHONL, 57: unix.NOFLSH,
		58: unix.TOSTOP, 59: unix.IEXTEN, 60: unix.ECHOCTL, 61: unix.ECHOKE, 62: unix.PENDIN,
	}
	modeOutput  = map[byte]modeFlag{70: unix.OPOST, 72: unix.ONLCR, 73: unix.OCRNL, 74: unix.ONOCR, 75: unix.ONLRET}
	modeControl = map[byte]modeFlag{92: unix.PARENB, 93: unix.PARODD}
)

func setModeFlag[T ~uint32 | ~uint64](flags *T, flag modeFlag, on bool) {
	if on {
		*flags |= T(flag)
	} else {
		*flags &^= T(flag)
	}
}

// apply sets the modes that this system knows; the others do no harm.
func applyModes(t *unix.Termios, modes []mode) {
	for _, m := range modes {
		on := m.value != 0
		if at, ok := modeChars[m.opcode]; ok {
			t.Cc[at] = noChar // of which the client says 255
			if m.value < 255 {
				t.Cc[at] = uint8(m.value)
			}
		} else if flag, ok := modeInput[m.opcode]; ok {
			setModeFlag(&t.Iflag, flag, on)
		} else if flag, ok := modeLocal[m.opcode]; ok {
			setModeFlag(&t.Lflag, flag, on)
		} else if flag, ok := modeOutput[m.opcode]; ok {
			setModeFlag(&t.Oflag, flag, on)
		} else if flag, ok := modeControl[m.opcode]; ok {
			setModeFlag(&t.Cflag, flag, on)
		} else if (m.opcode == mode7Bit || m.opcode == mode8Bit) && on {
			t.Cflag &^= unix.CSIZE
			t.Cflag |= map[byte]modeWord{mode7Bit: unix.CS7, mode8Bit: unix.CS8}[m.opcode]
		}
	}
}

// setModes applies a client's modes to the terminal.
func (t *terminal) setModes(modes []mode) error {
	if len(modes) == 0 {
		return nil
	}
	now, err := unix.IoctlGetTermios(int(t.slave.Fd()), getTermios)
	if err != nil {
		return err
	}
	applyModes(now, modes)
	return unix.IoctlSetTermios(int(t.slave.Fd()), setTermios, now)
}
