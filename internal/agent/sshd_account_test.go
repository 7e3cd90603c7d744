//go:build unix

package agent

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestLoginShell(t *testing.T) {
	file := filepath.Join(t.TempDir(), "passwd")
	text := "root:x:0:0:root:/root:/bin/bash\n" +
		"\n" +
		"# a comment\n" +
		"short:x:1000:1000:/home/short:/bin/zsh\n" +
		"empty:x:1001:1001::/home/empty:\n" +
		"relative:x:1002:1002::/home/relative:sh\n" +
		"twice:x:1003:1003::/home/twice:/bin/first\n" +
		"twice:x:0:0::/root:/bin/second\n" +
		"rooter:x:1004:1004:root:/root:/bin/rooter\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"root": "/bin/bash", "empty": "/bin/sh", "twice": "/bin/first", "rooter": "/bin/rooter",
	} {
		if got, err := loginShell(file, name); got != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"relative", "absent", "short", ""} {
		if got, err := loginShell(file, name); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got, err := loginShell(file+".none", "root"); err == nil {
		t.Errorf("no file: %q", got)
	}
	if err := os.WriteFile(file, []byte(strings.Repeat("x", maxAccountFileLine+1)+"\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := loginShell(file, "root"); err == nil {
		t.Errorf("N-02 an endless line: %q", got)
	}
}

// openDir is a temporary folder that every user of the machine may enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// openExecutable is a copy of the test program that every user may run.
func openExecutable(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(openDir(t), "agent")
	if err := os.WriteFile(file, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// serveAs makes the bed serve another user than the one who runs the tests, with
// a home folder of that user's and the given shell.
func serveAs(t *testing.T, name, shell string) *sshBed {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "only root can serve other users")
	}
	home, executable := filepath.Join(openDir(t), "home"), openExecutable(t)
	b := newSSHBed(t, func(s *SSHServer) {
		s.users, s.executable = []string{name}, executable
		s.lookup = func(name string) (account, error) {
			a, err := lookupAccount(name)
			a.home, a.shell = home, shell
			return a, err
		}
	})
	b.user, b.home = name, home
	a, err := lookupAccount(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(home, int(a.uid), int(a.credential.Gid)); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSSHOtherUser(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"nobody", "daemon"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := serveAs(t, name, "/bin/sh")
			u, err := user.Lookup(name)
			if err != nil {
				t.Fatal(err)
			}
			groups, err := u.GroupIds()
			if err != nil {
				t.Fatal(err)
			}
			secret := filepath.Join(openDir(t), "secret")
			if err := os.WriteFile(secret, []byte("root's"), 0o600); err != nil {
				t.Fatal(err)
			}

			t.Run("has that user's ids and groups and no others", func(t *testing.T) {
				lines := strings.Split(mustRun(t, b.ssh("id -u; id -ru; id -g; id -rg; id -G; id -un; pwd; echo $HOME $USER")), "\n")
				want := []string{u.Uid, u.Uid, u.Gid, u.Gid}
				if !slices.Equal(lines[:4], want) || lines[5] != name || lines[6] != b.home || lines[7] != b.home+" "+name {
					t.Errorf("%q, want %q", lines, want)
				}
				got := strings.Fields(lines[4])
				slices.Sort(got)
				slices.Sort(groups)
				if !slices.Equal(got, groups) {
					t.Errorf("groups %q, want %q", got, groups)
				}
			})
			t.Run("can't read root's files", func(t *testing.T) {
				o := runCmd(t, b.ssh("cat "+secret))
				if o.code != 1 || o.stdout != "" || !strings.Contains(o.stderr, "Permission denied") {
					t.Errorf("%+v", o)
				}
			})
			t.Run("owns its terminal", func(t *testing.T) {
				o := runCmd(t, b.ssh("stat -c %U $(tty); echo hello >/dev/tty; id -u", "-tt"))
				if want := name + "\r\nhello\r\n" + u.Uid + "\r\n"; o.stdout != want || o.code != 0 {
					t.Errorf("%+v, want %q", o, want)
				}
			})
			t.Run("L-01 is hung up", func(t *testing.T) {
				cmd := b.ssh("echo pid $$; exec sleep 1000")
				pid := atoi(t, startUntil(t, cmd, "pid "))
				_ = cmd.Process.Kill()
				waitFor(t, "the end of the program", func() bool { return !alive(pid) })
			})
			t.Run("sftp has its rights alone", func(t *testing.T) {
				o := runCmd(t, b.sftp("get "+secret+" "+filepath.Join(t.TempDir(), "copy")))
				if o.code == 0 || !strings.Contains(o.stderr, "ermission denied") {
					t.Errorf("%+v", o)
				}
				mustRun(t, b.sftp("mkdir made", "put "+b.known+" made/file"))
				for _, made := range []string{"made", "made/file"} {
					info, err := os.Stat(filepath.Join(b.home, made))
					if err != nil {
						t.Fatal(err)
					}
					if owner := info.Sys().(*syscall.Stat_t).Uid; owner == 0 {
						t.Errorf("%s is root's", made)
					}
				}
			})
			t.Run("a home folder it may not enter", func(t *testing.T) {
				if err := os.Chown(b.home, 0, 0); err != nil {
					t.Fatal(err)
				}
				o := runCmd(t, b.ssh("pwd"))
				if o.stdout != "/\n" || !strings.Contains(o.stderr, "Could not chdir to home directory "+b.home+": permission denied") {
					t.Errorf("%+v", o)
				}
			})
		})
	}
}

func TestSSHAccountThatMayNotLogIn(t *testing.T) {
	t.Parallel()
	const nologin = "/usr/sbin/nologin"
	if _, err := os.Stat(nologin); err != nil {
		skip(t, err)
	}
	b := serveAs(t, "nobody", nologin)
	for _, cmd := range []*exec.Cmd{
		b.ssh("id"),
		b.program("ssh", append(b.options("-tt"), b.host())...),
	} {
		if o := runCmd(t, cmd); o.code != 1 || !strings.Contains(o.stdout, "not available") || strings.Contains(o.stdout, "uid=") {
			t.Errorf("%v: %+v", cmd.Args, o)
		}
	}
	if o := runCmd(t, b.sftp("ls /")); o.code == 0 || strings.Contains(o.stdout, "etc") {
		t.Errorf("sftp: %+v", o)
	}
}

func TestSSHAgentThatIsNotRoot(t *testing.T) {
	if os.Geteuid() == 0 {
		nobody, err := lookupAccount("nobody")
		if err != nil {
			skip(t, err)
		}
		cmd := exec.CommandContext(t.Context(), openExecutable(t), "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: nobody.credential}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	file := filepath.Join(t.TempDir(), "key")
	_, err := NewSSHServer(SSHConfig{HostKeyFile: file, Users: []string{"root"}})
	if err == nil || !strings.Contains(err.Error(), "only an agent that runs as root") {
		t.Errorf("root: %v", err)
	}
	s, err := NewSSHServer(SSHConfig{HostKeyFile: file})
	if err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.Users(), []string{me.Username}) {
		t.Errorf("serves %q", s.Users())
	}
	if a, err := s.lookup(me.Username); err != nil || a.credential != nil {
		t.Errorf("%+v, %v", a, err)
	}
}

// A login by one name must not give the account of another, whoever asks for
// which in one connection.
func TestSSHUsersAreApart(t *testing.T) {
	t.Parallel()
	b := serveAs(t, "nobody", "/bin/sh")
	b.server.users = []string{"nobody", "daemon"}
	for _, name := range b.server.users {
		c, err := b.dial(name, ssh.Password("x"))
		if err != nil {
			t.Fatal(err)
		}
		out, err := newSession(t, c).Output("id -un")
		if err != nil || strings.TrimSpace(string(out)) != name {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
	if _, err := b.dial("root"); err == nil {
		t.Error("root was let in")
	}
}
