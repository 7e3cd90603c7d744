//go:build unix

package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// account is a user of this machine as whom programs are started.
type account struct {
	name  string
	home  string // absolute; may not exist
	shell string // absolute; may not exist
	uid   uint32
	// credential is what a program needs to run as this user; nil if that is the
	// user the agent runs as.
	credential *syscall.Credential
}

// The account file, and how much of it is read: 20 times the line of the longest
// home folder and shell that the system can open, and room for 50,000 users.
const (
	accountFile        = "/etc/passwd"
	maxAccountFileSize = 4 << 20
	maxAccountFileLine = 16 << 10
	defaultShell       = "/bin/sh" // what getpwnam(3) means by an empty field
)

// lookupAccount finds a user of this machine whom the agent is able to serve.
func lookupAccount(name string) (account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return account{}, fmt.Errorf("ssh user %q: %w", name, err)
	}
	shell, err := loginShell(accountFile, name)
	if err != nil {
		return account{}, fmt.Errorf("ssh user %q: %w", name, err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("ssh user %q: user id: %w", name, err)
	}
	a := account{name: name, home: u.HomeDir, shell: shell, uid: uint32(uid)}
	if !filepath.IsAbs(a.home) {
		a.home = "/"
	}
	switch os.Geteuid() {
	case int(uid):
		return a, nil
	case 0:
		a.credential, err = credential(u, uint32(uid))
		if err != nil {
			return account{}, fmt.Errorf("ssh user %q: %w", name, err)
		}
		return a, nil
	default:
		return account{}, fmt.Errorf("ssh user %q: only an agent that runs as root can serve another user than its own", name)
	}
}

// credential gives a program the user's groups and none of the agent's.
func credential(u *user.User, uid uint32) (*syscall.Credential, error) {
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("group id: %w", err)
	}
	c := &syscall.Credential{Uid: uid, Gid: uint32(gid), Groups: []uint32{uint32(gid)}}
	ids, err := u.GroupIds()
	if errors.Is(err, fs.ErrNotExist) { // a small system without /etc/group
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("groups: %w", err)
	}
	for _, id := range ids {
		g, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("group id: %w", err)
		}
		if g != gid {
			c.Groups = append(c.Groups, uint32(g))
		}
	}
	return c, nil
}

// loginShell returns the last field of the user's line in a file of the form of
// /etc/passwd, which os/user does not give. There must be such a line: a user
// from elsewhere may have a shell that lets nobody in.
func loginShell(file, name string) (string, error) {
	f, err := os.Open(file) //nolint:gosec // G304: a constant outside tests
	if err != nil {
		return "", fmt.Errorf("find the login shell: %w", err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(io.LimitReader(f, maxAccountFileSize))
	lines.Buffer(nil, maxAccountFileLine)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) != 7 || fields[0] != name {
			continue
		}
		shell := fields[6]
		if shell == "" {
			return defaultShell, nil
		}
		if !filepath.IsAbs(shell) {
			return "", fmt.Errorf("the login shell %q is not an absolute path", shell)
		}
		return shell, nil
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("find the login shell: read %s: %w", file, err)
	}
	return "", fmt.Errorf("find the login shell: there is no such user in %s", file)
}
