//go:build !linux

package agent

// memorySize returns 0: it is known on Linux only.
func memorySize() uint64 { return 0 }
