//go:build unix

package agent

import (
	"net"
	"os"
	"os/user"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// TestReachSSH is the built-in SSH server at the end of a link. Its host key is known
// to ssh on the laptop before the first contact.
func TestReachSSH(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	b := newBed(t)
	dir, _ := b.login("kiosk")
	server := tunnel(t, "tcp://localhost:22")
	server.SSH = true
	device := connect(t, dir, server)
	await(t, device.connected)
	laptopDir := newDir(t)
	laptop := b.visit(laptopDir, "kiosk", 22)
	address := strings.TrimPrefix(await(t, laptop.listening), "tcp://")

	known, err := knownhosts.New(laptopDir.file(sshKnownFile))
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ClientConfig{User: me.Username, HostKeyCallback: known, HostKeyAlgorithms: []string{ssh.KeyAlgoED25519}, Timeout: soon}
	for range 2 { // the second one on a link that was used before
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(soon))
		c, channels, requests, err := ssh.NewClientConn(conn, address, config)
		if err != nil {
			t.Fatal(err)
		}
		client := ssh.NewClient(c, channels, requests)
		session, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if out, err := session.Output("echo hello"); err != nil || string(out) != "hello\n" {
			t.Errorf("%q, %v", out, err)
		}
		_ = client.Close()
	}
	if s, err := GetStatus(t.Context(), dir); err != nil || len(s.Tunnels) != 1 || !s.Tunnels[0].SSH || s.Tunnels[0].Links == 0 {
		t.Errorf("%+v, %v", s, err)
	}
	laptop.stop()
	device.stop()
}

func TestFilesOfOthersAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		skip(t, "needs root to give a file away")
	}
	dir := newDir(t)
	if err := dir.write(keyFile, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir.file(keyFile), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.read(keyFile, 10, true); err == nil {
		t.Error("another user's key was read")
	}
	if err := os.Chown(dir.Path(), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDir(dir.Path()); err == nil {
		t.Error("another user's folder was opened")
	}
}
