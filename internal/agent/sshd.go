package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"

	"socketxp"
)

// SSHConfig says how the built-in SSH server is set up. The zero value of a
// field is the narrowest choice.
type SSHConfig struct {
	// HostKeyFile holds the server's Ed25519 key in OpenSSH's format. It is made,
	// with mode 0600, if there is none; its folder must exist.
	HostKeyFile string
	// Users are the names that may log in; each must exist on this machine, and
	// an agent that isn't root can serve only the user it runs as. Empty means
	// that user alone.
	Users  []string
	Policy SSHPolicy
	// Dial opens a connection for a visitor who forwards a port. It decides what may
	// be reached: errNotPublished and errTooManyForwards are told apart from a
	// failure to connect. What it returns ends by itself when it may no longer be
	// reached. Nil means none, whatever Policy says.
	Dial func(context.Context, socketxp.Destination) (net.Conn, error)
	Log  *slog.Logger // nil logs nothing
	// Version is the agent's, for the greeting.
	Version string
	// Executable is the absolute path of a program that runs SFTPMain when its
	// only argument is "sftp-server". The users who log in must be able to run
	// it. Empty means no sftp.
	Executable string
}

// SSHPolicy is what visitors of the built-in SSH server may do besides running
// programs and copying files. The zero value is nothing.
type SSHPolicy struct {
	// TCPForwarding lets them forward local ports to what the device publishes.
	TCPForwarding bool
	// AgentForwarding lets programs use the ssh agent of a visitor who offers it.
	AgentForwarding bool
	// AcceptEnv are the variables that they may set: names, and names that end in *
	// for all that begin so. See Check for those that nobody may.
	AcceptEnv []string
}

// DefaultSSHPolicy is what holds where a configuration says nothing.
func DefaultSSHPolicy() SSHPolicy {
	return SSHPolicy{
		TCPForwarding: true,
		AcceptEnv:     []string{"LANG", "LC_*", "TERM", "COLORTERM", "NO_COLOR"},
	}
}

func (p SSHPolicy) equal(q SSHPolicy) bool {
	return p.TCPForwarding == q.TCPForwarding && p.AgentForwarding == q.AgentForwarding && slices.Equal(p.AcceptEnv, q.AcceptEnv)
}

// sftpCommand is the argument that makes Executable the sftp server.
const sftpCommand = "sftp-server"

var (
	errNotPublished    = errors.New("this device doesn't publish that")
	errTooManyForwards = errors.New("too many forwarded connections")
)

// maxAcceptEnv bounds a policy's list: ten times what sshd_config files have.
const maxAcceptEnv = 100

// Check returns an error if the list of variables is not valid: an entry is no
// name, or is of a variable that makes programs load code, run other programs or
// believe another user's identity. Those are never taken, not even where a pattern
// includes them; a pattern must begin with two characters at least.
func (p SSHPolicy) Check() error {
	if len(p.AcceptEnv) > maxAcceptEnv {
		return hinted("", "accept_env has more than %d entries", maxAcceptEnv)
	}
	for _, entry := range p.AcceptEnv {
		name, pattern := strings.CutSuffix(entry, "*")
		switch {
		case pattern && len(name) < 2:
			return hinted(`name them, or how they begin, such as "LC_*"`, "accept_env: %q is too wide", entry)
		case !validVariable(name):
			return hinted(`it is a name, or the beginning of names and a *, such as "LC_*"`, "accept_env: %q is not valid", Printable(clip(entry)))
		case neverSet(name):
			return hinted("set it on the device, in the user's profile", "accept_env: %s is never taken from visitors: it changes what programs do, not how they look", entry)
		}
	}
	return nil
}

// maxVariableName is longer than the names of all variables in use.
const maxVariableName = 64

func validVariable(name string) bool {
	if name == "" || len(name) > maxVariableName || name[0] >= '0' && name[0] <= '9' {
		return false
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

// What no visitor sets, by the beginning of the name, and by the whole of it. The
// dynamic linker's, shells' and interpreters' variables run code of the visitor's
// choice even where the account's shell lets them run nothing; the libraries' lead
// programs to other files and hosts; and the rest is what the server itself says.
var (
	neverPrefixes = []string{
		"LD_", "DYLD_", "_RLD", "LIBPATH", "SHLIB_PATH", "MALLOC_", "GLIBC_", "BASH", "KSH_", "ZSH", "SSH_", "SUDO_", "DOAS_",
		"PYTHON", "PERL", "RUBY", "NODE_", "LUA_", "JAVA_", "_JAVA", "JDK_", "CLASSPATH", "DOTNET_", "COR_", "CORECLR_", "GODEBUG", "GOFLAGS", "GOROOT", "GOPATH", "PHP", "TCL",
		"OPENSSL_", "SSL_", "KRB5", "GSS_", "CURL_", "GIT_SSH", "GIT_EXEC", "GIT_CONFIG", "GIT_PROXY", "GIT_EXTERNAL", "GIT_PAGER",
		"GIT_EDITOR", "GIT_SEQUENCE", "GIT_ASKPASS", "GIT_DIR", "GIT_WORK", "GIT_TEMPLATE", "GIT_ALTERNATE", "GIT_OBJECT", "RSYNC_",
		"XDG_", "DBUS_", "SYSTEMD_", "LISTEN_", "NOTIFY_", "SOCKETXP_", "TERMINFO", "TERMPATH", "TERMCAP", "TMP", "TEMP", "MAIL",
	}
	neverNames = []string{
		"PATH", "IFS", "ENV", "SHELLOPTS", "PS0", "PS1", "PS2", "PS4", "PROMPT_COMMAND", "CDPATH", "FPATH", "GLOBIGNORE", "FIGNORE",
		"HISTFILE", "INPUTRC", "FCEDIT", "EDITOR", "VISUAL", "PAGER", "MANPAGER", "BROWSER", "LESSOPEN", "LESSCLOSE", "LESSKEY",
		"HOME", "USER", "LOGNAME", "SHELL", "UID", "EUID", "USERNAME", "PWD", "OLDPWD", "ZDOTDIR",
		"GCONV_PATH", "GETCONF_DIR", "LOCPATH", "NLSPATH", "HOSTALIASES", "HOSTFILE", "RES_OPTIONS", "LOCALDOMAIN", "RESOLV_HOST_CONF", "TZDIR",
		"POSIXLY_CORRECT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "NO_PROXY", "DISPLAY", "XAUTHORITY",
	}
)

func neverSet(name string) bool {
	name = strings.ToUpper(name) // some are known in both cases, such as http_proxy
	return slices.Contains(neverNames, name) ||
		slices.ContainsFunc(neverPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// accepts reports whether a visitor may set the variable.
func (p SSHPolicy) accepts(name string) bool {
	return validVariable(name) && !neverSet(name) && slices.ContainsFunc(p.AcceptEnv, func(pattern string) bool {
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
			return len(name) > len(prefix) && strings.HasPrefix(name, prefix)
		}
		return name == pattern
	})
}
