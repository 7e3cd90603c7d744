package agent

import "golang.org/x/sys/unix"

// memorySize returns how many bytes of memory the machine has; 0 if it does not say.
func memorySize() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return uint64(info.Totalram) * uint64(info.Unit) //nolint:unconvert // of 32 bits on some machines
}
