package api

import "time"

// TerminalRequest opens a terminal.
type TerminalRequest struct {
	Port    int             `json:"port" minimum:"1" maximum:"65535" doc:"a port that the device publishes and that speaks SSH"`
	User    string          `json:"user,omitempty" maxLength:"64" doc:"as whom; without it, who runs the agent" example:"pi"`
	Columns int             `json:"columns,omitempty" minimum:"0" maximum:"4096" default:"80"`
	Rows    int             `json:"rows,omitempty" minimum:"0" maximum:"4096" default:"24"`
	SignIn  *TerminalSignIn `json:"sign_in,omitempty" doc:"how to sign in; without it, grant where the port is the agent's built-in SSH server, else single-use-key"`
}

// TerminalSignIn is how to sign in to the device's SSH server. What is secret of it
// is kept in memory until the server has said yes or no, and nowhere else.
type TerminalSignIn struct {
	Method     string `json:"method" enum:"grant,password,key,single-use-key" doc:"grant: the built-in SSH server asks for nothing; single-use-key: the agent lets a key of the gateway's in, once, where the device allows it"`
	Password   string `json:"password,omitempty" maxLength:"1024" doc:"of the user, for password"`
	Key        string `json:"key,omitempty" maxLength:"16384" doc:"private key in PEM, for key"`
	Passphrase string `json:"passphrase,omitempty" maxLength:"1024" doc:"of the key, if it has one"`
}

// Terminal is a terminal that was opened.
type Terminal struct {
	ID              string          `json:"id" doc:"of its session, too"`
	DeviceID        string          `json:"device_id"`
	DeviceName      string          `json:"device_name"`
	Port            int             `json:"port"`
	User            string          `json:"user"`
	Ticket          string          `json:"ticket" doc:"for the WebSocket, once"`
	TicketExpiresAt time.Time       `json:"ticket_expires_at"`
	HostKey         TerminalHostKey `json:"host_key"`
}

// TerminalHostKey is the key that the device's SSH server has shown.
type TerminalHostKey struct {
	Type             string `json:"type" example:"ssh-ed25519"`
	Fingerprint      string `json:"fingerprint" example:"SHA256:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg"`
	State            string `json:"state" enum:"known,new,changed" doc:"unless it is known, the terminal waits for the message trust and sends nothing secret before"`
	KnownFingerprint string `json:"known_fingerprint,omitempty" doc:"of the key that is trusted in its place"`
}

// OpenTerminal is a terminal of the caller's that lives.
type OpenTerminal struct {
	ID         string    `json:"id"`
	DeviceID   string    `json:"device_id"`
	DeviceName string    `json:"device_name"`
	Port       int       `json:"port"`
	User       string    `json:"user"`
	StartedAt  time.Time `json:"started_at"`
	Attached   bool      `json:"attached" doc:"somebody looks at it"`
}

// Files is a folder of a device.
type Files struct {
	Path      string `json:"path" doc:"absolute"`
	Entries   []File `json:"entries" nullable:"false"`
	Truncated bool   `json:"truncated" doc:"there are more"`
}

// File is an entry of a folder.
type File struct {
	Name       string    `json:"name"`
	Type       string    `json:"type" enum:"file,directory,link,other"`
	Size       int64     `json:"size"`
	Mode       string    `json:"mode" doc:"the permissions, in octal" example:"0644"`
	ModifiedAt time.Time `json:"modified_at"`
}

// DirectoryRequest makes a folder.
type DirectoryRequest struct {
	Path string `json:"path" minLength:"1" maxLength:"4096"`
}

// TerminalTicket opens the WebSocket of one terminal, once.
type TerminalTicket struct {
	Ticket    string    `json:"ticket"`
	ExpiresAt time.Time `json:"expires_at"`
}
