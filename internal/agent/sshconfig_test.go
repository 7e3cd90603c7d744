package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSSHConfigFile(t *testing.T) {
	dir := newDir(t)
	path := filepath.Join(t.TempDir(), ".ssh", "config")
	block, err := dir.SSHConfig("/usr/local/bin/socketxp")
	if err != nil {
		t.Fatal(err)
	}
	install := func(want bool) {
		t.Helper()
		if changed, err := dir.InstallSSHConfig(path, block); changed != want || err != nil {
			t.Errorf("changed %v, %v", changed, err)
		}
	}
	read := func(name string) string {
		t.Helper()
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	include := includeMark + "\nInclude " + dir.file(sshConfigFile) + "\n\n"

	t.Run("no configuration, and none left", func(t *testing.T) {
		install(true)
		if got := read(path); got != include {
			t.Errorf("%q", got)
		}
		if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		if got := read(dir.file(sshConfigFile)); got != block {
			t.Errorf("%q", got)
		}
		install(false)
		if changed, err := dir.UninstallSSHConfig(path); !changed || err != nil {
			t.Errorf("%v, %v", changed, err)
		}
		for _, name := range []string{path, dir.file(sshConfigFile)} {
			if _, err := os.Stat(name); !os.IsNotExist(err) {
				t.Errorf("C-13 %s is left: %v", name, err)
			}
		}
		if changed, err := dir.UninstallSSHConfig(path); changed || err != nil {
			t.Errorf("%v, %v", changed, err)
		}
	})
	t.Run("the user's own text stays as it is", func(t *testing.T) {
		for _, own := range []string{"Host a\n  User b\n", "\n\nHost a\n  User b", "# x\r\nHost a\r\n", includeMark + " not quite\n"} {
			if err := os.WriteFile(path, []byte(own), 0o640); err != nil {
				t.Fatal(err)
			}
			install(true)
			if got := read(path); got != include+own {
				t.Errorf("%q", got)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("%v, %v", info.Mode(), err)
			}
			if _, err := dir.UninstallSSHConfig(path); err != nil {
				t.Fatal(err)
			}
			if got := read(path); got != own {
				t.Errorf("%q became %q", own, got)
			}
		}
	})
	t.Run("another folder's takes its place", func(t *testing.T) {
		install(true)
		other := newDir(t)
		if changed, err := other.InstallSSHConfig(path, block); !changed || err != nil {
			t.Fatal(changed, err)
		}
		if got := read(path); strings.Count(got, "Include") != 1 || !strings.Contains(got, other.Path()) {
			t.Errorf("%q", got)
		}
	})
	t.Run("a link stays one", func(t *testing.T) {
		link := filepath.Join(t.TempDir(), "config")
		if err := os.Symlink(path, link); err != nil {
			t.Fatal(err)
		}
		if _, err := dir.InstallSSHConfig(link, block); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		if got := read(path); !strings.Contains(got, dir.Path()) {
			t.Errorf("%q", got)
		}
	})
}

// TestShellWords has a shell read what was written for it.
func TestShellWords(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no sh")
	}
	words := []string{"plain", "", "with space", "it's", `"$(id)"`, "`id`;|&<>", `back\slash`, "*?[a]~", "-x", "ü"}
	line, err := shellWords(slices.Clone(words))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(sh, "-c", "printf '%s\\n' "+line).Output()
	if err != nil || string(out) != strings.Join(words, "\n")+"\n" {
		t.Errorf("%q, %v", out, err)
	}
	for _, bad := range []string{"a\nb", "a\x00b", "a\rb"} {
		if _, err := shellWords([]string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestSSHWords(t *testing.T) {
	for path, want := range map[string]string{"/a/b": "/a/b", "/a b/c": `"/a b/c"`, "/a'b": `"/a'b"`} {
		if got, err := sshWord(path); err != nil || got != want {
			t.Errorf("%s: %s, %v", path, got, err)
		}
	}
	for _, bad := range []string{`/a"b`, "/a\nb", "/$HOME", "/%d", "/a*", "/[a]"} {
		if got, err := sshWord(bad); err == nil {
			t.Errorf("%q was written as %s", bad, got)
		}
	}
}
