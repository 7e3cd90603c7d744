package agent

import (
	"bufio"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// listeners are the sockets of this process that others can come to: TCP and UDP by
// address as the kernel writes it, and Unix ones by name.
func listeners(t *testing.T) (found []string) {
	t.Helper()
	mine := map[string]bool{}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil {
			if inode, ok := strings.CutPrefix(to, "socket:["); ok {
				mine[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	for _, table := range []struct {
		name                  string
		state, inode, address int    // the columns
		open                  string // of the state
	}{
		{"tcp", 3, 9, 1, "0A"},
		{"tcp6", 3, 9, 1, "0A"},
		{"udp", 3, 9, 1, "07"},
		{"udp6", 3, 9, 1, "07"},
		{"raw", 3, 9, 1, "07"},
		{"raw6", 3, 9, 1, "07"},
		{"unix", 3, 6, 7, "00010000"},
	} {
		text, err := os.ReadFile("/proc/self/net/" + table.name)
		if err != nil {
			continue // a machine without IPv6
		}
		for line := range strings.Lines(string(text)) {
			columns := strings.Fields(line)
			if len(columns) <= table.inode || columns[table.state] != table.open || !mine[columns[table.inode]] {
				continue
			}
			columns = append(columns, "without a name")
			found = append(found, table.name+" "+columns[table.address])
		}
	}
	slices.Sort(found)
	return found
}

// TestNoPageReachesTheAgent is what a page in a browser on the same machine could try:
// it can't come to a Unix socket, and there is nothing else.
func TestNoPageReachesTheAgent(t *testing.T) {
	b := newBed(t)
	dir, _ := b.login("sensor")
	server := tunnel(t, "tcp://localhost:22")
	server.SSH = true
	echoes := service(t, echo)
	before := listeners(t)
	if !slices.ContainsFunc(before, func(l string) bool { return strings.HasPrefix(l, "tcp ") }) {
		t.Fatalf("the bed's port is not among %q", before)
	}
	more := func(t *testing.T, want ...string) {
		t.Helper()
		got := slices.DeleteFunc(listeners(t), func(l string) bool { return slices.Contains(before, l) })
		if !slices.Equal(got, want) {
			t.Errorf("there are %q, want %q", got, want)
		}
	}
	device := connect(t, dir, server, echoes)
	await(t, device.connected)
	socket := dir.file(socketFile)
	t.Run("C-06 a device listens on its Unix socket alone", func(t *testing.T) {
		more(t, "unix "+socket)
		for path, want := range map[string]fs.FileMode{socket: fs.ModeSocket | 0o600, filepath.Dir(socket): fs.ModeDir | 0o700} {
			if info, err := os.Lstat(path); err != nil || info.Mode() != want {
				t.Errorf("%s: %v, %v", path, info, err)
			}
		}
	})
	t.Run("C-06 a laptop listens on the port that was asked for, on loopback", func(t *testing.T) {
		laptop := b.visit(newDir(t), "sensor", echoes.Destination.Port)
		url := await(t, laptop.listening)
		_, port, err := net.SplitHostPort(strings.TrimPrefix(url, "tcp://"))
		if err != nil {
			t.Fatal(err)
		}
		got := slices.DeleteFunc(listeners(t), func(l string) bool { return slices.Contains(before, l) || l == "unix "+socket })
		for _, l := range got {
			if !strings.HasPrefix(l, "tcp 0100007F:") && !strings.HasPrefix(l, "tcp6 00000000000000000000000001000000:") {
				t.Errorf("%s is not on loopback", l)
			}
		}
		if len(got) < 1 || len(got) > 2 {
			t.Errorf("%s listens as %q", port, got)
		}
		laptop.stop()
		more(t, "unix "+socket)
	})
	// Were there a way for a page to the socket, what it can send would be no command.
	for name, request := range map[string]string{
		"a form":            "POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nContent-Type: text/plain\r\nContent-Length: 17\r\n\r\n{\"op\":\"logout\"}\n\n",
		"a form's one line": "POST /{\"op\":\"logout\"} HTTP/1.1\r\n{\"op\":\"logout\"}\n",
		"DNS rebinding":     "GET /status HTTP/1.1\r\nHost: evil.example\r\n\r\n{\"op\":\"logout\"}\n",
		"a WebSocket":       "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n{\"op\":\"logout\"}\n",
		"a pre-flight":      "OPTIONS / HTTP/1.1\r\nHost: localhost\r\nAccess-Control-Request-Method: POST\r\n\r\n{\"op\":\"logout\"}\n",
	} {
		t.Run("C-06 "+name, func(t *testing.T) {
			c, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(soon))
			go func() { _, _ = io.WriteString(c, request) }()
			r := bufio.NewReader(c)
			answer, _ := r.ReadString('\n')
			if rest, _ := io.ReadAll(r); !strings.Contains(answer, `"error"`) || len(rest) > 0 {
				t.Errorf("answered %q %q", answer, rest)
			}
		})
	}
	t.Run("C-06 nothing came of it", func(t *testing.T) {
		if _, err := dir.Key(); err != nil || b.online() == nil {
			t.Errorf("the device is logged out: %v", err)
		}
		device.stop()
		more(t)
	})
}
