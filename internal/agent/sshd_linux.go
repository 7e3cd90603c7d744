package agent

import (
	"bytes"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// awaitExit returns when the process has ended, and true if it was left unreaped:
// until it is, neither its number nor its group's can become another's.
func awaitExit(pid int) bool {
	for {
		if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
}

// inSession reports whether the group has a process of the session.
func inSession(group, session int) bool {
	folder, err := os.Open("/proc")
	if err != nil {
		return false
	}
	defer func() { _ = folder.Close() }()
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return false
	}
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat") //nolint:gosec // G304: a process's number
		if err != nil {
			continue
		}
		// After the name, which may hold anything: state, parent, group, session.
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) > 3 && string(fields[2]) == strconv.Itoa(group) && string(fields[3]) == strconv.Itoa(session) {
			return true
		}
	}
	return false
}
