//go:build unix

package agent

import "golang.org/x/sys/unix"

// kernel returns the kernel's version, as uname -r does.
func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
