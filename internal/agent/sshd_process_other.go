//go:build unix && !linux

package agent

import "golang.org/x/sys/unix"

// awaitExit returns false: nothing was waited for. Once the process is reaped, its
// group is out of reach.
func awaitExit(int) bool { return false }

// inSession reports whether the group's first process, if it is there, belongs to
// the session.
func inSession(group, session int) bool {
	s, err := unix.Getsid(group)
	return err == nil && s == session
}
