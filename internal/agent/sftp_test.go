//go:build unix

package agent

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sftp is OpenSSH's client with a batch of commands; the first that fails ends it.
func (b *sshBed) sftp(commands ...string) *exec.Cmd {
	b.t.Helper()
	cmd := b.program("sftp", append(b.options("-q", "-b", "-"), b.host())...)
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	return cmd
}

// sample writes a file of 5 MB with mode 0640 and returns its name and contents.
func sample(t *testing.T) (string, []byte) {
	t.Helper()
	data, err := io.ReadAll(io.LimitReader(&counter{}, 5_000_000))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sample file")
	if err := os.WriteFile(file, data, 0o640); err != nil {
		t.Fatal(err)
	}
	return file, data
}

func sameFile(t *testing.T, file string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
	} else if !bytes.Equal(got, want) {
		t.Errorf("%s differs: %d bytes, want %d", file, len(got), len(want))
	}
}

func TestSFTP(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	file, data := sample(t)
	at := func(name string) string { return filepath.Join(b.home, name) }

	if got := mustRun(t, b.sftp("pwd")); !strings.Contains(got, "Remote working directory: "+b.home+"\n") {
		t.Errorf("starts in %q", got)
	}
	mustRun(t, b.sftp("mkdir dir", `put -p "`+file+`" dir/put`))
	sameFile(t, at("dir/put"), data)
	if info, err := os.Stat(at("dir/put")); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	mustRun(t, b.sftp("rename dir/put dir/renamed", `get dir/renamed "`+copied+`"`))
	sameFile(t, copied, data)
	if got := mustRun(t, b.sftp("ls -1 dir", "ls -la")); !strings.Contains(got, "dir/renamed\n") || strings.Contains(got, "put") {
		t.Errorf("ls: %q", got)
	}
	mustRun(t, b.sftp("ln -s renamed dir/link", "chmod 600 dir/renamed"))
	if target, err := os.Readlink(at("dir/link")); err != nil || target != "renamed" {
		t.Errorf("link to %q, %v", target, err)
	}
	mustRun(t, b.sftp("rm dir/link", "rm dir/renamed", "rmdir dir"))
	if entries, err := os.ReadDir(b.home); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if o := runCmd(t, b.sftp("get none")); o.code != 1 || !strings.Contains(o.stderr, "not found") {
		t.Errorf("%+v", o)
	}
}

func TestSCP(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	file, data := sample(t)
	for _, c := range []struct{ name, flag string }{{"by sftp", "-s"}, {"legacy", "-O"}} {
		t.Run(c.name, func(t *testing.T) {
			remote := b.host() + ":there" + c.flag
			local := filepath.Join(t.TempDir(), "back")
			mustRun(t, b.program("scp", append(b.options(c.flag), file, remote)...))
			sameFile(t, filepath.Join(b.home, "there"+c.flag), data)
			mustRun(t, b.program("scp", append(b.options(c.flag), remote, local)...))
			sameFile(t, local, data)
			tree := t.TempDir()
			mustRun(t, b.program("scp", append(b.options(c.flag, "-r"), filepath.Dir(file), b.host()+":tree"+c.flag)...))
			mustRun(t, b.program("scp", append(b.options(c.flag, "-r"), b.host()+":tree"+c.flag, tree)...))
			sameFile(t, filepath.Join(tree, "tree"+c.flag, filepath.Base(file)), data)
		})
	}
}

func TestRsync(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t)
	file, data := sample(t)
	shell := "ssh " + strings.Join(b.options(), " ")
	remote := b.host() + ":backup/"
	mustRun(t, b.program("rsync", "-a", "-e", shell, filepath.Dir(file)+"/", remote))
	sameFile(t, filepath.Join(b.home, "backup", filepath.Base(file)), data)
	back := t.TempDir()
	mustRun(t, b.program("rsync", "-a", "-e", shell, remote, back))
	sameFile(t, filepath.Join(back, filepath.Base(file)), data)
}

func TestSFTPServerOnStreams(t *testing.T) {
	t.Parallel()
	t.Run("ends with its input", func(t *testing.T) {
		if err := SFTPMain(strings.NewReader(""), io.Discard); err != nil {
			t.Error(err)
		}
	})
	t.Run("N-02 a packet that is too long", func(t *testing.T) {
		if err := SFTPMain(strings.NewReader("\xff\xff\xff\xff\x01"), io.Discard); err == nil {
			t.Error("no error")
		}
	})
	t.Run("not sftp", func(t *testing.T) {
		in, _ := io.Pipe() // never ends by itself
		head := io.MultiReader(strings.NewReader("\x00\x00\x00\x05\xfeabcd"), in)
		if err := SFTPMain(closing{head, in}, io.Discard); err == nil {
			t.Error("no error")
		}
	})
}

type closing struct {
	io.Reader
	io.Closer
}

func TestSFTPIsOffWithoutExecutable(t *testing.T) {
	t.Parallel()
	b := newSSHBed(t, func(s *SSHServer) { s.executable = "" })
	if o := runCmd(t, b.sftp("pwd")); o.code != 255 {
		t.Errorf("%+v", o)
	}
}
