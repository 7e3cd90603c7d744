package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"socketxp"
	"socketxp/internal/control"
)

// Config is what an operator sets. The YAML names are the keys of the
// configuration file, the flags (with - for _) and the environment (SOCKETXP_ and
// upper case). DefaultConfig has the defaults.
type Config struct {
	Listen         string        `yaml:"listen"`           // host:port of the one public port
	PublicURL      string        `yaml:"public_url"`       // https://host[:port] under which agents and people reach Listen
	DataDir        string        `yaml:"data_dir"`         // keys, certificate, SQLite
	Database       string        `yaml:"database"`         // "" for SQLite in DataDir, or postgres://…
	TLSCert        string        `yaml:"tls_cert"`         // PEM files; both or neither
	TLSKey         string        `yaml:"tls_key"`          //
	TLSNextCert    string        `yaml:"tls_next_cert"`    // PEM file of the certificate whose key is announced before it becomes tls_cert
	ACMEAgree      bool          `yaml:"acme_agree"`       // the certificate authority's terms are accepted, and ACME is used
	ACMEEmail      string        `yaml:"acme_email"`       // of the account there; may be empty
	ACMECA         string        `yaml:"acme_ca"`          // URL of its directory
	ACMECAFile     string        `yaml:"acme_ca_file"`     // PEM file of the authorities of that URL; "" for the system's
	ACMEDomains    string        `yaml:"acme_domains"`     // with commas; "" for the host of public_url
	ACMEHTTPListen string        `yaml:"acme_http_listen"` // host:port of HTTP-01; "" for none
	ACMEDNSHook    string        `yaml:"acme_dns_hook"`    // program of DNS-01; "" for none
	MetricsListen  string        `yaml:"metrics_listen"`   // loopback address of /metrics; "" for none
	LogLevel       string        `yaml:"log_level"`        // debug, info, warn or error
	LogFormat      string        `yaml:"log_format"`       // auto, text or json
	RevealTokens   bool          `yaml:"reveal_tokens"`    // whether a token's text can be shown again
	SignUp         bool          `yaml:"sign_up"`          // whether anybody can make an account of their own
	DrainTimeout   time.Duration `yaml:"drain_timeout"`    // how long open links may go on at shutdown
	Heartbeat      time.Duration `yaml:"heartbeat"`        // how long an idle agent may be silent
	DeviceKeyLife  time.Duration `yaml:"device_key_life"`  // devices whose key is older are asked to change it; 0 for never

	// TrustedProxies are the load balancers in front: networks, separated by commas,
	// from which the PROXY protocol and X-Forwarded-For are heeded.
	TrustedProxies string `yaml:"trusted_proxies"`
}

// DefaultConfig returns the configuration of a gateway that was given none.
func DefaultConfig() Config {
	return Config{
		Listen:         ":8443",
		PublicURL:      "", // https://localhost and the port of Listen
		ACMECA:         defaultACME,
		ACMEHTTPListen: ":80",
		MetricsListen:  "127.0.0.1:9464",
		LogLevel:       "info",
		LogFormat:      "auto",
		RevealTokens:   true,
		DrainTimeout:   10 * time.Second,
		Heartbeat:      control.DefaultHeartbeat,
	}
}

// Validate returns an error that names what is wrong.
func (c *Config) Validate() error {
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return errors.New("listen is not host:port")
	}
	if c.PublicURL != "" {
		u, err := socketxp.CheckGatewayURL(c.PublicURL)
		if err != nil {
			return fmt.Errorf("public_url: %w", err)
		}
		c.PublicURL = u
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("tls_cert and tls_key go together")
	}
	if err := c.checkACME(); err != nil {
		return err
	}
	if c.TLSNextCert != "" && c.TLSCert == "" {
		return errors.New("tls_next_cert goes with tls_cert: a key that the gateway made itself is changed by admin rotate-tls-key")
	}
	if _, err := parseProxies(c.TrustedProxies); err != nil {
		return fmt.Errorf("trusted_proxies: %w", err)
	}
	if c.MetricsListen != "" {
		host, _, err := net.SplitHostPort(c.MetricsListen)
		if err != nil {
			return errors.New("metrics_listen is not host:port")
		}
		if addr, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !addr.IsLoopback()) {
			return errors.New("metrics_listen is not a loopback address: metrics are for this machine only")
		}
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.LogLevel) {
		return errors.New("log_level is not debug, info, warn or error")
	}
	if !slices.Contains([]string{"auto", "text", "json"}, c.LogFormat) {
		return errors.New("log_format is not auto, text or json")
	}
	if c.DeviceKeyLife != 0 && (c.DeviceKeyLife < minKeyLife || c.DeviceKeyLife > maxKeyLife) {
		return errors.New("device_key_life is not 0 (never), or 24h to 87600h (ten years)")
	}
	if c.DrainTimeout < 0 || c.DrainTimeout > time.Hour {
		return errors.New("drain_timeout is not 0 to 1h")
	}
	if c.Heartbeat < control.MinHeartbeat || c.Heartbeat > control.MaxHeartbeat || c.Heartbeat%time.Second != 0 {
		return errors.New("heartbeat is not 10s to 15m in whole seconds")
	}
	return nil
}

// A visitor has to meet a device once in MaxVouchers changes of its key, or asks a
// person: with a day for each that is a month.
const (
	minKeyLife = 24 * time.Hour
	maxKeyLife = 10 * 365 * 24 * time.Hour
)
