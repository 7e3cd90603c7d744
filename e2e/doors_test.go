package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// handedOut are the ports that freePort has returned; scripts run side by side.
var handedOut sync.Map

// freePort returns a free port of the loopback addresses, below the range of
// ephemeral ones so that no client sits on it until it is used. It returns none
// twice.
func freePort() (port int, err error) {
	err = waitFor(10*time.Second, func() error {
		port = 10_000 + mathrand.IntN(20_000)
		for _, host := range []string{"127.0.0.1", "::1"} {
			l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
			if host == "::1" && errors.Is(err, syscall.EADDRNOTAVAIL) { // a machine without IPv6
				continue
			}
			if err != nil {
				return err
			}
			if err := l.Close(); err != nil {
				return err
			}
		}
		if _, taken := handedOut.LoadOrStore(port, true); taken {
			return fmt.Errorf("port %d is another script's", port)
		}
		return nil
	})
	return port, err
}

// cmdPort is `port VAR...`: free ports.
func cmdPort(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		port, err := freePort()
		check(ts, err)
		ts.Setenv(name, strconv.Itoa(port))
	}
}

// cmdNewCert is `newcert NAME [HOST]`: a certificate for a host
// (balancer.example.com) that nobody has a reason to trust, in NAME.crt and NAME.key,
// and both in NAME.pem.
func cmdNewCert(ts *testscript.TestScript, _ bool, args []string) {
	host := "balancer.example.com"
	if len(args) > 1 {
		host = args[1]
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(ts, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: args[0]}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(ts, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	check(ts, err)
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	secret = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	for suffix, text := range map[string][]byte{".crt": cert, ".key": secret, ".pem": append(cert, secret...)} {
		check(ts, os.WriteFile(ts.MkAbs(args[0]+suffix), text, 0o600))
	}
}

// cmdReadme is `readme KIND N FILE [OLD NEW]...`: appends the README's Nth snippet of
// a kind to FILE, with the example's values replaced by the test's, each of which
// must be there.
func cmdReadme(ts *testscript.TestScript, _ bool, args []string) {
	text, err := os.ReadFile("../README.md")
	check(ts, err)
	n, err := strconv.Atoi(args[1])
	check(ts, err)
	all := regexp.MustCompile("(?s)\n```"+regexp.QuoteMeta(args[0])+"\n(.*?)```\n").FindAllSubmatch(text, -1)
	if len(all) < n {
		ts.Fatalf("the README has %d snippets of kind %s", len(all), args[0])
	}
	snippet := string(all[n-1][1])
	for pairs := args[3:]; len(pairs) > 1; pairs = pairs[2:] {
		if !strings.Contains(snippet, pairs[0]) {
			ts.Fatalf("the README's %s has no %q", args[0], pairs[0])
		}
		snippet = strings.ReplaceAll(snippet, pairs[0], pairs[1])
	}
	f, err := os.OpenFile(ts.MkAbs(args[2]), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	check(ts, err)
	_, err = f.WriteString(snippet)
	check(ts, errors.Join(err, f.Close()))
}

// cmdFill is `fill FILE`: replaces $VAR in a file by the script's variables.
func cmdFill(ts *testscript.TestScript, _ bool, args []string) {
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	check(ts, os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// cmdTLSProxy is `tlsproxy`: an HTTP proxy, on $TLSPROXY (its address alone is
// $TLSPROXY_ADDR), that connects gw.test to
// this machine and lets nothing but TLS through. It counts in $WORK/tlsproxy.log
// what it lets through and what it does not.
func cmdTLSProxy(ts *testscript.TestScript, _ bool, _ []string) {
	s := stageOf(ts)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(ts, err)
	s.mu.Lock()
	s.listeners = append(s.listeners, l)
	s.mu.Unlock()
	log, err := os.OpenFile(ts.MkAbs("tlsproxy.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	check(ts, err)
	ts.Defer(func() { _ = log.Close() })
	ts.Setenv("TLSPROXY_ADDR", l.Addr().String())
	ts.Setenv("TLSPROXY", "http://"+l.Addr().String())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				serveTLSProxy(c, log)
			}()
		}
	}()
}

func serveTLSProxy(c net.Conn, log io.Writer) {
	r := bufio.NewReader(c)
	request, err := http.ReadRequest(r)
	if err != nil || request.Method != http.MethodConnect {
		return
	}
	host, port, err := net.SplitHostPort(request.Host)
	if err != nil || host != "gw.test" {
		_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\n\r\n")
		return
	}
	up, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		return
	}
	defer func() { _ = up.Close() }()
	_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	first, err := r.Peek(1)
	if err != nil {
		return
	}
	if first[0] != 0x16 { // TLS's record of a handshake
		_, _ = fmt.Fprintln(log, "refused")
		return
	}
	_, _ = fmt.Fprintln(log, "passed")
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(up, r)
		_ = up.(*net.TCPConn).CloseWrite() //nolint:forcetypeassert // it was dialled as TCP
	})
	both.Go(func() {
		_, _ = io.Copy(c, up)
		_ = c.(*net.TCPConn).CloseWrite() //nolint:forcetypeassert // it was accepted as TCP
	})
	both.Wait()
}
