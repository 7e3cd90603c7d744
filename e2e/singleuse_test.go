package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/crypto/ssh"

	"socketxp/internal/api"
)

// keysOfBefore are a user's own, with an end that has no line break.
const keysOfBefore = "# mine\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJ me@laptop\n\n\t# \xff end"

// newUser makes a user of this machine, with a home folder and keysOfBefore in it, for
// as long as the test runs. It returns the name, and the file.
func newUser(t *testing.T) (name, keys string) {
	t.Helper()
	needs(t, "useradd", "userdel")
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("only root can make a user: CI must run everything")
		}
		t.Skip("only root can make a user")
	}
	home := openDir(t)
	name = "sxp-" + strings.ToLower(rand.Text()[:12])
	// The password is one that nothing matches; without, the account would be locked.
	if out, err := exec.Command("useradd", "-M", "-d", home, "-s", "/bin/bash", "-p", "*", name).CombinedOutput(); err != nil {
		t.Fatalf("useradd: %v: %s", err, out)
	}
	t.Cleanup(func() {
		// By force: what a session has left behind may take a moment to end.
		if out, err := exec.Command("userdel", "-f", name).CombinedOutput(); err != nil {
			t.Errorf("userdel: %v: %s", err, out)
		}
	})
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	folder := filepath.Join(home, ".ssh")
	keys = filepath.Join(folder, "authorized_keys")
	err = errors.Join(os.Mkdir(folder, 0o700), os.WriteFile(keys, []byte(keysOfBefore), 0o600))
	for _, path := range []string{home, folder, keys} {
		err = errors.Join(err, os.Chown(path, uid, gid))
	}
	if err != nil {
		t.Fatal(err)
	}
	return name, keys
}

// openDir is a folder that other users may enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "socketxp-open-") //nolint:usetesting // TempDir is in one that they may not
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// webTerminal is the portal's end of a terminal.
type webTerminal struct {
	t    testing.TB
	conn *websocket.Conn
	seen strings.Builder
}

// attach looks at a terminal as the page of it does.
func attach(t testing.TB, owner *client, opened api.Terminal) *webTerminal {
	t.Helper()
	at, err := url.Parse(owner.url)
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{"Origin": {owner.url}}
	for _, c := range owner.http.Jar.Cookies(at) {
		h.Add("Cookie", c.String())
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(tr.CloseIdleConnections)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "wss://"+at.Host+"/api/v1/terminals/"+opened.ID+"/attach", &websocket.DialOptions{ //nolint:bodyclose // the connection is what is closed
		HTTPClient: &http.Client{Transport: tr}, HTTPHeader: h, Subprotocols: []string{"socketxp-terminal.1", "ticket." + opened.Ticket},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	w := &webTerminal{t: t, conn: conn}
	w.say(`{"type":"attach","from":0}`)
	return w
}

func (w *webTerminal) say(text string) {
	w.t.Helper()
	if err := w.conn.Write(w.t.Context(), websocket.MessageText, []byte(text)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *webTerminal) typed(text string) {
	w.t.Helper()
	if err := w.conn.Write(w.t.Context(), websocket.MessageBinary, []byte(text)); err != nil {
		w.t.Fatal(err)
	}
}

// until reads until ok says of a message, or of all the output so far, that it is what
// was waited for.
func (w *webTerminal) until(what string, ok func(state, output string) bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	var m struct{ State, Reason, Message, Hint string }
	for !ok(m.State, w.seen.String()) {
		kind, b, err := w.conn.Read(ctx)
		if err != nil {
			w.t.Fatalf("not seen: %s: %v; the state is %+v, and there was %q", what, err, m, w.seen.String())
		}
		if kind == websocket.MessageBinary {
			w.seen.Write(b)
		} else if err := json.Unmarshal(b, &m); err != nil {
			w.t.Fatal(err)
		}
	}
}

// The gateway signs in to Debian's own sshd by a key that the device's agent puts into
// a user's file, and takes away.
func TestSingleUseKey(t *testing.T) {
	needs(t, "sshd", "ssh-keygen")
	name, keys := newUser(t)
	s := &stage{work: t.TempDir(), procs: make(map[string]*process)}
	t.Cleanup(s.stopAll)
	env := append(os.Environ(), "HOME="+s.work, "GORACE=halt_on_error=1 exitcode=66")
	must := mustOf(t)
	read := func() string {
		t.Helper()
		text, err := os.ReadFile(keys)
		must(err)
		return string(text)
	}

	// At a connection that finds a key in place, placed is called, once: the server waits.
	var mu sync.Mutex
	var placed func(line string)
	config := filepath.Join(s.work, "sshd_config")
	host := filepath.Join(s.work, "host")
	must(exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", host).Run())
	public, err := os.ReadFile(host + ".pub")
	must(err)
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey(public)
	must(err)
	must(os.WriteFile(config, []byte("HostKey "+host+"\nPasswordAuthentication no\nUsePAM no\n"), 0o600)) // all else as it comes
	port, err := serveSSHD(s, env, config, func() {
		text, _ := os.ReadFile(keys)
		line, _, ok := strings.Cut(string(text), "\n"+keysOfBefore)
		mu.Lock()
		do := placed
		if ok {
			placed = nil
		}
		mu.Unlock()
		if ok && do != nil {
			do(line)
		}
	})
	must(err)
	when := func(do func(line string)) {
		mu.Lock()
		defer mu.Unlock()
		placed = do
	}

	dir := filepath.Join(s.work, "gateway")
	must(createOwner(dir, env))
	gateway, err := startGateway(s, env, dir, "0")
	must(err)
	owner, err := signIn(gateway)
	must(err)
	token, _, err := owner.token(`{"kind":"registration","name":"r"}`)
	must(err)
	// The agent runs its own program as the user, who must be able to.
	program := filepath.Join(openDir(t), "socketxp")
	must(copyFile(filepath.Join(programs, "socketxp"), program))
	agentEnv := append(env, "SOCKETXP_WORK_DIR="+filepath.Join(s.work, "device"), "SOCKETXP_AUTHTOKEN="+token)
	login, err := s.start("login", agentEnv, program, "login", "--iot-device-name", "d")
	must(err)
	if code, err := login.wait(30 * time.Second); err != nil || code != 0 {
		t.Fatalf("login: status %d, %v: %s", code, err, login.read("stderr"))
	}
	startDevice := func() *process {
		t.Helper()
		p, err := s.start("device", agentEnv, program, "connect", "tcp://127.0.0.1:"+port, "--ssh-single-use-keys", "--ssh-user", name, "--verbose")
		must(err)
		_, err = p.await("stdout", "^Connected to", 60*time.Second)
		must(err)
		return p
	}
	startDevice()
	answer, err := owner.must("GET", "/api/v1/devices", "")
	must(err)
	id, err := lookup(answer, "items.0.id")
	must(err)
	request := fmt.Sprintf(`{"port":%s,"user":%q,"sign_in":{"method":"single-use-key"}}`, port, name)

	t.Run("it is good for one sign-in", func(t *testing.T) {
		must := mustOf(t)
		var line string
		var good, others bool
		when(func(l string) {
			line, good, others = l, takes(hostKey, name, port, l), takes(hostKey, "root", port, l)
		})
		answer, err := owner.must("POST", "/api/v1/devices/"+id+"/terminals", request)
		must(err)
		var opened api.Terminal
		must(json.Unmarshal(answer, &opened))
		if opened.HostKey.State != "new" || read() != keysOfBefore {
			t.Errorf("with nobody's trust in the server: %+v, %q", opened.HostKey, read())
		}
		w := attach(t, owner, opened)
		w.until("the question", func(state, _ string) bool { return state == "host-key" })
		w.say(`{"type":"trust"}`)
		w.until("the shell", func(state, _ string) bool { return state == "open" })
		must(waitFor(30*time.Second, func() error {
			if read() != keysOfBefore {
				return errNotYet
			}
			return nil
		}))
		if line == "" || !good || others {
			t.Errorf("%q was taken: %t; of root: %t", line, good, others)
		}
		if takes(hostKey, name, port, line) {
			t.Error("the key is good for a second sign-in")
		}
		if info, err := os.Stat(keys); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		w.typed("echo I am $(id -un) in $PWD, $((40+2))\n")
		w.until("the output", func(_, output string) bool {
			return strings.Contains(output, "I am "+name+" in "+filepath.Dir(filepath.Dir(keys))+", 42")
		})
		w.typed("exit\n")
		w.until("the end", func(state, _ string) bool { return state == "ended" })
		audit, err := owner.must("GET", "/api/v1/audit?action=device.place-key", "")
		must(err)
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		must(err)
		if !bytes.Contains(audit, []byte(ssh.FingerprintSHA256(key))) {
			t.Errorf("it is not audited: %s", audit)
		}
	})
	t.Run("an agent that is killed takes it away when it starts again", func(t *testing.T) {
		must := mustOf(t)
		device, err := s.proc("device")
		must(err)
		when(func(string) {
			device.signal(syscall.SIGKILL)
			<-device.done
		})
		if status, answer, err := owner.do("POST", "/api/v1/devices/"+id+"/terminals", request); err != nil || status < 400 {
			t.Errorf("a terminal by an agent that was killed: %d, %v, %s", status, err, answer)
		}
		if !device.over() {
			t.Fatal("no key was placed")
		}
		if text := read(); text == keysOfBefore || !strings.HasSuffix(text, "\n"+keysOfBefore) {
			t.Fatalf("the killed agent has left %q", text)
		}
		startDevice()
		must(waitFor(30*time.Second, func() error {
			if text := read(); text != keysOfBefore {
				return fmt.Errorf("it is %q", text)
			}
			return nil
		}))
	})
}

func mustOf(t *testing.T) func(error) {
	return func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// takes reports whether the server would take the key of a line: a client may ask before
// it signs (RFC 4252 section 7).
func takes(hostKey ssh.PublicKey, name, port, line string) bool {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return false
	}
	asked := &unsigned{key: key}
	c, err := ssh.Dial("tcp", "127.0.0.1:"+port, &ssh.ClientConfig{
		User: name, Auth: []ssh.AuthMethod{ssh.PublicKeys(asked)}, HostKeyCallback: ssh.FixedHostKey(hostKey), Timeout: 30 * time.Second,
	})
	if err == nil {
		_ = c.Close()
	}
	return asked.wanted
}

// unsigned is a key of which only the public half is known.
type unsigned struct {
	key    ssh.PublicKey
	wanted bool // the server has asked for a signature
}

func (u *unsigned) PublicKey() ssh.PublicKey { return u.key }

func (u *unsigned) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	u.wanted = true
	return nil, errors.New("there is no private half")
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(to, b, 0o755), os.Chmod(to, 0o755))
}
