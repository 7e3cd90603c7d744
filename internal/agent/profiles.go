package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"socketxp"
)

// profilesFile holds the gateways that a person works with, and their tokens.
const (
	profilesFile = "profiles.json"
	maxProfiles  = 1 << 20
)

// Profile is a gateway that a person works with, and the token by which they are
// signed in there.
type Profile struct {
	Name    string
	Gateway socketxp.GatewayAddress
	// OwnCA says that the gateway is verified by the certificates of the profile's own
	// file (Profiles.CAFile), not by a pin or the system's authorities.
	OwnCA bool

	Token          string // "" while not signed in
	TokenID        string
	ExpiresAt      time.Time
	Email, Account string
	// Known is what this machine shows when the person enters their password, so that the
	// gateway knows it from strangers (api.KnownCookie); "" if there is none.
	Known string
}

// Profiles are those of one user of this machine.
type Profiles struct {
	Current string // name of the one that is used when none is named; may be ""
	List    []Profile
	dir     *Dir
}

// profilesJSON is the form on disk.
type profilesJSON struct {
	Current  string        `json:"current"`
	Profiles []profileJSON `json:"profiles"`
}

type profileJSON struct {
	Name      string     `json:"name"`
	Gateway   string     `json:"gateway"`
	Pin       string     `json:"pin,omitempty"`
	NextPin   string     `json:"next_pin,omitempty"`
	OwnCA     bool       `json:"own_ca,omitempty"`
	Token     string     `json:"token,omitempty"`
	TokenID   string     `json:"token_id,omitempty"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	Email     string     `json:"email,omitempty"`
	Account   string     `json:"account,omitempty"`
	Known     string     `json:"known,omitempty"`
}

// CheckProfileName returns an error unless s is 1 to 63 of a-z, 0-9, ".", "_" and
// "-" and begins with a letter or digit.
func CheckProfileName(s string) error {
	ok := len(s) >= 1 && len(s) <= 63 && strings.Trim(s[:1], "._-") != ""
	if !ok || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
		return hinted("it has 1 to 63 of a-z, 0-9, ., _ and -", "the profile name %q is not valid", clip(s))
	}
	return nil
}

// ProfileNameFor returns the name of a profile that nobody gave one: its gateway's.
func ProfileNameFor(gatewayURL string) string {
	u, err := url.Parse(gatewayURL)
	if err != nil {
		return "default"
	}
	name := strings.Trim(strings.ReplaceAll(u.Hostname(), ":", "-"), "._-")
	if p := u.Port(); p != "" && p != "443" {
		name += "-" + p
	}
	if CheckProfileName(name) != nil {
		return "default"
	}
	return name
}

// parseProfiles reads the text of profiles.json. Errors show no secret.
func parseProfiles(data []byte) (Profiles, error) {
	var f profilesJSON
	if err := socketxp.StrictUnmarshal(data, &f); err != nil {
		return Profiles{}, err
	}
	all := Profiles{Current: f.Current}
	for i, j := range f.Profiles {
		p := Profile{
			Name: j.Name, Gateway: socketxp.GatewayAddress{URL: j.Gateway, Pin: j.Pin, NextPin: j.NextPin}, OwnCA: j.OwnCA,
			Token: j.Token, TokenID: j.TokenID, Email: j.Email, Account: j.Account, Known: j.Known,
		}
		if j.ExpiresAt != nil {
			p.ExpiresAt = j.ExpiresAt.UTC()
		}
		if err := p.check(); err != nil {
			return Profiles{}, fmt.Errorf("profile %d: %w", i+1, err)
		}
		if _, err := all.Find(p.Name); err == nil {
			return Profiles{}, fmt.Errorf("the profile %s is there twice", p.Name)
		}
		all.List = append(all.List, p)
	}
	if _, err := all.Find(all.Current); err != nil && all.Current != "" {
		return Profiles{}, errors.New("the current profile is not there")
	}
	return all, nil
}

func (p Profile) check() error {
	if err := CheckProfileName(p.Name); err != nil {
		return err
	}
	canonical, err := socketxp.CheckGatewayURL(p.Gateway.URL)
	switch {
	case err != nil:
		return err
	case canonical != p.Gateway.URL:
		return fmt.Errorf("the gateway's address is not written %s", canonical)
	case p.Gateway.CheckPins() != nil:
		return errors.New("the gateway's key pins are not valid")
	case p.Gateway.Pin != "" && p.OwnCA:
		return errors.New("it has both a pin and an authority of its own")
	case p.Token != "" && !looksLikeToken(p.Token), p.TokenID != "" && !socketxp.ValidID(p.TokenID):
		return errors.New("the token is not valid")
	case p.Known != "" && !looksLikeKnown(p.Known):
		return errors.New("what the gateway knows this machine by is not valid")
	case p.ExpiresAt.Year() > 9999:
		return errors.New("the time of expiry is not valid")
	}
	return errors.Join(socketxp.CheckDisplayText("email address", p.Email, 254), socketxp.CheckDisplayText("account", p.Account, 128))
}

// Learn takes over the pins of the gateway's key that a token of the gateway's names,
// got over a connection that the profile vouches for: so the profile follows a change
// of the key that the gateway has announced. It reports whether that changed anything.
func (p *Profile) Learn(token string) bool {
	addr, _, err := socketxp.TokenAddress(token)
	if err != nil || !p.Gateway.Trusts(addr.Pin) || addr.Pin == p.Gateway.Pin && addr.NextPin == p.Gateway.NextPin {
		return false
	}
	p.Gateway.Pin, p.Gateway.NextPin = addr.Pin, addr.NextPin
	return true
}

func looksLikeToken(s string) bool {
	_, _, err := socketxp.TokenAddress(s)
	return err == nil
}

// looksLikeKnown reports whether s is the value of a cookie: base64url, and no more than
// a gateway would ever give.
func looksLikeKnown(s string) bool {
	_, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil && len(s) <= 86 && !strings.ContainsAny(s, "\r\n")
}

func (all *Profiles) text() ([]byte, error) {
	f := profilesJSON{Current: all.Current, Profiles: []profileJSON{}}
	for _, p := range all.List {
		if err := p.check(); err != nil {
			return nil, err
		}
		j := profileJSON{
			Name: p.Name, Gateway: p.Gateway.URL, Pin: p.Gateway.Pin, NextPin: p.Gateway.NextPin, OwnCA: p.OwnCA,
			Token: p.Token, TokenID: p.TokenID, Email: p.Email, Account: p.Account, Known: p.Known,
		}
		if !p.ExpiresAt.IsZero() {
			at := p.ExpiresAt.UTC()
			j.ExpiresAt = &at
		}
		f.Profiles = append(f.Profiles, j)
	}
	return json.MarshalIndent(f, "", "  ")
}

// profilesDir is the folder of a user's own configuration.
func profilesDir() (*Dir, error) {
	base, err := os.UserConfigDir()
	if err != nil || !filepath.IsAbs(base) {
		return nil, hinted("set XDG_CONFIG_HOME to one", "there is no folder for your profiles: %v", err)
	}
	return OpenDir(filepath.Join(base, "socketxp"))
}

// ReadProfiles returns the user's profiles; none is no error.
func ReadProfiles() (*Profiles, error) {
	dir, err := profilesDir()
	if err != nil {
		return nil, err
	}
	return dir.profiles()
}

func (d *Dir) profiles() (*Profiles, error) {
	data, err := d.read(profilesFile, maxProfiles, true)
	if errors.Is(err, fs.ErrNotExist) {
		return &Profiles{dir: d}, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := parseProfiles(data)
	if err != nil {
		return nil, hinted("repair it, or remove it and sign in again", "%s: %v", d.file(profilesFile), err)
	}
	all.dir = d
	return &all, nil
}

// ChangeProfiles has change change the user's profiles, one program at a time, and
// writes them, durably.
func ChangeProfiles(ctx context.Context, change func(*Profiles) error) error {
	dir, err := profilesDir()
	if err != nil {
		return err
	}
	release, err := dir.lockKnown(ctx)
	if err != nil {
		return err
	}
	defer release()
	all, err := dir.profiles()
	if err != nil {
		return err
	}
	if err := change(all); err != nil {
		return err
	}
	data, err := all.text()
	if err != nil {
		return err
	}
	return dir.write(profilesFile, append(data, '\n'))
}

// Find returns the profile of a name.
func (all *Profiles) Find(name string) (Profile, error) {
	for _, p := range all.List {
		if p.Name == name {
			return p, nil
		}
	}
	var known []string
	for _, p := range all.List {
		known = append(known, p.Name)
	}
	hint := "socketxp profile ls lists them"
	if near := socketxp.Nearest(name, known); near != "" {
		hint = "did you mean " + near + "?"
	}
	return Profile{}, hinted(hint, "there is no profile %s", clip(name))
}

// At returns the profile of a gateway: the current one if it is one of several.
func (all *Profiles) At(gatewayURL string) (Profile, bool) {
	if p, err := all.Find(all.Current); err == nil && p.Gateway.URL == gatewayURL {
		return p, true
	}
	i := slices.IndexFunc(all.List, func(p Profile) bool { return p.Gateway.URL == gatewayURL })
	if i < 0 {
		return Profile{}, false
	}
	return all.List[i], true
}

// Put adds a profile, or replaces the one of its name. The first becomes current.
// Authorities are the certificates of a profile with OwnCA; nil leaves its file as it
// is.
func (all *Profiles) Put(p Profile, authorities []byte) error {
	if err := p.check(); err != nil {
		return err
	}
	if p.OwnCA && authorities != nil {
		if err := all.dir.write(caName(p.Name), authorities); err != nil {
			return err
		}
	}
	if !p.OwnCA {
		if err := all.dir.wipe(caName(p.Name)); err != nil {
			return err
		}
	}
	i := slices.IndexFunc(all.List, func(q Profile) bool { return q.Name == p.Name })
	if i < 0 {
		all.List = append(all.List, p)
	} else {
		all.List[i] = p
	}
	if all.Current == "" {
		all.Current = p.Name
	}
	return nil
}

// Remove removes a profile. If it was current, none is.
func (all *Profiles) Remove(name string) error {
	if _, err := all.Find(name); err != nil {
		return err
	}
	all.List = slices.DeleteFunc(all.List, func(p Profile) bool { return p.Name == name })
	if all.Current == name {
		all.Current = ""
	}
	return all.dir.wipe(caName(name))
}

func caName(profile string) string { return "ca-" + profile + ".pem" }

// CAFile returns the file of the certificates that vouch for a profile's gateway, or
// "" if it has none of its own.
func (all *Profiles) CAFile(p Profile) string {
	if !p.OwnCA {
		return ""
	}
	return all.dir.file(caName(p.Name))
}
