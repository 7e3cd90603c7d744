package agent

import "log/slog"

// SSHConfig says how the built-in SSH server is set up. The zero value of a
// field is the narrowest choice.
type SSHConfig struct {
	// HostKeyFile holds the server's Ed25519 key in OpenSSH's format. It is made,
	// with mode 0600, if there is none; its folder must exist.
	HostKeyFile string
	// Users are the names that may log in; each must exist on this machine, and
	// an agent that isn't root can serve only the user it runs as. Empty means
	// that user alone.
	Users []string
	Log   *slog.Logger // nil logs nothing
	// Version is the agent's, for the greeting.
	Version string
	// Executable is the absolute path of a program that runs SFTPMain when its
	// only argument is "sftp-server". The users who log in must be able to run
	// it. Empty means no sftp.
	Executable string
}

// sftpCommand is the argument that makes Executable the sftp server.
const sftpCommand = "sftp-server"
