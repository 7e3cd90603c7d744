//go:build unix

package agent

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"socketxp"
	"socketxp/internal/control"
)

// keyBed is a device whose sshd the gateway may be let in to.
type keyBed struct {
	*bed
	agent  *agentRun
	dir    *Dir
	log    *lockedBuffer
	home   string
	keys   string // authorized_keys
	user   string
	server Tunnel // with single-use keys
	conn   *control.Conn
	o      ConnectOptions
}

// sshGreeting is a service that says what it is and no more.
func sshGreeting(text string) func(*net.TCPConn) {
	return func(c *net.TCPConn) { _, _ = c.Write([]byte(text)) }
}

// newKeyBed connects a device that serves name, with the home folder that prepare has
// made something of. It publishes server, if that is a tunnel, with single-use keys,
// and all others.
func newKeyBed(t *testing.T, name string, server Tunnel, prepare func(home string), others ...Tunnel) *keyBed {
	t.Helper()
	b := &keyBed{bed: newBed(t), log: new(lockedBuffer), user: name, home: filepath.Join(openDir(t), "home")}
	b.keys = filepath.Join(b.home, ".ssh", "authorized_keys")
	as, err := lookupAccount(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(b.home, 0o755); err != nil {
		t.Fatal(err)
	}
	chown(t, b.home, as)
	if prepare != nil {
		prepare(b.home)
	}
	if server.Destination.Port == 0 {
		server = service(t, sshGreeting("SSH-2.0-OpenSSH_9.2p1 Debian\r\n"))
	}
	server.SingleUseKeys = true
	if as.credential != nil {
		server.Users = []string{name}
	}
	b.server = server
	b.dir, _ = b.login("kiosk")
	b.o = ConnectOptions{Dir: b.dir, Log: slog.New(slog.NewTextHandler(b.log, nil)), Tunnels: append([]Tunnel{server}, others...), lookup: func(name string) (account, error) {
		a, err := lookupAccount(name)
		a.home = b.home
		return a, err
	}}
	if as.credential != nil {
		b.o.executable = openExecutable(t)
	}
	b.connect()
	return b
}

func (b *keyBed) connect() {
	b.t.Helper()
	b.agent = connectWith(b.t, b.o)
	await(b.t, b.agent.connected)
	until(b.t, func() error {
		b.conn = b.deviceByName("kiosk").conn
		return yes(b.conn != nil)
	})
}

func chown(t *testing.T, path string, as account) {
	t.Helper()
	if as.credential == nil {
		return
	}
	if err := os.Lchown(path, int(as.uid), int(as.credential.Gid)); err != nil {
		t.Fatal(err)
	}
}

// request is a good PlaceKey of a fresh key, and the key.
func (b *keyBed) request() (control.PlaceKey, ssh.Signer) {
	b.t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		b.t.Fatal(err)
	}
	return control.PlaceKey{ID: socketxp.NewID(time.Now()), Destination: b.server.Destination.String(), User: b.user, PublicKey: public, Life: 60}, signer
}

func (b *keyBed) send(m control.Message) {
	b.t.Helper()
	if err := b.conn.Send(b.t.Context(), m); err != nil {
		b.t.Fatal(err)
	}
}

// answer is what the device says next of single-use keys.
func (b *keyBed) answer() control.Message {
	b.t.Helper()
	return await(b.t, b.keyAnswers)
}

// place has a key placed.
func (b *keyBed) place() (control.PlaceKey, ssh.Signer) {
	b.t.Helper()
	m, signer := b.request()
	b.send(m)
	if got, want := b.answer(), (control.KeyPlaced{ID: m.ID, User: b.user}); got != want {
		b.t.Fatalf("%+v", got)
	}
	return m, signer
}

func (b *keyBed) remove(id string) {
	b.t.Helper()
	b.send(control.RemoveKey{ID: id})
	if got := b.answer(); got != (control.KeyRemoved{ID: id}) {
		b.t.Fatalf("%+v", got)
	}
}

// refused has a key refused.
func (b *keyBed) refused(change func(*control.PlaceKey)) control.KeyNotPlaced {
	b.t.Helper()
	m, _ := b.request()
	if change != nil {
		change(&m)
	}
	b.send(m)
	got, ok := b.answer().(control.KeyNotPlaced)
	if !ok || got.ID != m.ID {
		b.t.Fatalf("%+v", got)
	}
	return got
}

func text(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// is waits until a file has a text; "none" is that there is no file.
func is(t *testing.T, path, want string) {
	t.Helper()
	until(t, func() error {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			data, err = []byte("none"), nil
		}
		if err == nil && string(data) != want {
			err = fmt.Errorf("%s is %q, not %q", path, data, want)
		}
		return err
	})
}

func me(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}

// debianSSHD runs OpenSSH's server, which takes the keys of a file.
func debianSSHD(t *testing.T, address, keys string) (port int, host ssh.PublicKey) {
	t.Helper()
	needSSHD(t)
	dir := openDir(t)
	mustRun(t, exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", filepath.Join(dir, "host")))
	host, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text(t, filepath.Join(dir, "host.pub"))))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "config"), fmt.Sprintf(`HostKey %s/host
AuthorizedKeysFile %s
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
`, dir, keys), 0o600)
	return serveSSHD(t, address, filepath.Join(dir, "config")), host
}

// theirs is a file of a user's, with an end that has no line break.
const theirs = "# mine\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJ me@laptop\n\n\tcommand=\"x\" ssh-rsa AAAA socketxp-single-use\r\n# \xff end"

func TestSingleUseKeySignsIn(t *testing.T) {
	t.Parallel()
	home := filepath.Join(openDir(t), "home")
	keys := filepath.Join(home, ".ssh", "authorized_keys")
	port, host := debianSSHD(t, "0.0.0.0:0", keys)
	server := tunnel(t, "tcp://127.0.0.1:"+strconv.Itoa(port))
	b := newKeyBed(t, me(t), server, nil)
	// sshd was there first: the home folder is the one that it looks in.
	b.agent.stop()
	b.home, b.keys = home, keys
	for _, dir := range []string{home, filepath.Dir(keys)} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, keys, theirs, 0o640)
	b.connect()
	dial := func(address string, signer ssh.Signer) (*ssh.Client, error) {
		return ssh.Dial("tcp", net.JoinHostPort(address, strconv.Itoa(port)), &ssh.ClientConfig{
			User: b.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(host), Timeout: soon,
		})
	}

	m, signer := b.place()
	c, err := dial("127.0.0.1", signer)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if addr := elsewhere(t); addr != "" {
		if _, err := dial(addr, signer); err == nil {
			t.Error("the key is good from elsewhere than this machine")
		}
	}
	b.remove(m.ID)
	if got := text(t, keys); got != theirs {
		t.Errorf("authorized_keys is %q", got)
	}
	if info, err := os.Stat(keys); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := dial("127.0.0.1", signer); err == nil {
		t.Error("the key is good for a second sign-in")
	}

	// What it has opened lives on, and may do what a terminal and its files need.
	s := newSession(t, c)
	if err := s.RequestPty("xterm", 24, 80, nil); err != nil {
		t.Error(err)
	}
	if out, err := s.Output("test -t 0 && id -un"); err != nil || strings.TrimSpace(string(out)) != b.user {
		t.Errorf("%q, %v", out, err)
	}
	if err := newSession(t, c).RequestSubsystem("sftp"); err != nil {
		t.Error(err)
	}
	if _, err := c.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port)); err == nil {
		t.Error("it forwards ports")
	}
	if _, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
		t.Error("it listens for others")
	}
	if ok, err := newSession(t, c).SendRequest(agentRequest, true, nil); ok || err != nil {
		t.Errorf("it forwards the ssh agent: %t, %v", ok, err)
	}

	t.Run("what a killed agent has left behind expires", func(t *testing.T) {
		for _, greeting := range []string{"SSH-2.0-OpenSSH_9.2p1", "SSH-2.0-OpenSSH_8.4p1"} { // this one reads both
			_, signer := b.request()
			key := signer.PublicKey().(ssh.CryptoPublicKey).CryptoPublicKey().(ed25519.PublicKey)
			for _, c := range []struct {
				at   time.Time
				good bool
			}{{time.Now().Add(time.Minute), true}, {time.Now().Add(-time.Second), false}} {
				expiry, err := expiryFor(greeting, c.at, machineZone())
				if err != nil {
					t.Fatal(err)
				}
				line, err := keyLine(m.ID, key, expiry)
				if err != nil {
					t.Fatal(err)
				}
				write(t, keys, string(withKey([]byte(theirs), line)), 0o600)
				client, err := dial("127.0.0.1", signer)
				if (err == nil) != c.good {
					t.Errorf("%s, until %v: %v", greeting, c.at, err)
				}
				if err == nil {
					_ = client.Close()
				}
			}
		}
	})
}

// elsewhere is an address of this machine by which connections come from it, not from
// loopback; "" if there is none.
func elsewhere(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	return ""
}

func TestSingleUseKeyHostileGateway(t *testing.T) {
	t.Parallel()
	builtin, closedTo, elsewhere := tunnel(t, "tcp://localhost:2222"), service(t, sshGreeting("SSH-2.0-OpenSSH_9.2p1\r\n")), tunnel(t, "tcp://192.0.2.1:22")
	builtin.SSH, builtin.Policy = true, DefaultSSHPolicy()
	web, silent, old, bear := service(t, sshGreeting("HTTP/1.1 400 Bad Request\r\n")), service(t, sshGreeting("")), service(t, sshGreeting("SSH-2.0-OpenSSH_7.6\r\n")), service(t, sshGreeting("SSH-2.0-dropbear_2022.83\r\n"))
	for _, t := range []*Tunnel{&web, &silent, &old, &bear} {
		t.SingleUseKeys = true
	}
	odd := service(t, sshGreeting("SSH-2.0-OpenSSH_9.2p1\r\n"))
	odd.SingleUseKeys, odd.Users = true, []string{"ops+iot"}
	gone := service(t, echo)
	b := newKeyBed(t, me(t), Tunnel{}, nil, builtin, closedTo, elsewhere, web, silent, old, bear, odd, gone)
	at := func(d string) func(*control.PlaceKey) { return func(m *control.PlaceKey) { m.Destination = d } }
	for _, c := range []struct {
		name   string
		change func(*control.PlaceKey)
		want   socketxp.Code
	}{
		{"a port that is not published", at("tcp://127.0.0.1:22"), socketxp.CodeNotPublished},
		{"a published port by another name", at("tcp://localhost:" + strconv.Itoa(b.server.Destination.Port)), socketxp.CodeNotPublished},
		{"the built-in server", at(builtin.Destination.String()), socketxp.CodeInvalid},
		{"a tunnel without single-use keys", at(closedTo.Destination.String()), socketxp.CodeForbidden},
		{"another machine", at(elsewhere.Destination.String()), socketxp.CodeForbidden},
		{"another user", func(m *control.PlaceKey) { m.User = "daemon" }, socketxp.CodeForbidden},
		{"a user that is not there", func(m *control.PlaceKey) { m.User = "no-such-user" }, socketxp.CodeForbidden},
		{"a user whose name the protocol has no room for", func(m *control.PlaceKey) { m.Destination, m.User = odd.Destination.String(), "" }, socketxp.CodeInvalid},
		{"what is no SSH server", at(web.Destination.String()), socketxp.CodeInvalid},
		{"what says nothing", at(silent.Destination.String()), socketxp.CodeDialFailed},
		{"an sshd that knows no expiry", at(old.Destination.String()), socketxp.CodeInvalid},
		{"another server", at(bear.Destination.String()), socketxp.CodeInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			if no := b.refused(c.change); no.Code != c.want || no.Message == "" {
				t.Errorf("%+v", no)
			}
			if entries, err := os.ReadDir(b.home); err != nil || len(entries) != 0 {
				t.Errorf("it left %v, %v", entries, err)
			}
		})
	}
	t.Run("an id that is in use", func(t *testing.T) {
		m, _ := b.place()
		if no := b.refused(func(n *control.PlaceKey) { n.ID = m.ID }); no.Code != socketxp.CodeConflict {
			t.Errorf("%+v", no)
		}
		b.remove(m.ID)
	})
	t.Run("a key that is not there", func(t *testing.T) { b.remove(socketxp.NewID(time.Now())) })
	t.Run("a flood", func(t *testing.T) {
		placed, limited := 0, 0
		for range 2 * singleUseBurst {
			m, _ := b.request()
			b.send(m)
			switch a := b.answer().(type) {
			case control.KeyPlaced:
				if placed++; placed == 5 {
					b.remove(m.ID)
				}
			case control.KeyNotPlaced:
				if limited++; a.Code != socketxp.CodeRateLimited {
					t.Errorf("%+v", a)
				}
			}
		}
		if placed != maxSingleUseKeys+1 || limited == 0 { // one was given back
			t.Errorf("%d keys were placed, %d refused", placed, limited)
		}
		if n := strings.Count(text(t, b.keys), keyMark); n != maxSingleUseKeys {
			t.Errorf("%d are in place", n)
		}
		b.agent.stop()
		is(t, b.keys, "none") // it was made for them
	})
}

func TestSingleUseKeysAreRare(t *testing.T) {
	t.Parallel()
	s := newSingleUseKeys(&device{dir: newDir(t), log: slog.New(slog.DiscardHandler)}, "")
	now := time.Now()
	s.now = func() time.Time { return now }
	placed := func() (n int) {
		for range 2 * singleUseBurst {
			k, err := s.enter(socketxp.NewID(now), "pi")
			if err == nil {
				n++
				close(k.gone)
				s.leave(k)
			} else if socketxp.CodeOf(err) != socketxp.CodeRateLimited {
				t.Error(err)
			}
		}
		return n
	}
	if n := placed(); n != singleUseBurst {
		t.Errorf("%d at once", n)
	}
	now = now.Add(5*singleUsePace + singleUsePace/2)
	if n := placed(); n != 5 {
		t.Errorf("%d a while later", n)
	}
	now = now.Add(time.Hour)
	if n := placed(); n != singleUseBurst {
		t.Errorf("%d after a pause", n)
	}
}

// TestSingleUseKeyHostileUser has a root agent serve a user who would like it to write,
// or read, what is not the user's.
func TestSingleUseKeyHostileUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		skip(t, "only root can serve other users")
	}
	nobody, err := lookupAccount("nobody")
	if err != nil {
		t.Fatal(err)
	}
	own := func(t *testing.T, home string) string {
		t.Helper()
		dir := filepath.Join(home, ".ssh")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		chown(t, dir, nobody)
		return dir
	}
	for name, c := range map[string]struct {
		prepare func(t *testing.T, home, victim string)
		want    string
	}{
		"~/.ssh leads to a folder of root's": {func(t *testing.T, home, victim string) {
			plant(t, os.Symlink, filepath.Dir(victim), filepath.Join(home, ".ssh"))
		}, "is a link"},
		"~/.ssh leads to a folder of the user's own": {func(t *testing.T, home, _ string) {
			own(t, home)
			if err := os.Rename(filepath.Join(home, ".ssh"), filepath.Join(home, "real")); err != nil {
				t.Fatal(err)
			}
			plant(t, os.Symlink, "real", filepath.Join(home, ".ssh"))
		}, "is a link"},
		"~/.ssh leads nowhere": {func(t *testing.T, home, victim string) {
			plant(t, os.Symlink, filepath.Join(filepath.Dir(victim), "new"), filepath.Join(home, ".ssh"))
		}, "is a link"},
		"~/.ssh is root's": {func(t *testing.T, home, _ string) {
			if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(filepath.Join(home, ".ssh"), 0o777); err != nil {
				t.Fatal(err)
			}
		}, "does not belong"},
		"~/.ssh is a file": {func(t *testing.T, home, _ string) {
			write(t, filepath.Join(home, ".ssh"), "x", 0o600)
			chown(t, filepath.Join(home, ".ssh"), nobody)
		}, "not a folder"},
		"authorized_keys leads to a file of root's": {func(t *testing.T, home, victim string) {
			plant(t, os.Symlink, victim, filepath.Join(own(t, home), "authorized_keys"))
		}, "is a link"},
		"authorized_keys leads to a file that is not there": {func(t *testing.T, home, victim string) {
			plant(t, os.Symlink, victim+".new", filepath.Join(own(t, home), "authorized_keys"))
		}, "is a link"},
		"authorized_keys is a hard link of root's file": {func(t *testing.T, home, victim string) {
			plant(t, os.Link, victim, filepath.Join(own(t, home), "authorized_keys"))
		}, "permission denied"},
		"authorized_keys is a hard link of the user's file": {func(t *testing.T, home, _ string) {
			path := filepath.Join(home, "file")
			write(t, path, "x", 0o600)
			chown(t, path, nobody)
			plant(t, os.Link, path, filepath.Join(own(t, home), "authorized_keys"))
		}, "several names"},
		"authorized_keys is a file of root's that all may read": {func(t *testing.T, home, _ string) {
			write(t, filepath.Join(own(t, home), "authorized_keys"), "root's", 0o644)
		}, "does not belong"},
		"authorized_keys is a pipe": {func(t *testing.T, home, _ string) {
			path := filepath.Join(own(t, home), "authorized_keys")
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
			chown(t, path, nobody)
		}, "not a plain file"},
		"authorized_keys is a folder": {func(t *testing.T, home, _ string) {
			path := filepath.Join(own(t, home), "authorized_keys")
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
			chown(t, path, nobody)
		}, "not a plain file"},
		"authorized_keys is huge": {func(t *testing.T, home, _ string) {
			path := filepath.Join(own(t, home), "authorized_keys")
			write(t, path, "x", 0o600)
			chown(t, path, nobody)
			if err := os.Truncate(path, 1<<40); err != nil {
				t.Fatal(err)
			}
		}, "larger than"},
		"the lock is held for ever": {func(t *testing.T, home, _ string) {
			f, err := os.Open(own(t, home))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = f.Close() })
			if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
				t.Fatal(err)
			}
		}, "did not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			victim := filepath.Join(openDir(t), "authorized_keys")
			write(t, victim, "root's", 0o600)
			b := newKeyBed(t, "nobody", Tunnel{}, func(home string) { c.prepare(t, home, victim) })
			if no := b.refused(nil); !strings.Contains(no.Message, c.want) || no.Code != socketxp.CodeInvalid {
				t.Errorf("%+v", no)
			}
			info, err := os.Stat(victim)
			if err != nil || text(t, victim) != "root's" || info.Mode() != 0o600 || info.Sys().(*syscall.Stat_t).Uid != 0 {
				t.Errorf("the file of root's has changed: %v", err)
			}
			entries, err := os.ReadDir(filepath.Dir(victim))
			if err != nil || len(entries) != 1 {
				t.Errorf("root's folder has %v, %v", entries, err)
			}
			// The agent is what it was.
			b.agent.stop()
		})
	}
	t.Run("what is written is the user's", func(t *testing.T) {
		t.Parallel()
		victim := filepath.Join(openDir(t), "victim")
		write(t, victim, "root's", 0o666)
		for _, c := range []struct {
			prepare func(home string)
			before  string
		}{
			{nil, "none"},
			{func(home string) {
				dir := own(t, home)
				write(t, filepath.Join(dir, "authorized_keys"), theirs, 0o600)
				chown(t, filepath.Join(dir, "authorized_keys"), nobody)
				plant(t, os.Symlink, victim, filepath.Join(dir, stagedKeysFile)) // where the text is written at first
			}, theirs},
		} {
			b := newKeyBed(t, "nobody", Tunnel{}, c.prepare)
			m, _ := b.place()
			for path, mode := range map[string]fs.FileMode{filepath.Dir(b.keys): fs.ModeDir | 0o700, b.keys: 0o600} {
				info, err := os.Lstat(path)
				if err != nil {
					t.Fatal(err)
				}
				if st := info.Sys().(*syscall.Stat_t); info.Mode() != mode || st.Uid != nobody.uid || st.Gid != nobody.credential.Gid {
					t.Errorf("%s: %v of %d:%d", path, info.Mode(), st.Uid, st.Gid)
				}
			}
			b.remove(m.ID)
			is(t, b.keys, c.before)
			if text(t, victim) != "root's" {
				t.Error("it wrote through a link")
			}
		}
	})
}

func plant(t *testing.T, how func(from, to string) error, from, to string) {
	t.Helper()
	if err := how(from, to); err != nil {
		t.Fatal(err)
	}
}

func TestSingleUseKeyGoes(t *testing.T) {
	t.Parallel()
	begin := func(t *testing.T) *keyBed {
		t.Helper()
		return newKeyBed(t, me(t), Tunnel{}, func(home string) {
			if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(home, ".ssh", "authorized_keys"), theirs, 0o600)
		})
	}
	t.Run("when its life is over", func(t *testing.T) {
		t.Parallel()
		b := begin(t)
		for life := 1; ; life *= 2 { // a busy machine needs longer than one that is over soon
			m, _ := b.request()
			m.Life = life
			b.send(m)
			if got := b.answer(); got == (control.KeyPlaced{ID: m.ID, User: b.user}) {
				break
			} else if life > 32 {
				t.Fatalf("%+v", got)
			}
		}
		is(t, b.keys, theirs)
		is(t, b.dir.file(singleUseFile), `{"keys":[]}`)
	})
	t.Run("when the control channel ends", func(t *testing.T) {
		t.Parallel()
		b := begin(t)
		b.place()
		b.with(b.drop)
		is(t, b.keys, theirs)
	})
	t.Run("when the agent ends", func(t *testing.T) {
		t.Parallel()
		b := begin(t)
		b.place()
		b.place()
		b.agent.stop()
		if got := text(t, b.keys); got != theirs {
			t.Errorf("%q", got)
		}
	})
	t.Run("when its tunnel ends", func(t *testing.T) {
		t.Parallel()
		b := begin(t)
		other := service(t, sshGreeting("SSH-2.0-OpenSSH_9.2p1\r\n"))
		other.SingleUseKeys = true
		second := connectWith(t, ConnectOptions{Dir: b.dir, Tunnels: []Tunnel{other}})
		await(t, second.connected)
		m, _ := b.request()
		m.Destination = other.Destination.String()
		b.send(m)
		if got := b.answer(); got != (control.KeyPlaced{ID: m.ID, User: b.user}) {
			t.Fatalf("%+v", got)
		}
		second.stop()
		is(t, b.keys, theirs)
	})
	t.Run("when the agent starts again after kill -9", func(t *testing.T) {
		t.Parallel()
		b := begin(t)
		b.place()
		b.place()
		keys, list := text(t, b.keys), text(t, b.dir.file(singleUseFile))
		if strings.Count(keys, keyMark) != 2 {
			t.Fatalf("%q", keys)
		}
		b.agent.stop()
		// The disk as it would be then, and a key of another agent's.
		other := strings.Replace(strings.SplitAfter(keys, "\n")[0], keyMark, keyMark+"0", 1)
		write(t, b.keys, keys+"\n"+other, 0o600)
		write(t, b.dir.file(singleUseFile), list, 0o600)
		b.o.Tunnels[0].SingleUseKeys = false // which is no reason to leave them
		b.connect()
		is(t, b.keys, theirs+"\n"+other)
		is(t, b.dir.file(singleUseFile), `{"keys":[]}`)
	})
	t.Run("with the next one, if it could not be taken away", func(t *testing.T) {
		t.Parallel()
		b := begin(t)
		m, _ := b.place()
		second := filepath.Join(b.home, "second")
		plant(t, os.Link, b.keys, second)
		b.send(control.RemoveKey{ID: m.ID})
		until(t, func() error { // its tries are over
			return yes(strings.Contains(b.log.String(), "try="+strconv.Itoa(removeTries)))
		})
		if list := text(t, b.dir.file(singleUseFile)); !strings.Contains(list, m.ID) {
			t.Errorf("it is forgotten: %s", list)
		}
		b.send(control.RemoveKey{ID: m.ID}) // is not answered: the key is still there
		if err := os.Remove(second); err != nil {
			t.Fatal(err)
		}
		n, _ := b.place()
		if got := text(t, b.keys); strings.Contains(got, m.ID) {
			t.Errorf("%q", got)
		}
		b.remove(n.ID)
		is(t, b.keys, theirs)
	})
	t.Run("and others stay", func(t *testing.T) {
		t.Parallel()
		b := begin(t)
		var ids []string
		for range 5 {
			m, _ := b.request()
			ids = append(ids, m.ID)
			b.send(m)
		}
		for range ids {
			if _, ok := b.answer().(control.KeyPlaced); !ok {
				t.Fatal("a key was refused")
			}
		}
		// Somebody adds a line meanwhile.
		f, err := os.OpenFile(b.keys, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString("\n# more\n")
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		for i, id := range ids {
			b.remove(id)
			got := text(t, b.keys)
			if strings.Contains(got, id) || strings.Count(got, keyMark) != len(ids)-1-i {
				t.Fatalf("%q", got)
			}
		}
		is(t, b.keys, theirs+"\n# more\n")
	})
}

// TestKeyEditMeetsAnother has somebody change the file between reading and writing.
func TestKeyEditMeetsAnother(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	dir, err := openSSHFolder(home, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	keys := filepath.Join(dir.Name(), authorizedKeysFile)
	write(t, keys, "a\n", 0o600)
	f, old, err := openKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	write(t, keys, "a\nb\n", 0o600)
	if err := stageKeys(dir, []byte("x\na\n"), old); !errors.Is(err, errKeysChanged) {
		t.Errorf("%v", err)
	}
	if got := text(t, keys); got != "a\nb\n" {
		t.Errorf("%q", got)
	}
}

func TestExpiryFor(t *testing.T) {
	t.Parallel()
	at, zone := time.Date(2026, 12, 31, 23, 30, 5, 0, time.UTC), time.FixedZone("", 3600)
	for greeting, want := range map[string]string{
		"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u10\r\n": "20261231233005Z",
		"SSH-2.0-OpenSSH_9.1\r\n":                     "20261231233005Z",
		"SSH-2.0-OpenSSH_10.0p2 Debian-7\r\n":         "20261231233005Z",
		"SSH-2.0-OpenSSH_9.0p1\r\n":                   "20270101003005",
		"SSH-2.0-OpenSSH_7.9p1 Raspbian\r\n":          "20270101003005",
		"SSH-2.0-OpenSSH_7.7\r\n":                     "20270101003005",
		"SSH-2.0-OpenSSH_7.6p1\r\n":                   "",
		"SSH-2.0-OpenSSH_6.10\r\n":                    "",
		"SSH-1.99-OpenSSH_9.2\r\n":                    "",
		"SSH-2.0-OpenSSH_9.2222\r\n":                  "",
		"SSH-2.0-OpenSSH_9.\r\n":                      "",
		"SSH-2.0-dropbear_2022.83\r\n":                "",
		" SSH-2.0-OpenSSH_9.2\r\n":                    "",
		"":                                            "",
	} {
		got, err := expiryFor(greeting, at, zone)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", greeting, got, err)
		}
	}
}

// FuzzAuthorizedKeys places a key in a file of a user's, and takes it away.
func FuzzAuthorizedKeys(f *testing.F) {
	const id, another = "01a20baf-20ae-7456-abf9-67d074fdbbf2", "01a20baf-20ae-7cd7-bd94-a53a4dd76c2f"
	f.Add([]byte(theirs), "SSH-2.0-OpenSSH_9.2p1\r\n")
	f.Add([]byte(""), "SSH-2.0-OpenSSH_8.4p1")
	f.Add([]byte("restrict,pty,x "+keyMark+another+"\r\n\r\n"), "SSH-2.0-OpenSSH_999.999")
	f.Fuzz(func(t *testing.T, before []byte, greeting string) {
		if expiry, err := expiryFor(greeting, time.Now(), time.UTC); err == nil && strings.Trim(expiry, "0123456789Z") != "" {
			t.Errorf("%q: %q", greeting, expiry)
		}
		if bytes.Contains(before, []byte(id)) {
			return
		}
		line, err := keyLine(id, make([]byte, ed25519.PublicKeySize), "20260101000000Z")
		if err != nil {
			t.Fatal(err)
		}
		with := withKey(bytes.Clone(before), line)
		if key, comment, options, _, err := ssh.ParseAuthorizedKey(with); err != nil || key.Type() != ssh.KeyAlgoED25519 || comment != keyMark+id || len(options) != 4 {
			t.Errorf("%q: %v, %q, %q, %v", line, key, comment, options, err)
		}
		if got := withoutKeys(with, []string{another, id}); !bytes.Equal(got, withoutKeys(before, []string{another})) {
			t.Errorf("%q became %q", before, got)
		}
		left := withoutKeys(before, []string{another})
		for line := range bytes.Lines(before) {
			text := strings.TrimRight(string(line), "\r\n")
			if strings.HasPrefix(text, "restrict,pty,") && strings.HasSuffix(text, " "+keyMark+another) {
				continue
			}
			var there bool
			if left, there = bytes.CutPrefix(left, line); !there {
				t.Fatalf("%q is taken away from %q", line, before)
			}
		}
		if len(left) > 0 {
			t.Errorf("%q is left of %q", left, before)
		}
		if got := withoutKeys(with, nil); !bytes.Equal(got, with) {
			t.Errorf("%q became %q", with, got)
		}
	})
}
