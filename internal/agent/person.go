package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"socketxp"
	"socketxp/internal/api"
)

// Client returns a client of the REST API of a profile's gateway, with the profile's
// token as its credential, if it has one.
func (all *Profiles) Client(p Profile) (*api.Client, error) {
	roots, err := all.roots(p)
	if err != nil {
		return nil, err
	}
	return newClient(all.dir, p.Gateway, roots, p.Token)
}

// newClient remembers the way to the gateway in dir, unless that is nil.
func newClient(dir *Dir, addr socketxp.GatewayAddress, roots *x509.CertPool, credential string) (*api.Client, error) {
	gw, err := newGateway(addr, roots)
	if err != nil {
		return nil, err
	}
	if dir != nil {
		gw.remember(dir, nil)
	}
	return api.NewClientBy(addr, gw.restTLS, credential), nil
}

func (all *Profiles) roots(p Profile) (*x509.CertPool, error) {
	if !p.OwnCA {
		return nil, nil
	}
	data, err := all.dir.read(caName(p.Name), maxAuthorities, true)
	if err != nil {
		return nil, err
	}
	roots, err := parseAuthorities(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", all.CAFile(p), err)
	}
	return roots, nil
}

// TokenClient returns a client for the token of a script, and the address of its
// gateway: the one that the token names, or the profile's. What vouches for the
// gateway is the token's pin, else what vouches for the profile of that gateway.
func (all *Profiles) TokenClient(token string, p Profile) (*api.Client, Profile, error) {
	addr, ok, err := socketxp.TokenAddress(token)
	if err != nil {
		return nil, p, err
	}
	if ok && addr.URL != p.Gateway.URL {
		known, _ := all.At(addr.URL)
		p = known
	}
	if p.Gateway.URL == "" || addr.Pin != "" {
		p = Profile{Gateway: addr}
	}
	if p.Gateway.URL == "" {
		return nil, p, hinted("sign in once, or name a profile by --profile", "the token does not say which gateway it is for")
	}
	roots, err := all.roots(p)
	if err != nil {
		return nil, p, err
	}
	c, err := newClient(all.dir, p.Gateway, roots, token)
	return c, p, err
}

// CAClient returns a client without credential of a gateway that a file of
// certificates vouches for, and what is in the file.
func CAClient(gatewayURL, file string) (*api.Client, []byte, error) {
	data, err := readFile(file, maxAuthorities, false)
	if err != nil {
		return nil, nil, fmt.Errorf("CA file: %w", err)
	}
	roots, err := parseAuthorities(data)
	if err != nil {
		return nil, nil, fmt.Errorf("CA file %s: %w", file, err)
	}
	c, err := newClient(nil, socketxp.GatewayAddress{URL: gatewayURL}, roots, "")
	return c, data, err
}

// Contact meets a gateway of which only the address is known. It returns the pin of
// the key that the gateway showed if no authority of the system vouches for it, "" if
// one does. In the first case nothing was sent to it but the question for a
// WebSocket, which holds nothing of anybody's.
func Contact(ctx context.Context, gatewayURL string) (pin string, err error) {
	c, err := newClient(nil, socketxp.GatewayAddress{URL: gatewayURL}, nil, "")
	if err != nil {
		return "", err
	}
	defer c.Close()
	_, err = c.Gateway(ctx)
	var unverified *tls.CertificateVerificationError
	if errors.As(err, &unverified) && len(unverified.UnverifiedCertificates) > 0 {
		return socketxp.PinOf(unverified.UnverifiedCertificates[0]), nil
	}
	return "", APIError(gatewayURL, err)
}

// ParsePin returns the pin that a person typed, in either alphabet of base64, with or
// without padding and the name of the hash.
func ParsePin(s string) (string, error) {
	for _, prefix := range []string{"SHA256:", "sha256:", "sha256/"} {
		s = strings.TrimPrefix(s, prefix)
	}
	s = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(strings.TrimSpace(s), "="))
	if err := socketxp.CheckPin(s); err != nil {
		return "", hinted("the gateway prints it at its start", "this is not the pin of a key")
	}
	return s, nil
}

// APIError makes an error of an api.Client one of this package: a *RefusedError for
// what the gateway answered, else an *UnreachableError. That something is not there
// stays as it is: it is no refusal.
func APIError(gatewayURL string, err error) error {
	var no *socketxp.Error
	var away *UnreachableError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &away): // which holds an error of ours, and none of the gateway's
		return away
	case errors.As(err, &no) && no.Code == socketxp.CodeNotFound:
		return no
	case errors.As(err, &no):
		return refused(no.Code, no.Message, no.Hint, 0)
	}
	return unreachable(gatewayURL, err)
}
