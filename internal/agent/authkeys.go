package agent

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"socketxp"

	"golang.org/x/crypto/ssh"
)

// keyEdit is what a process of this program (AuthorizedKeysMain), which runs as the
// user, is to do with the user's authorized_keys.
type keyEdit struct {
	Home   string   `json:"home"`
	Add    string   `json:"add,omitempty"`    // a line without its end; "" for none
	Remove []string `json:"remove,omitempty"` // ids of keys
	// RemoveFile removes the file if nothing is left in it.
	RemoveFile bool `json:"remove_file,omitempty"`
}

// keyEdited is its answer.
type keyEdited struct {
	// Made says that there was no such file before.
	Made  bool   `json:"made,omitempty"`
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

const (
	// authorizedKeysCommand is the argument that makes this program edit the file.
	authorizedKeysCommand = "authorized-keys"
	maxKeyEdit            = 64 << 10
	// maxAuthorizedKeys is how large an authorized_keys may be that is edited: 1 MiB is
	// more than a thousand keys, all of which sshd reads at each sign-in.
	maxAuthorizedKeys = 1 << 20
	// keyMark is what the comment of a single-use key begins with; its id follows.
	keyMark = "socketxp-single-use "
)

// keyLine returns the line of authorized_keys that lets a key in until a time, from
// this machine alone: where the agent's connections come from. Of what a key may do,
// restrict leaves programs, and pty adds terminals: no forwarding, no ~/.ssh/rc.
func keyLine(id string, publicKey ed25519.PublicKey, expiry string) (string, error) {
	key, err := ssh.NewPublicKey(publicKey)
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	return `restrict,pty,from="127.0.0.0/8,::1",expiry-time="` + expiry + `" ` + text + " " + keyMark + id, nil
}

// withKey returns the text of an authorized_keys with a line more, at its beginning:
// so the rest stays what it is, down to an end without a line break.
func withKey(text []byte, line string) []byte {
	return append([]byte(line+"\n"), text...)
}

// withoutKeys returns the text without the lines of single-use keys with these ids.
// All other bytes stay.
func withoutKeys(text []byte, ids []string) []byte {
	if !bytes.Contains(text, []byte(keyMark)) {
		return text
	}
	out := make([]byte, 0, len(text))
	for line := range bytes.Lines(text) {
		if !isKeyOf(string(line), ids) {
			out = append(out, line...)
		}
	}
	return out
}

func isKeyOf(line string, ids []string) bool {
	line = strings.TrimRight(line, "\r\n")
	if !strings.HasPrefix(line, "restrict,pty,") {
		return false
	}
	for _, id := range ids {
		if strings.HasSuffix(line, " "+keyMark+id) {
			return true
		}
	}
	return false
}

// AuthorizedKeysMain does what stdin asks for with the authorized_keys of the user it
// runs as, and answers on stdout. It trusts nothing that it finds in the home folder.
func AuthorizedKeysMain(stdin io.Reader, stdout io.Writer) error {
	data, err := io.ReadAll(io.LimitReader(stdin, maxKeyEdit+1))
	if err != nil {
		return err
	}
	var edit keyEdit
	if err := socketxp.StrictUnmarshal(data, &edit); err != nil || len(data) > maxKeyEdit {
		return hinted("", "the agent's request can't be read")
	}
	made, err := editAuthorizedKeys(edit)
	answer := keyEdited{Made: made}
	if err != nil {
		answer.Error = err.Error()
		var e *socketxp.Error
		if errors.As(err, &e) {
			answer.Hint = e.Hint
		}
	}
	return json.NewEncoder(stdout).Encode(answer)
}

// serverVersion reads the first line of an SSH server. Ok is false if that is not
// OpenSSH.
func serverVersion(greeting string) (major, minor int, ok bool) {
	m := openSSHGreeting.FindStringSubmatch(greeting)
	if m == nil {
		return 0, 0, false
	}
	major, _ = strconv.Atoi(m[1]) // at most three digits
	minor, _ = strconv.Atoi(m[2])
	return major, minor, true
}

var openSSHGreeting = regexp.MustCompile(`^SSH-2\.0-OpenSSH_([0-9]{1,3})\.([0-9]{1,3})(?:[^0-9]|$)`)

// expiryFor returns a time as the expiry-time of an OpenSSH with this greeting reads
// it: in UTC from 9.1 on, and before that in the time zone of the machine, which is
// zone. Those before 7.7 know no such option.
func expiryFor(greeting string, at time.Time, zone *time.Location) (string, error) {
	const form = "20060102150405"
	major, minor, ok := serverVersion(greeting)
	version := major*1000 + minor
	switch {
	case !ok:
		return "", hinted("sign in by password or key", "the server at this port is not OpenSSH")
	case version >= 9_001:
		return at.UTC().Format(form) + "Z", nil
	case version >= 7_007:
		return at.In(zone).Format(form), nil
	}
	return "", hinted("sign in by password or key", "OpenSSH %d.%d knows no keys that expire: it has to be 7.7 or newer", major, minor)
}

// machineZone is the time zone of this machine, which is sshd's: the agent's own may
// be another by its environment.
func machineZone() *time.Location {
	data, err := readFile("/etc/localtime", maxZoneFile, false)
	if err != nil {
		return time.UTC // as the C library has it
	}
	zone, err := time.LoadLocationFromTZData("machine", data)
	if err != nil {
		return time.UTC
	}
	return zone
}

const maxZoneFile = 1 << 20
