//go:build unix

package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
)

// TestSSHRunAs asks for accounts in every way that could mean another one.
func TestSSHRunAs(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	marker := filepath.Join(b.home, "owned")
	for _, name := range []string{
		"nobody", "no-such-user", "0", "-1", "4294967295", "#0", "root@gateway", b.user + "@group", b.user + "@127.0.0.1", b.user + "%group",
		"group/" + b.user, b.user + "/../root", "../" + b.user, b.user + ":0", b.user + ":0:0", b.user + "\n", "\n" + b.user, b.user + "\x00root", "-" + b.user,
		"--help", "-oProxyCommand=touch " + marker, "$(touch " + marker + ")", "`touch " + marker + "`", ";touch " + marker, "|touch " + marker,
		"'" + b.user + "'", `"` + b.user + `"`, b.user + "\\", "*", "?", b.user + "*", ".", "+", "\ufeff" + b.user, b.user + "\u200b",
		"%u", "%h", "~", "~" + b.user, strings.ToUpper(b.user[:1]) + b.user[1:], strings.Repeat(b.user, 2),
	} {
		t.Run("run as "+printable(name), func(t *testing.T) {
			if _, err := b.dial(name); err == nil {
				t.Error("let in")
			}
		})
	}
	t.Run("the same by OpenSSH", func(t *testing.T) {
		for _, name := range []string{b.user + "@group", "nobody", "a b"} {
			if o := runCmd(t, b.program("ssh", append(b.options("-l", name), "127.0.0.1", "id")...)); o.code != 255 || o.stdout != "" {
				t.Errorf("%q: %+v", name, o)
			}
		}
	})
	t.Run("root when it is not allowed", func(t *testing.T) {
		b := serveAs(t, "nobody", "/bin/sh")
		if _, err := b.dial("root"); err == nil {
			t.Error("let in")
		}
	})
	if _, err := os.Stat(marker); err == nil {
		t.Error("C-01 a name was run by a shell")
	}
	for _, name := range []string{"", "no-such-user", "root;id", "root@group", "root\n", "0"} {
		t.Run("a user of the configuration "+printable(name), func(t *testing.T) {
			if _, err := NewSSHServer(SSHConfig{HostKeyFile: filepath.Join(t.TempDir(), "key"), Users: []string{name}}); err == nil {
				t.Error("it was taken")
			}
		})
	}
}

// TestSSHGrantAlone has clients log in: by the grant alone, and nothing else is
// ever offered.
func TestSSHGrantAlone(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	t.Run("OpenSSH is offered nothing", func(t *testing.T) {
		o := runCmd(t, b.ssh("true", "-v", "-o", "PreferredAuthentications=publickey,password,keyboard-interactive,gssapi-with-mic,hostbased"))
		if o.code != 0 || !strings.Contains(o.stderr, `Authenticated to 127.0.0.1`) || !strings.Contains(o.stderr, `using "none"`) || strings.Contains(o.stderr, "Authentications that can continue") {
			t.Errorf("%+v", o)
		}
	})
	t.Run("a user who may not is offered nothing either", func(t *testing.T) {
		o := runCmd(t, b.program("ssh", append(b.options("-v", "-l", "eve"), "127.0.0.1", "true")...))
		for _, method := range []string{"password", "publickey", "keyboard-interactive", "gssapi", "hostbased"} {
			if strings.Contains(o.stderr, "Authentications that can continue: "+method) || strings.Contains(o.stderr, "Next authentication method: "+method) {
				t.Errorf("offered %s: %s", method, o.stderr)
			}
		}
		if o.code != 255 {
			t.Errorf("%+v", o)
		}
	})
	t.Run("the version line, and no banner before the login", func(t *testing.T) {
		o := runCmd(t, b.ssh("true", "-v"))
		if !strings.Contains(o.stderr, "remote software version socketxp_1.2.3_test") {
			t.Errorf("%+v", o)
		}
		if o := runCmd(t, b.ssh("true")); o.stderr != "" {
			t.Errorf("%+v", o)
		}
	})
	t.Run("PuTTY", func(t *testing.T) {
		key := strings.Fields(mustRun(t, exec.CommandContext(t.Context(), "ssh-keygen", "-lf", b.known)))[1]
		cmd := b.program("plink", "-ssh", "-batch", "-noagent", "-hostkey", key, "-P", strconv.Itoa(b.port), "-l", b.user, "127.0.0.1", "echo from plink; exit 3")
		cmd.Env = append(cmd.Env, "HOME="+t.TempDir())
		if o := runCmd(t, cmd); o.code != 3 || o.stdout != "from plink\n" {
			t.Errorf("%+v", o)
		}
	})
	t.Run("lftp", func(t *testing.T) {
		file, data := sample(t)
		back := filepath.Join(t.TempDir(), "back")
		script := fmt.Sprintf("set sftp:connect-program %q; set net:max-retries 1; open sftp://%s:@127.0.0.1:%d; put %q -o there; get there -o %q; bye",
			"ssh -a -x "+strings.Join(b.options(), " "), b.user, b.port, file, back)
		cmd := b.program("lftp", "-c", script)
		cmd.Env = append(cmd.Env, "HOME="+t.TempDir())
		mustRun(t, cmd)
		sameFile(t, back, data)
	})
	t.Run("K-14 a key that is offered first proves nothing", func(t *testing.T) {
		// A query for a key, then none: the key must not have been taken for anything.
		signer, err := ssh.ParsePrivateKey(mustKey(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"eve", "root@x"} {
			if _, err := b.dial(name, ssh.PublicKeys(signer)); err == nil || strings.Contains(err.Error(), "publickey") {
				t.Errorf("%v", err)
			}
		}
		if c, err := b.dial(b.user, ssh.PublicKeys(signer)); err != nil {
			t.Error(err)
		} else if out, err := newSession(t, c).Output("id -un"); err != nil || strings.TrimSpace(string(out)) != b.user {
			t.Errorf("%q, %v", out, err)
		}
	})
	t.Run("K-15 a certificate is not looked at", func(t *testing.T) {
		signer, err := ssh.ParsePrivateKey(mustKey(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, principals := range [][]string{nil, {"*"}, {"eve,root"}, {b.user}} {
			cert := &ssh.Certificate{Key: signer.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: principals, ValidBefore: ssh.CertTimeInfinity}
			if err := cert.SignCert(strings.NewReader(strings.Repeat("x", 1000)), signer); err != nil {
				t.Fatal(err)
			}
			certified, err := ssh.NewCertSigner(cert, signer)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.dial("eve", ssh.PublicKeys(certified)); err == nil {
				t.Errorf("let in by a certificate for %q", principals)
			}
		}
	})
}

func mustKey(t *testing.T) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	mustRun(t, exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file))
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestSSHHostileEnvironment is what a client may not do with variables.
func TestSSHHostileEnvironment(t *testing.T) {
	t.Parallel()
	// As wide as a configuration can be: what makes programs do other things is out
	// all the same.
	wide := SSHPolicy{}
	for _, first := range "ABCDEFGHIJKLMNOPQRSTUVWXYZ_" {
		for _, second := range "ADEFHLORYS" {
			if len(wide.AcceptEnv) < maxAcceptEnv {
				wide.AcceptEnv = append(wide.AcceptEnv, string(first)+string(second)+"*")
			}
		}
	}
	wide.AcceptEnv = append(wide.AcceptEnv[:90], "LD*", "PA*", "BA*", "IF*", "EN*", "PE*", "PY*", "HO*", "SS*", "US*")
	if err := wide.Check(); err != nil {
		t.Fatal(err)
	}
	b := newSSHBed(t, func(s *SSHServer) { s.policy = wide })
	client := b.client()
	for _, name := range []string{
		"LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "DYLD_INSERT_LIBRARIES", "BASH_ENV", "ENV", "PATH", "IFS", "SHELLOPTS", "BASHOPTS", "PS4",
		"PERL5OPT", "PERL5LIB", "PYTHONSTARTUP", "PYTHONPATH", "HOME", "USER", "SSH_AUTH_SOCK", "SSH_ORIGINAL_COMMAND", "BASH_FUNC_ls%%", "GCONV_PATH", "HOSTALIASES",
	} {
		t.Run("never "+name, func(t *testing.T) {
			if newSession(t, client).Setenv(name, "/tmp/x") == nil {
				t.Error("it was taken")
			}
		})
	}
	for name, v := range map[string][2]string{
		"a line break": {"ABC", "a\nLD_PRELOAD=/x"}, "a NUL byte": {"ABC", "a\x00LD_PRELOAD=/x"}, "a NUL byte in the name": {"ABC\x00LD_PRELOAD", "x"},
		"1 MB": {"ABC", strings.Repeat("x", 200_000)}, "a name with =": {"ABC=x LD_PRELOAD", "x"}, "an empty name": {"", "x"}, "a long name": {strings.Repeat("A", 1000), "x"},
		"a function": {"ABC", "() { :; }; touch /tmp/x"}, "an escape sequence": {"ABC", "\x1b]0;x\x07"}, "not UTF-8": {"ABC", "\xff\xfe"},
	} {
		t.Run("N-02 "+name, func(t *testing.T) {
			if newSession(t, client).Setenv(v[0], v[1]) == nil {
				t.Error("it was taken")
			}
		})
	}
	t.Run("what is allowed arrives as it is", func(t *testing.T) {
		s := newSession(t, client)
		if err := s.Setenv("ADA", "$(id) `id` ; ü"); err != nil {
			t.Fatal(err)
		}
		if out, err := s.Output(`printf %s "$ADA"`); err != nil || string(out) != "$(id) `id` ; ü" {
			t.Errorf("%q, %v", out, err)
		}
	})
	t.Run("N-03 10,000 variables", func(t *testing.T) {
		s := newSession(t, client)
		n := 0
		for ; n < 10_000; n++ {
			if err := s.Setenv("AD"+strconv.Itoa(n), "x"); errors.Is(err, io.EOF) {
				break
			}
		}
		if n > maxRequests {
			t.Errorf("%d requests were taken", n)
		}
		if err := newSession(t, client).Run("true"); err != nil {
			t.Errorf("the next session: %v", err)
		}
	})
	t.Run("N-02 1 MB in one packet ends its connection alone", func(t *testing.T) {
		_ = newSession(t, b.client()).Setenv("ABC", strings.Repeat("x", 1<<20)) // more than a packet may hold
		if err := newSession(t, b.client()).Run("true"); err != nil {
			t.Error(err)
		}
	})
}

// TestSSHAbsurdTerminals asks for terminals that nobody has.
func TestSSHAbsurdTerminals(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	client := b.client()
	type request struct {
		Name                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}
	for _, c := range []struct {
		name string
		r    request
		ok   bool
		want string
	}{
		{"size 0", request{"vt100", 0, 0, 0, 0, ""}, true, "0 0"},
		{"size 2^32-1", request{"vt100", 1<<32 - 1, 1<<32 - 1, 1<<32 - 1, 1<<32 - 1, ""}, true, "4096 4096"},
		{"size 65536, which is 0 in 16 bits", request{"vt100", 1 << 16, 1 << 16, 0, 0, ""}, true, "4096 4096"},
		{"N-02 modes cut short", request{"vt100", 80, 24, 0, 0, "\x35\x00\x00"}, false, ""},
		{"N-02 more modes than there are", request{"vt100", 80, 24, 0, 0, strings.Repeat("\x35\x00\x00\x00\x00", maxModes+1)}, false, ""},
		{"modes without an end", request{"vt100", 80, 24, 0, 0, "\x35\x00\x00\x00\x01"}, true, "24 80"},
		{"modes of the future", request{"vt100", 80, 24, 0, 0, "\xa0 anything goes"}, true, "24 80"},
		{"unknown modes", request{"vt100", 80, 24, 0, 0, "\x7f\xff\xff\xff\xff\x14\x00\x00\x00\x01\x00"}, true, "24 80"},
		{"control characters that are none", request{"vt100", 80, 24, 0, 0, "\x01\xff\xff\xff\xff\x03\x00\x00\x01\x00\x00"}, true, "24 80"},
		{"speeds of 0 and 2^32-1", request{"vt100", 80, 24, 0, 0, "\x80\x00\x00\x00\x00\x81\xff\xff\xff\xff\x00"}, true, "24 80"},
		{"all modes off", request{"vt100", 80, 24, 0, 0, allModes(0)}, true, "24 80"},
		{"all modes on", request{"vt100", 80, 24, 0, 0, allModes(1)}, true, "24 80"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSession(t, client)
			ok, err := s.SendRequest("pty-req", true, ssh.Marshal(c.r))
			if ok != c.ok || err != nil {
				t.Fatal(ok, err)
			}
			if !c.ok {
				return
			}
			out, err := s.Output(`stty size`)
			if err != nil || !strings.Contains(strings.ToLower(string(out)), c.want) { // and the end of input, if no key means it
				t.Errorf("%q, %v", out, err)
			}
		})
	}
	t.Run("a window that changes to 0, 2^32-1, and nonsense", func(t *testing.T) {
		s := newSession(t, client)
		if err := s.RequestPty("vt100", 24, 80, nil); err != nil {
			t.Fatal(err)
		}
		out := new(lockedBuffer)
		s.Stdout = out
		if err := s.Start(`trap 'echo; echo size $(stty size)' WINCH; echo ready; while :; do sleep 0.05; done`); err != nil {
			t.Fatal(err)
		}
		out.after(t, "ready")
		type size struct{ Columns, Rows, Width, Height uint32 }
		for payload, want := range map[string]string{
			string(ssh.Marshal(size{})):                   "size 0 0\r\n",
			string(ssh.Marshal(size{1<<32 - 1, 1, 0, 0})): "size 1 4096\r\n",
		} {
			if ok, err := s.SendRequest("window-change", true, []byte(payload)); !ok || err != nil {
				t.Error(ok, err)
			}
			waitFor(t, want, func() bool { return strings.Contains(out.String(), want) })
		}
		if ok, err := s.SendRequest("window-change", true, []byte("short")); ok || err != nil {
			t.Error("N-02", ok, err)
		}
	})
	t.Run("modes take effect", func(t *testing.T) {
		s := newSession(t, client)
		if err := s.RequestPty("vt100", 24, 80, ssh.TerminalModes{ssh.ECHO: 0, ssh.VERASE: 8, ssh.VINTR: 255, ssh.IXON: 0, ssh.ONLCR: 0, ssh.ICRNL: 0}); err != nil {
			t.Fatal(err)
		}
		out, err := s.Output("stty -a")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{" -echo ", "erase = ^H;", "intr = <undef>;", "-ixon", "-onlcr", "-icrnl"} {
			if !strings.Contains(" "+string(out), want) {
				t.Errorf("%s is not in %q", want, out)
			}
		}
	})
}

// allModes is every opcode that has a 32-bit argument.
func allModes(value byte) string {
	var b strings.Builder
	for opcode := byte(1); opcode < modesUnknown; opcode++ {
		b.Write([]byte{opcode, 0, 0, 0, value})
	}
	return b.String()
}

// TestSSHRelativePaths: what the server runs is found by absolute paths alone.
func TestSSHRelativePaths(t *testing.T) {
	for _, path := range []string{"socketxp", "./socketxp", "bin/socketxp"} {
		if _, err := NewSSHServer(SSHConfig{HostKeyFile: filepath.Join(t.TempDir(), "key"), Executable: path}); err == nil || !strings.Contains(err.Error(), "absolute") {
			t.Errorf("C-03 %s: %v", path, err)
		}
	}
}

// TestSSHRekey changes keys all the time while bytes flow both ways.
func TestSSHRekey(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	cmd := b.ssh("cat", "-o", "RekeyLimit=1M")
	sum := new(compared)
	cmd.Stdin, cmd.Stdout = io.LimitReader(&counter{}, 30<<20), sum
	mustRun(t, cmd)
	if sum.n != 30<<20 || sum.wrong {
		t.Errorf("%d bytes, wrong: %t", sum.n, sum.wrong)
	}
}

// compared compares what it is given with what counter gives.
type compared struct {
	n     int
	wrong bool
	from  counter
}

func (c *compared) Write(p []byte) (int, error) {
	want := make([]byte, len(p))
	_, _ = c.from.Read(want)
	c.n, c.wrong = c.n+len(p), c.wrong || string(want) != string(p)
	return len(p), nil
}

// A terminal or a pipe that can't be made is told, and leaves nothing open.
func TestSSHNoDescriptors(t *testing.T) {
	if os.Getenv("SOCKETXP_TEST_NOFILE") == "" {
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `ulimit -n 256; exec "$0" "$@"`, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), "SOCKETXP_TEST_NOFILE=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Max != 256 {
		t.Fatal(limit, err)
	}
	b := newSSHBed(t)
	old := b.client()
	var clients []*ssh.Client
	for range 10 {
		clients = append(clients, b.client())
	}
	for _, client := range clients { // 100 sessions, each of three pipes at least
		for range maxSessions {
			if err := newSession(t, client).Start("exec sleep 1000"); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("P-18 who finds no room is told", func(t *testing.T) {
		s := newSession(t, old)
		out, err := s.CombinedOutput("true")
		var exit *ssh.ExitError
		if !errors.As(err, &exit) || exit.ExitStatus() != 1 || !strings.Contains(string(out), "too many open files") {
			t.Errorf("%q, %v", out, err)
		}
		for n := 0; newSession(t, old).RequestPty("vt100", 24, 80, nil) == nil; n++ { // a few more fit
			if n == 5 {
				t.Fatal("terminals without end")
			}
		}
	})
	t.Run("P-18 and there is room again when others have left", func(t *testing.T) {
		for _, c := range clients {
			_ = c.Close()
		}
		waitFor(t, "a session", func() bool {
			s, err := old.NewSession()
			return err == nil && s.Run("true") == nil
		})
	})
}
