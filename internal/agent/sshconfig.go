package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"socketxp"
)

// SSHDomain is what the names of devices end in for ssh and what is built on it.
// There is no such domain in the DNS, so that no name leads elsewhere by mistake.
const SSHDomain = ".socketxp"

// ParseDevice reads how people name a device: by its name or its id, with or
// without SSHDomain.
func ParseDevice(s string) (id, name string, err error) {
	s = strings.TrimSuffix(strings.ToLower(s), SSHDomain) // ssh takes names in any case
	if socketxp.ValidID(s) {
		return s, "", nil
	}
	return "", s, socketxp.CheckDeviceName(s)
}

// sshConfigFile is the block's file in the work folder, and includeMark the line in
// ssh's own configuration above the one that includes it.
const (
	sshConfigFile = "ssh_config"
	includeMark   = "# socketxp: devices as NAME" + SSHDomain + "; \"socketxp ssh-config --uninstall\" takes this out"
	maxSSHConfig  = 1 << 20
)

// globalKnownHosts are ssh's own files of host keys for all users.
var globalKnownHosts = []string{"/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"}

// SSHOptions returns the options that make ssh reach devices by Proxy, as NAME=VALUE.
// Program is this program's path, and flags are those of its command proxy.
//
// The host keys of built-in SSH servers, which Proxy writes down before ssh sees a
// byte of the server's, are in a file of their own that ssh reads and never writes;
// those of other servers are in the user's known_hosts, as they are with any host.
func (d *Dir) SSHOptions(program string, flags ...string) ([]string, error) {
	command, err := shellWords(slices.Concat([]string{program, "proxy"}, flags, []string{"--"}))
	if err != nil {
		return nil, err
	}
	host := "'%h'"
	if runtime.GOOS == "windows" {
		host = "%h"
	}
	known := make([]string, 0, len(globalKnownHosts)+1)
	for _, path := range append(globalKnownHosts, d.file(sshKnownFile)) {
		word, err := sshWord(path)
		if err != nil {
			return nil, err
		}
		known = append(known, word)
	}
	return []string{
		"ProxyCommand=" + strings.ReplaceAll(command, "%", "%%") + " " + host + " %p",
		"GlobalKnownHostsFile=" + strings.Join(known, " "),
	}, nil
}

// SSHConfig returns the block of ssh's configuration with which ssh, and what is
// built on it, reaches devices as NAME.socketxp. Arguments are as for SSHOptions.
func (d *Dir) SSHConfig(program string, flags ...string) (string, error) {
	options, err := d.SSHOptions(program, flags...)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	// ssh passes the name to a shell, in single quotes: with one inside it is not ours.
	fmt.Fprintf(&b, "Host \"*%s\" \"!*'*\"\n", SSHDomain)
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		fmt.Fprintf(&b, "  %s %s\n", name, value)
	}
	return b.String(), nil
}

// shellWords returns a command line of words as the shell that ssh gives it to
// reads it.
func shellWords(words []string) (string, error) {
	for i, w := range words {
		switch {
		case strings.ContainsAny(w, "\x00\r\n"):
			return "", hinted("move it", "the path %q can't be written in ssh's configuration", w)
		case runtime.GOOS == "windows":
			words[i] = `"` + w + `"`
		case w == "" || strings.Trim(w, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@,") != "":
			words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " "), nil
}

// sshWord returns a path as ssh's configuration has it among others.
func sshWord(path string) (string, error) {
	path = filepath.ToSlash(path)
	if strings.ContainsAny(path, "\"\x00\r\n\\$%*?[") {
		return "", hinted("choose another by --work-dir", "the path %q can't be written in ssh's configuration", path)
	}
	if strings.ContainsAny(path, " \t'#") {
		return `"` + path + `"`, nil
	}
	return path, nil
}

// DefaultSSHConfig returns the path of the user's ssh configuration.
func DefaultSSHConfig() (string, error) {
	home, err := os.UserHomeDir()
	if err != nil || !filepath.IsAbs(home) {
		return "", hinted("name the file by --file", "the user has no home folder")
	}
	return filepath.Join(home, ".ssh", "config"), nil
}

// InstallSSHConfig writes the block to the work folder and has the configuration
// at path include it. Changed is false if all was there already.
func (d *Dir) InstallSSHConfig(path, block string) (changed bool, err error) {
	old, err := d.read(sshConfigFile, maxSSHConfig, true)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if string(old) != block {
		if err := d.write(sshConfigFile, []byte(block)); err != nil {
			return false, err
		}
		changed = true
	}
	included, err := sshWord(d.file(sshConfigFile))
	if err != nil {
		return false, err
	}
	edited, err := editSSHConfig(path, func(text string) string {
		// Above everything else: below a Host line it would count for that host only.
		return includeMark + "\nInclude " + included + "\n\n" + withoutInclude(text)
	})
	return changed || edited, err
}

// UninstallSSHConfig takes InstallSSHConfig back. Changed is false if there was
// nothing to take back.
func (d *Dir) UninstallSSHConfig(path string) (changed bool, err error) {
	changed, err = editSSHConfig(path, withoutInclude)
	if err != nil {
		return changed, err
	}
	switch err := os.Remove(d.file(sshConfigFile)); {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return changed, nil
	default:
		return changed, err
	}
}

// withoutInclude returns text without what InstallSSHConfig has put there: the mark,
// the Include below it and one empty line.
func withoutInclude(text string) string {
	var out strings.Builder
	skip := 0
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == includeMark:
			skip = 1
			continue
		case skip == 1:
			skip = 0
			if strings.HasPrefix(trimmed, "Include ") {
				skip = 2
				continue
			}
		case skip == 2:
			skip = 0
			if trimmed == "" {
				continue
			}
		}
		out.WriteString(line)
	}
	return out.String()
}

// editSSHConfig replaces the text of a configuration that belongs to the user, as a
// whole; one that is a link stays one. No text and no file are the same.
func editSSHConfig(path string, edit func(string) string) (changed bool, err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	mode := fs.FileMode(0o600)
	old, err := readFile(path, maxSSHConfig, false)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, err
	default:
		info, err := os.Stat(path)
		if err != nil {
			return false, err
		}
		mode = info.Mode().Perm()
	}
	text := []byte(edit(string(old)))
	if bytes.Equal(text, old) {
		return false, nil
	}
	if len(text) == 0 {
		return true, os.Remove(path)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*")
	if err != nil {
		return false, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(text)
	if err == nil && runtime.GOOS != "windows" {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return false, err
	}
	return true, os.Rename(f.Name(), path)
}
