package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"time"
)

// The ways of others, as their users would set them up.

// installed returns the path of a program, which Debian may keep where only root
// looks.
func installed(name string) (string, error) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin") {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && !st.IsDir() { //nolint:gosec // as exec.LookPath does
			return path, nil
		}
	}
	return "", fmt.Errorf("%s %w", name, errMissing)
}

// openSSH is an sshd in the middle: the device's ssh opens a port there (-R), the
// laptop's ssh brings it home (-L).
func (l *lab) openSSH(ctx context.Context, target string, options ...string) (*way, error) {
	sshd, err := installed("sshd")
	if err != nil {
		return nil, err
	}
	keygen, err := installed("ssh-keygen")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(l.dir, "ssh-")
	if err != nil {
		return nil, err
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, key := range []string{"host", "id"} {
		if out, err := exec.CommandContext(ctx, keygen, "-q", "-t", "ed25519", "-N", "", "-f", in(key)).CombinedOutput(); err != nil { //nolint:gosec // a fixed program
			return nil, fmt.Errorf("%w: %s", err, out)
		}
	}
	public, err := os.ReadFile(in("id.pub"))
	if err != nil {
		return nil, err
	}
	host, err := os.ReadFile(in("host.pub"))
	if err != nil {
		return nil, err
	}
	var ports [3]string // of sshd, at the gateway, at the laptop
	for i := range ports {
		if ports[i], err = freePort(ctx); err != nil {
			return nil, err
		}
	}
	at := net.JoinHostPort(l.far.host(), ports[0])
	config := fmt.Sprintf("ListenAddress %s\nHostKey %s\nAuthorizedKeysFile %s\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nMaxSessions 1000\nMaxStartups 1000\nLogLevel ERROR\n", at, in("host"), in("id.pub"))
	known := fmt.Sprintf("[%s]:%s %s", l.far.host(), ports[0], host)
	if err := writeAll(dir, map[string]string{"config": config, "known": known, "id.pub": string(public)}); err != nil {
		return nil, err
	}
	_ = os.MkdirAll("/run/sshd", 0o755) //nolint:gosec // sshd wants it so; without root it is there or not needed
	server, err := l.start("sshd", l.far, nil, sshd, "-D", "-e", "-f", in("config"))
	if err != nil {
		return nil, err
	}
	if err := l.answers(ctx, l.far, at, server); err != nil {
		return nil, err
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	ssh := func(ns *namespace, forward ...string) (*process, error) {
		argv := append([]string{"ssh", "-N", "-F", "none", "-i", in("id"), "-o", "UserKnownHostsFile=" + in("known"), "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-p", ports[0]}, options...)
		return l.start("ssh", ns, nil, append(append(argv, forward...), me.Username+"@"+l.far.host())...)
	}
	device, err := ssh(l.far, "-R", "127.0.0.1:"+ports[1]+":"+target)
	if err != nil {
		return nil, err
	}
	if err := l.answers(ctx, l.far, "127.0.0.1:"+ports[1], device); err != nil {
		return nil, err
	}
	laptop, err := ssh(l.near, "-L", "127.0.0.1:"+ports[2]+":127.0.0.1:"+ports[1])
	if err != nil {
		return nil, err
	}
	addr := "127.0.0.1:" + ports[2]
	return &way{addr: addr, procs: []*process{server, device, laptop}, gateway: server}, l.answers(ctx, l.near, addr, laptop)
}

// stunnel is TLS between two stunnels, with HAProxy in between, which passes it on.
func (l *lab) stunnel(ctx context.Context, target string) (*way, error) {
	stunnel, err := installed("stunnel")
	if err != nil {
		return nil, err
	}
	haproxy, err := installed("haproxy")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(l.dir, "stunnel-")
	if err != nil {
		return nil, err
	}
	cert, key, err := pemOfSelfSigned()
	if err != nil {
		return nil, err
	}
	var at [3]string // the device's stunnel, HAProxy, the laptop's stunnel
	for i, host := range []string{l.far.host(), l.far.host(), "127.0.0.1"} {
		port, err := freePort(ctx)
		if err != nil {
			return nil, err
		}
		at[i] = net.JoinHostPort(host, port)
	}
	const common = "foreground = yes\npid =\nsslVersion = TLSv1.3\nciphersuites = TLS_AES_128_GCM_SHA256\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\ndebug = err\n"
	if err := writeAll(dir, map[string]string{
		"cert.pem":    string(cert) + string(key),
		"device.conf": fmt.Sprintf("%s[link]\ncert = %s/cert.pem\naccept = %s\nconnect = %s\n", common, dir, at[0], target),
		"laptop.conf": fmt.Sprintf("%s[link]\nclient = yes\naccept = %s\nconnect = %s\n", common, at[2], at[1]),
		"haproxy.cfg": fmt.Sprintf("global\n  maxconn 5000\ndefaults\n  mode tcp\n  option splice-auto\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\nlisten link\n  bind %s\n  server device %s\n", at[1], at[0]),
	}); err != nil {
		return nil, err
	}
	w := &way{addr: at[2]}
	for i, s := range []struct {
		name, config string
		argv         []string
		ns           *namespace
	}{
		{"stunnel", "device.conf", []string{stunnel}, l.far},
		{"haproxy", "haproxy.cfg", []string{haproxy, "-db", "-f"}, l.far},
		{"stunnel", "laptop.conf", []string{stunnel}, l.near},
	} {
		p, err := l.start(s.name, s.ns, nil, append(s.argv, filepath.Join(dir, s.config))...)
		if err != nil {
			return nil, err
		}
		if err := l.answers(ctx, s.ns, at[i], p); err != nil {
			return nil, err
		}
		w.procs = append(w.procs, p)
	}
	w.gateway = w.procs[1]
	return w, nil
}

// answers waits until somebody listens at an address of a namespace.
func (l *lab) answers(ctx context.Context, ns *namespace, addr string, p *process) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	err = until(ctx, 15*time.Second, func() bool {
		// To connect would be a connection of the way's, and not reach a namespace.
		argv := ns.inside([]string{"ss", "-Hltn", "sport", "=", ":" + port})
		out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output() //nolint:gosec // a number
		return err == nil && strings.Contains(string(out), host+":"+port)
	})
	if err != nil {
		return fmt.Errorf("%s does not listen at %s: %w\n%s", p.name, addr, err, p.out.String())
	}
	return nil
}

// writeAll writes files that only this user reads.
func writeAll(dir string, files map[string]string) error {
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}
