package terminal

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"io"

	"socketxp"

	"golang.org/x/crypto/ssh"
)

// SignIn is what the person is to the SSH server. Its secrets are in memory only, and
// let go as soon as the server has said yes or no: this copy is overwritten, and those
// of the request and of the library go with the next collection.
type SignIn struct {
	password []byte
	signer   ssh.Signer
	// place is called when the host key is trusted, and remove after the sign-in.
	place  Place
	remove func()
}

// Place puts a key on the device for one sign-in, as one of its users. What it returns
// takes the key away.
type Place func(ctx context.Context) (user string, remove func(), err error)

// Grant asks for nothing: the built-in server lets in whoever has come so far.
func Grant() *SignIn { return &SignIn{} }

// maxPassword is what OpenSSH's server takes.
const maxPassword = 1024

// Password signs in by a password, of which it takes a copy.
func Password(password []byte) (*SignIn, error) {
	if len(password) == 0 || len(password) > maxPassword {
		return nil, socketxp.Errorf(socketxp.CodeInvalid, "the password is empty or longer than %d bytes", maxPassword)
	}
	return &SignIn{password: bytes.Clone(password)}, nil
}

const (
	// maxKey holds an RSA key of 16,384 bits in every format.
	maxKey = 16 << 10
	// maxRSA is twice the largest in use. Larger ones sign for seconds.
	maxRSA = 8192
	// maxRounds is how often a passphrase may be hashed: ten times what ssh-keygen does.
	maxRounds = 256
)

// Key signs in by a private key in PEM, with its passphrase if it has one.
func Key(text, passphrase []byte) (*SignIn, error) {
	invalid := func(message, hint string) (*SignIn, error) {
		return nil, socketxp.Errorf(socketxp.CodeInvalid, "%s", message).WithHint(hint)
	}
	const formats = "it is a file such as ~/.ssh/id_ed25519, which begins with -----BEGIN; ssh-keygen -i and puttygen convert others"
	if len(text) > maxKey {
		return invalid("the key is too long", formats)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return invalid("this is not a private key in PEM", formats)
	}
	if rounds, err := kdfRounds(block); err != nil {
		return invalid("the private key is damaged", formats)
	} else if rounds > maxRounds {
		return invalid("the key's passphrase costs too many rounds to try", "ssh-keygen -p -a 24 -f FILE")
	}
	var raw any
	var err error
	if len(passphrase) > 0 {
		raw, err = ssh.ParseRawPrivateKeyWithPassphrase(text, passphrase)
	} else {
		raw, err = ssh.ParseRawPrivateKey(text)
	}
	var missing *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &missing):
		return invalid("the key has a passphrase", "enter it")
	case err != nil && len(passphrase) > 0:
		return invalid("the key can't be read, or the passphrase is wrong", formats)
	case err != nil:
		return invalid("the key can't be read", formats)
	}
	if key, ok := raw.(*rsa.PrivateKey); ok && key.N.BitLen() > maxRSA {
		return invalid("the RSA key is too large", "use an Ed25519 key: ssh-keygen -t ed25519")
	}
	signer, err := ssh.NewSignerFromKey(raw)
	if err != nil {
		return invalid("keys of this kind are not served", formats)
	}
	return &SignIn{signer: signer}, nil
}

// SingleUse signs in by a key that is on the device while it does.
func SingleUse(key ed25519.PrivateKey, place Place) (*SignIn, error) {
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, err
	}
	return &SignIn{signer: signer, place: place}, nil
}

// opensshMagic begins the content of keys in OpenSSH's own format.
const opensshMagic = "openssh-key-v1\x00"

// kdfRounds returns how often a key in OpenSSH's format has its passphrase hashed.
// Other formats do so once.
func kdfRounds(block *pem.Block) (uint32, error) {
	body, ok := bytes.CutPrefix(block.Bytes, []byte(opensshMagic))
	if block.Type != "OPENSSH PRIVATE KEY" {
		return 0, nil
	}
	if !ok {
		return 0, io.ErrUnexpectedEOF
	}
	var head struct {
		Cipher, KDF, Options string
		Rest                 []byte `ssh:"rest"`
	}
	if err := ssh.Unmarshal(body, &head); err != nil {
		return 0, err
	}
	if head.KDF == "none" {
		return 0, nil
	}
	var options struct {
		Salt   string
		Rounds uint32
	}
	if err := ssh.Unmarshal([]byte(head.Options), &options); err != nil {
		return 0, err
	}
	return options.Rounds, nil
}

// methods returns how to sign in, most telling first.
func (s *SignIn) methods() []ssh.AuthMethod {
	switch {
	case s.signer != nil:
		return []ssh.AuthMethod{ssh.PublicKeys(s.signer)}
	case s.password != nil:
		return []ssh.AuthMethod{
			ssh.PasswordCallback(func() (string, error) { return string(s.password), nil }),
			// Servers that ask by PAM want the password as the answer to their one question.
			ssh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) ([]string, error) {
				switch {
				case len(questions) == 0:
					return nil, nil
				case len(questions) > 1 || echos[0]:
					return nil, errors.New("the server asks for more than a password")
				}
				return []string{string(s.password)}, nil
			}),
		}
	}
	return nil
}

// unplace has a key that was placed taken away.
func (s *SignIn) unplace() {
	if s.remove != nil {
		s.remove()
		s.remove = nil
	}
}

// wipe drops the secrets.
func (s *SignIn) wipe() {
	s.unplace()
	clear(s.password)
	s.password, s.signer, s.place = nil, nil, nil
}
