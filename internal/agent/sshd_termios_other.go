//go:build unix && !linux && !darwin

package agent

// setModes leaves the terminal as the kernel made it: clients put their own
// terminal in raw mode, and few programs ask for more.
func (*terminal) setModes([]mode) error { return nil }
