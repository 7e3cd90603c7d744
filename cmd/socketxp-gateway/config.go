package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"socketxp"
	"socketxp/internal/gateway"
)

// maxConfig is the most that is read of a configuration file, or of a file that
// holds a secret.
const maxConfig = 1 << 20

// settings are a gateway's configuration as it comes together: every field is a
// flag, an environment variable and a key of the file, in this order of strength.
type settings struct {
	config gateway.Config
	file   string
	flags  *pflag.FlagSet
	origin map[string]string // by flag name
}

// newSettings defines the flags on cmd.
func newSettings(cmd *cobra.Command) *settings {
	s := &settings{config: gateway.DefaultConfig(), flags: pflag.NewFlagSet("", pflag.ContinueOnError), origin: map[string]string{}}
	s.config.DataDir = defaultDataDir()
	c, f := &s.config, s.flags
	f.StringVar(&c.Listen, "listen", c.Listen, "host:port of the one public port")
	f.StringVar(&c.PublicURL, "public-url", c.PublicURL, "https://host[:port] under which agents and people reach it (default https://localhost and the port)")
	f.StringVar(&c.DataDir, "data-dir", c.DataDir, "folder of keys, certificate and SQLite database")
	f.StringVar(&c.Database, "database", c.Database, "postgres://… (default SQLite in the data folder)")
	f.StringVar(&c.TLSCert, "tls-cert", c.TLSCert, "PEM file of the certificate chain (default a self-signed one in the data folder)")
	f.StringVar(&c.TLSKey, "tls-key", c.TLSKey, "PEM file of its key")
	f.StringVar(&c.TLSNextCert, "tls-next-cert", c.TLSNextCert, "PEM file of the next certificate, if it has another key: announced to devices before it becomes --tls-cert")
	f.StringVar(&c.TrustedProxies, "trusted-proxies", c.TrustedProxies, "networks of load balancers in front, such as 192.0.2.7,10.0.0.0/8: what they say of a client's address counts (PROXY protocol, X-Forwarded-For)")
	f.BoolVar(&c.ACMEAgree, "acme-agree", c.ACMEAgree, "accept the terms of the certificate authority, and obtain the certificate by ACME")
	f.StringVar(&c.ACMEEmail, "acme-email", c.ACMEEmail, "email address of the account there; may be left out")
	f.StringVar(&c.ACMECA, "acme-ca", c.ACMECA, "URL of the ACME directory")
	f.StringVar(&c.ACMECAFile, "acme-ca-file", c.ACMECAFile, "PEM file of the authorities of that URL, if it is a private one")
	f.StringVar(&c.ACMEDomains, "acme-domains", c.ACMEDomains, "names to obtain certificates for, with commas (default the host of --public-url)")
	f.StringVar(&c.ACMEHTTPListen, "acme-http-listen", c.ACMEHTTPListen, "host:port of HTTP-01, which port 80 must lead to; empty for none")
	f.StringVar(&c.ACMEDNSHook, "acme-dns-hook", c.ACMEDNSHook, "program that is called with present or cleanup, the name and the value of a TXT record, for DNS-01")
	f.StringVar(&c.MetricsListen, "metrics-listen", c.MetricsListen, "loopback host:port of /metrics; empty for none")
	f.StringVar(&c.LogLevel, "log-level", c.LogLevel, "debug, info, warn or error")
	f.StringVar(&c.LogFormat, "log-format", c.LogFormat, "text, json, or auto: text on a terminal")
	f.BoolVar(&c.RevealTokens, "reveal-tokens", c.RevealTokens, "whether the text of a token can be shown again")
	f.BoolVar(&c.SignUp, "sign-up", c.SignUp, "let anybody who reaches the gateway make an account of their own")
	f.DurationVar(&c.DrainTimeout, "drain-timeout", c.DrainTimeout, "how long open links may go on when it stops")
	f.DurationVar(&c.DeviceKeyLife, "device-key-life", c.DeviceKeyLife, "age at which a device is asked to change its key, such as 2160h; 0 for never")
	f.DurationVar(&c.Heartbeat, "heartbeat", c.Heartbeat, "how long an idle agent may be silent: longer costs it less data, and a dead one is noticed later")
	cmd.Flags().AddFlagSet(f)
	cmd.Flags().StringVar(&s.file, "config", "", "YAML file with the same settings (_ for -)")
	return s
}

// defaultDataDir is /var/lib/socketxp-gateway for root, else in the user's state
// folder.
func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/socketxp-gateway"
	}
	state := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) { // as the XDG base directory specification says
		state = filepath.Join(os.Getenv("HOME"), ".local", "state")
	}
	return filepath.Join(state, "socketxp-gateway")
}

// load brings in the environment and the file, each for what a stronger source
// has not set, and checks the whole.
func (s *settings) load(environ []string) error {
	s.flags.VisitAll(func(f *pflag.Flag) {
		s.origin[f.Name] = "default"
		if f.Changed {
			s.origin[f.Name] = "--" + f.Name
		}
	})
	if s.origin["database"] != "default" && hasPassword(s.config.Database) {
		return socketxp.Errorf(socketxp.CodeInvalid, "configuration: the password of --database would show in the list of processes").
			WithHint("write the URL into a file that only you can read, and set SOCKETXP_DATABASE_FILE to its name")
	}
	if err := s.loadEnvironment(environ); err != nil {
		return err
	}
	if s.file != "" {
		if err := s.loadFile(); err != nil {
			return err
		}
	}
	if err := s.config.Validate(); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return nil
}

// set takes a value from origin unless a stronger source has set it.
func (s *settings) set(name, value, origin string) error {
	if s.origin[name] != "default" {
		return nil
	}
	if err := s.flags.Set(name, value); err != nil {
		// pflag's error quotes the value, which may be a secret.
		return fmt.Errorf("%s: the value is not a %s", origin, s.flags.Lookup(name).Value.Type())
	}
	s.origin[name] = origin
	return nil
}

// envPrefix starts the names of our environment variables.
const envPrefix = "SOCKETXP_"

// others are variables of that prefix that are not the gateway's: the agent's on
// the same machine, and those of the scripts.
var others = []string{"SOCKETXP_AUTHTOKEN", "SOCKETXP_API_TOKEN", "SOCKETXP_PROFILE", "SOCKETXP_WORK_DIR", "SOCKETXP_RUN_LISTEN", "SOCKETXP_TEST_POSTGRES"}

func (s *settings) loadEnvironment(environ []string) error {
	known := append(s.names(func(name string) string { return envPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }), others...)
	flagOf := map[string]string{}
	s.flags.VisitAll(func(f *pflag.Flag) {
		flagOf[envPrefix+strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))] = f.Name
	})
	sort.Strings(environ)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || contains(others, name) {
			continue
		}
		if flag, ok := flagOf[name]; ok {
			if err := s.set(flag, value, name); err != nil {
				return err
			}
			continue
		}
		if flag, ok := flagOf[strings.TrimSuffix(name, "_FILE")]; ok {
			secret, err := readBounded(value)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if err := s.set(flag, strings.TrimRight(string(secret), "\r\n"), name); err != nil {
				return err
			}
			continue
		}
		return unknown("environment variable", name, known)
	}
	return nil
}

func (s *settings) loadFile() error {
	data, err := readBounded(s.file)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	// Nodes keep the text of each value as it is written, and yaml refuses a key
	// that appears twice.
	values := map[string]yaml.Node{}
	if err := yaml.Unmarshal(data, &values); err != nil {
		return fmt.Errorf("configuration: %s: %w", s.file, err)
	}
	known := s.names(func(name string) string { return strings.ReplaceAll(name, "-", "_") })
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		if !contains(known, key) {
			return unknown("key in "+s.file, key, known)
		}
		node := values[key]
		if node.Kind != yaml.ScalarNode {
			return fmt.Errorf("configuration: %s: line %d: the value of %s is not a single one", s.file, node.Line, key)
		}
		if err := s.set(strings.ReplaceAll(key, "_", "-"), node.Value, s.file); err != nil {
			return fmt.Errorf("configuration: %w (key %s, line %d)", err, key, node.Line)
		}
	}
	return nil
}

func (s *settings) names(spell func(string) string) []string {
	var out []string
	s.flags.VisitAll(func(f *pflag.Flag) { out = append(out, spell(f.Name)) })
	return out
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

func unknown(what, name string, known []string) error {
	err := socketxp.Errorf(socketxp.CodeInvalid, "configuration: unknown %s: %s", what, name)
	if near := socketxp.Nearest(name, known); near != "" {
		return err.WithHint("did you mean " + near + "?")
	}
	return err.WithHint("known are " + strings.Join(known, ", "))
}

// readBounded reads a file of at most 1 MiB.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxConfig {
		return nil, errors.New(path + " is larger than 1 MiB")
	}
	return data, nil
}

func configCommand() *cobra.Command {
	check := &cobra.Command{
		Use: "check", Short: "Say whether the configuration is good", Args: usageArgs(cobra.NoArgs),
		Example: "  socketxp-gateway config check --config /etc/socketxp/gateway.yaml",
	}
	checked := newSettings(check)
	check.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checked.load(os.Environ()); err != nil {
			return err
		}
		_, _ = fmt.Fprintln(cmd.OutOrStdout(), "The configuration is good.")
		return nil
	}
	show := &cobra.Command{
		Use: "show", Short: "Print the configuration that holds, and where each value comes from", Args: usageArgs(cobra.NoArgs),
		Example: "  SOCKETXP_LISTEN=:443 socketxp-gateway config show",
	}
	shown := newSettings(show)
	show.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := shown.load(os.Environ()); err != nil {
			return err
		}
		return shown.print(cmd.OutOrStdout())
	}
	return group("config", "Check or show the configuration", check, show)
}

// print writes the settings as a configuration file, passwords masked.
func (s *settings) print(w io.Writer) error {
	var err error
	s.flags.VisitAll(func(f *pflag.Flag) {
		value := f.Value.String()
		if f.Name == "database" {
			value = maskPassword(value)
		}
		if f.Value.Type() == "string" {
			value = fmt.Sprintf("%q", value)
		}
		_, werr := fmt.Fprintf(w, "%-40s # %s\n", strings.ReplaceAll(f.Name, "-", "_")+": "+value, s.origin[f.Name])
		err = errors.Join(err, werr)
	})
	return err
}

// passwordKeys are the parameters of a database's URL that are secret.
var passwordKeys = []string{"password", "sslpassword"}

// hasPassword reports whether a database's URL has one in it.
func hasPassword(database string) bool {
	u, err := url.Parse(database)
	if err != nil {
		return true // nobody knows
	}
	_, has := u.User.Password()
	for _, key := range passwordKeys {
		has = has || u.Query().Has(key)
	}
	return has
}

// maskPassword returns a database's URL without its password. What can't be
// parsed is not shown at all.
func maskPassword(database string) string {
	if database == "" {
		return ""
	}
	u, err := url.Parse(database)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" || u.Opaque != "" {
		return "(not shown)"
	}
	q, secret := u.Query(), false
	for _, key := range passwordKeys {
		if q.Has(key) {
			q.Set(key, "xxxxx")
			secret = true
		}
	}
	if secret {
		u.RawQuery = q.Encode()
	}
	return u.Redacted()
}
