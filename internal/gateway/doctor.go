package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"socketxp"
)

// Verdict is what a check of Diagnose comes to.
type Verdict string

// The verdicts. A failure is what keeps a gateway from serving, or soon will.
const (
	Good    Verdict = "ok"
	Warning Verdict = "warning"
	Failure Verdict = "failure"
)

// Finding is what one check found.
type Finding struct {
	Check   string  `json:"check"`
	Verdict Verdict `json:"verdict"`
	Detail  string  `json:"detail"`           // what is so
	Advice  string  `json:"advice,omitempty"` // what to do about it
}

// DatabaseHealth is what a look at the database, which changed nothing, found.
type DatabaseHealth struct {
	Engine          string
	Version, Newest int   // of its schema; that this program knows
	Size, WALSize   int64 // bytes; 0 for PostgreSQL
	HighAt          time.Time
	Keys            []socketxp.SigningKey
}

// Doctor is what Diagnose asks.
type Doctor struct {
	Config Config
	// Database looks at the database without making or migrating it.
	Database func(context.Context) (DatabaseHealth, error)
	Now      func() time.Time
	// ClockURL is an https:// address whose Date header the clock is compared with; ""
	// for none: then nothing is asked outside of this gateway.
	ClockURL string

	running  bool // a gateway runs in the data folder
	database *DatabaseHealth
	leaf     *x509.Certificate // of the files
	found    []Finding
}

// Diagnose makes all checks, in the order in which one depends on another, beside
// a gateway that runs or without one. It makes, migrates and repairs nothing.
func (d *Doctor) Diagnose(ctx context.Context) []Finding {
	d.found = nil
	d.running = dataDirInUse(d.Config.DataDir)
	d.checkFolder()
	if _, err := os.Stat(d.Config.DataDir); err == nil {
		d.checkDisk()
		d.checkWriting()
	}
	d.checkDatabase(ctx)
	d.checkClock(ctx)
	d.checkSigningKey()
	d.checkCertificate()
	d.checkPort(ctx)
	d.checkPublicURL(ctx)
	d.checkMetrics(ctx)
	return d.found
}

func (d *Doctor) good(check, format string, args ...any) {
	d.found = append(d.found, Finding{Check: check, Verdict: Good, Detail: fmt.Sprintf(format, args...)})
}

func (d *Doctor) bad(v Verdict, check, advice, format string, args ...any) {
	d.found = append(d.found, Finding{Check: check, Verdict: v, Detail: fmt.Sprintf(format, args...), Advice: advice})
}

// dataDirInUse reports whether a gateway holds the folder's lock.
func dataDirInUse(dir string) bool {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR, 0) //nolint:gosec // the operator's own folder
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// isSecret reports whether a file of the data folder is one that nobody else may
// read.
func isSecret(name string) bool {
	return strings.HasSuffix(name, ".key") || strings.HasPrefix(name, databaseFile)
}

func (d *Doctor) checkFolder() {
	const check = "data folder"
	dir := d.Config.DataDir
	st, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.bad(Failure, check, "the gateway makes it when it first starts; is --data-dir the right one?", "%s is not there", dir)
		return
	case err != nil:
		d.bad(Failure, check, "run this as the user that the gateway runs as, or as root", "%v", err)
		return
	case !st.IsDir():
		d.bad(Failure, check, "name a folder with --data-dir", "%s is not a folder", dir)
		return
	case st.Mode().Perm()&0o077 != 0:
		d.bad(Failure, check, "chmod 700 "+dir, "%s is open to others (mode %#o)", dir, st.Mode().Perm())
		return
	}
	if err := errRestoring(dir); err != nil {
		d.bad(Failure, check, "socketxp-gateway admin restore --force FILE, again", "%v", err)
		return
	}
	owner := st.Sys().(*syscall.Stat_t).Uid
	entries, err := os.ReadDir(dir)
	if err != nil {
		d.bad(Failure, check, "run this as the user that the gateway runs as, or as root", "%v", err)
		return
	}
	for _, e := range entries {
		p := filepath.Join(dir, e.Name())
		st, err := e.Info()
		switch {
		case !isSecret(e.Name()) || errors.Is(err, fs.ErrNotExist):
		case err != nil:
			d.bad(Failure, check, "run this as the user that the gateway runs as, or as root", "%v", err)
			return
		case st.Mode().Perm()&0o077 != 0:
			d.bad(Failure, check, "chmod 600 "+p, "%s is open to others (mode %#o)", p, st.Mode().Perm())
			return
		case st.Sys().(*syscall.Stat_t).Uid != owner:
			d.bad(Failure, check, "chown --reference="+dir+" "+p, "%s is another user's than the folder, and the gateway may not be able to read it", p)
			return
		}
	}
	state := "no gateway runs in it"
	if d.running {
		state = "a gateway runs in it"
	}
	d.good(check, "%s, mode %#o; %s", dir, st.Mode().Perm(), state)
}

// How much room there should be: a busy gateway's database grows by some 100 MiB
// a month, and what has no room for a log of SQLite's own (64 MiB) can't write.
const (
	littleSpace = 1 << 30
	noSpace     = 128 << 20
)

func (d *Doctor) checkDisk() {
	const check = "disk"
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.Config.DataDir, &st); err != nil {
		d.bad(Failure, check, "", "%v", err)
		return
	}
	free := int64(st.Bavail) * st.Bsize //nolint:gosec // far below 2^63
	percent, files := 100, "-"
	if st.Blocks > 0 {
		percent = int(st.Bavail * 100 / st.Blocks) //nolint:gosec // at most 100
	}
	noFiles := false
	if st.Files > 0 { // some file systems don't count them
		files = strconv.FormatUint(st.Ffree, 10)
		noFiles = st.Ffree < 100
	}
	text := fmt.Sprintf("%s free (%d %%), room for %s files", bytesText(free), percent, files)
	switch {
	case free < noSpace || noFiles:
		d.bad(Failure, check, "make room now: without it the gateway refuses all writes", "%s", text)
	case free < littleSpace || percent < 5:
		d.bad(Warning, check, "make room before it is full", "%s", text)
	default:
		d.good(check, "%s", text)
	}
}

// slowSync is what a disk should not take to have something: every write of the
// gateway waits for it.
const slowSync = 100 * time.Millisecond

func (d *Doctor) checkWriting() {
	const check = "writing"
	f, err := os.CreateTemp(d.Config.DataDir, ".doctor-")
	if err != nil {
		d.bad(Failure, check, "is the file system mounted read-only, or another user's?", "%v", err)
		return
	}
	defer func() { _ = f.Close() }()
	if err := os.Remove(f.Name()); err != nil {
		d.bad(Failure, check, "", "%v", err)
		return
	}
	start := time.Now()
	if _, err := f.Write(make([]byte, 64<<10)); err != nil {
		d.bad(Failure, check, "is the disk full, or broken? see dmesg", "%v", err)
		return
	}
	if err := f.Sync(); err != nil {
		d.bad(Failure, check, "the disk does not keep what it is given: see dmesg, and replace it", "%v", err)
		return
	}
	if took := time.Since(start); took > slowSync {
		d.bad(Warning, check, "every write waits for this: a faster disk, or less on it", "64 KiB took %v to be on the disk", took.Round(time.Millisecond))
	} else {
		d.good(check, "64 KiB were on the disk within %v", took.Round(10*time.Microsecond))
	}
}

// largeWAL is far above where SQLite folds its log into the database by itself.
const largeWAL = 256 << 20

func (d *Doctor) checkDatabase(ctx context.Context) {
	const check = "database"
	h, err := d.Database(ctx)
	id, _ := OwnSigningKeyID(d.Config.DataDir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && id == "":
		d.bad(Warning, check, "nothing: the gateway makes it when it starts", "there is none yet")
		return
	case errors.Is(err, fs.ErrNotExist):
		d.bad(Failure, check, "socketxp-gateway admin restore: a gateway that starts now knows nobody", "it is gone: %v", err)
		return
	case err != nil:
		d.bad(Failure, check, "socketxp-gateway admin restore, if it is damaged", "%v", err)
		return
	case h.Version < h.Newest:
		d.bad(Warning, check, "make a backup; the next start of this version migrates it", "%s, schema %d of %d that this version knows", h.Engine, h.Version, h.Newest)
	case h.WALSize > largeWAL:
		d.bad(Warning, check, "a long read keeps it from being folded in: a backup, or a tool that holds the file open?", "its log has %s beside %s", bytesText(h.WALSize), bytesText(h.Size))
	case h.Engine == "sqlite":
		d.good(check, "sqlite, schema %d, whole, %s and a log of %s", h.Version, bytesText(h.Size), bytesText(h.WALSize))
	default:
		d.good(check, "%s, schema %d", h.Engine, h.Version)
	}
	d.database = &h
}

func (d *Doctor) checkClock(ctx context.Context) {
	const check = "clock"
	now := d.Now()
	switch {
	case now.Year() < 2026:
		d.bad(Failure, check, "set it, and let NTP keep it", "it says %s", now.UTC().Format(time.RFC3339))
		return
	case d.database != nil && d.database.HighAt.Sub(now) > clockTolerance:
		d.bad(Failure, check, "set it, and let NTP keep it: until it catches up nothing expires",
			"it says %s, and the gateway has seen %s", now.UTC().Format(time.RFC3339), d.database.HighAt.Format(time.RFC3339))
		return
	}
	if d.ClockURL == "" {
		d.good(check, "%s, not before what the gateway has seen", now.UTC().Format(time.RFC3339))
		return
	}
	off, err := d.clockOff(ctx)
	switch {
	case err != nil:
		d.bad(Warning, check, "is "+d.ClockURL+" an address that answers?", "it can't be compared: %v", err)
	case off.Abs() > socketxp.ClockLeeway:
		d.bad(Failure, check, "set it, and let NTP keep it", "it is %v off %s", off.Round(time.Second), d.ClockURL)
	case off.Abs() > clockTolerance:
		d.bad(Warning, check, "let NTP keep it", "it is %v off %s", off.Round(time.Second), d.ClockURL)
	default:
		d.good(check, "as %s has it", d.ClockURL)
	}
}

// clockOff returns how far this machine's clock is ahead of the clock of ClockURL.
func (d *Doctor) clockOff(ctx context.Context) (time.Duration, error) {
	u, err := url.Parse(d.ClockURL)
	if err != nil || u.Scheme != "https" {
		return 0, errors.New("it is not an https:// address")
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, d.ClockURL, nil)
	if err != nil {
		return 0, err
	}
	resp, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		return 0, err
	}
	_ = resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return 0, errors.New("the answer has no date")
	}
	return d.Now().Sub(at.Add(500 * time.Millisecond)), nil // it is given to the second
}

func (d *Doctor) checkSigningKey() {
	const check = "signing key"
	id, err := OwnSigningKeyID(d.Config.DataDir)
	switch {
	case err != nil:
		d.bad(Failure, check, "restore the file from a backup, or move it away: the gateway then makes a new one", "%v", err)
		return
	case id == "" && d.database != nil && len(d.database.Keys) > 0:
		d.bad(Warning, check, "nothing: the gateway makes a new one when it starts, and old tokens go on", "the file of it is missing")
		return
	case id == "":
		d.bad(Warning, check, "nothing: the gateway makes it when it starts", "there is none yet")
		return
	case d.database == nil:
		d.bad(Warning, check, "", "%s; what it is worth, the database would have to say", id)
		return
	}
	for _, k := range d.database.Keys {
		if k.ID != id {
			continue
		}
		if state := k.State(d.Now()); state != socketxp.KeyActive {
			d.bad(Warning, check, "nothing: a gateway that runs makes itself a new one", "%s is %s", id, state)
			return
		}
		d.good(check, "%s, since %s; %d keys in all", id, k.CreatedAt.Format(time.DateOnly), len(d.database.Keys))
		return
	}
	d.bad(Warning, check, "nothing: the gateway takes it into use when it starts", "the database does not know %s", id)
}

// soonExpired is when a certificate should have been renewed: ACME does so 30 days
// before its end.
const soonExpired = 14 * 24 * time.Hour

func (d *Doctor) checkCertificate() {
	const check = "certificate"
	certPath, keyPath := d.Config.TLSCert, d.Config.TLSKey
	if certPath == "" {
		certPath, keyPath = filepath.Join(d.Config.DataDir, certFile), filepath.Join(d.Config.DataDir, certKeyFile)
		if _, err := os.Stat(certPath); errors.Is(err, fs.ErrNotExist) {
			d.bad(Warning, check, "nothing: the gateway makes one when it starts", "there is none yet")
			return
		}
	}
	pair, err := tls.LoadX509KeyPair(certPath, keyPath) // also finds that the key is not the certificate's
	if err != nil {
		d.bad(Failure, check, "put the two files of one certificate there, readable for the gateway", "%v", err)
		return
	}
	d.leaf = pair.Leaf
	d.judgeCertificate(check, pair.Leaf, certPath)
}

func (d *Doctor) judgeCertificate(check string, leaf *x509.Certificate, from string) {
	now := d.Now()
	host := "localhost"
	if u, err := url.Parse(d.Config.PublicURL); err == nil && u.Hostname() != "" {
		host = u.Hostname()
	}
	nameErr := leaf.VerifyHostname(host)
	switch {
	case now.After(leaf.NotAfter):
		d.bad(Failure, check, "renew it, with the same key if devices have pinned it", "%s ended %s", from, leaf.NotAfter.Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		d.bad(Failure, check, "is the clock right?", "%s begins %s", from, leaf.NotBefore.Format(time.RFC3339))
	case leaf.NotAfter.Sub(now) < soonExpired:
		d.bad(Warning, check, "renew it, with the same key if devices have pinned it", "%s ends %s", from, leaf.NotAfter.Format(time.RFC3339))
	case nameErr != nil:
		d.bad(Warning, check, "browsers will not take it; agents do by its pin", "%s is not for %s (%v)", from, host, nameErr)
	default:
		d.good(check, "for %s, until %s, pin %s", host, leaf.NotAfter.Format(time.DateOnly), socketxp.PinOf(leaf))
	}
}

// askWithin bounds each question over the network.
const askWithin = 5 * time.Second

func (d *Doctor) checkPort(ctx context.Context) {
	const check = "port"
	l, err := net.Listen("tcp", d.Config.Listen) //nolint:noctx // it does not wait
	if err == nil {
		_ = l.Close()
		if d.running {
			d.bad(Failure, check, "is --listen what the gateway was started with?", "a gateway runs, but not on %s", d.Config.Listen)
		} else {
			d.good(check, "%s is free", d.Config.Listen)
		}
		return
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		d.bad(Failure, check, "a port below 1024 needs CAP_NET_BIND_SERVICE; an address must be this machine's", "%v", err)
		return
	}
	if !d.running {
		d.bad(Failure, check, "find it: ss -ltnp", "another program holds %s", d.Config.Listen)
		return
	}
	leaf, err := d.ask(ctx, loopback(d.Config.Listen), "localhost")
	switch {
	case err != nil:
		d.bad(Failure, check, "see the gateway's log", "%s does not answer as a gateway that is ready: %v", d.Config.Listen, err)
	case d.leaf != nil && socketxp.PinOf(leaf) != socketxp.PinOf(d.leaf):
		d.bad(Failure, check, "does the gateway of this folder listen elsewhere, or was its certificate changed under it?", "who answers at %s has another key than the certificate's", d.Config.Listen)
	default:
		d.good(check, "the gateway answers at %s and is ready", d.Config.Listen)
	}
}

// loopback is how this machine reaches a listener.
func loopback(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

// ask asks the gateway at addr whether it is ready, and returns the certificate
// that it shows, whoever it is from.
func (d *Doctor) ask(ctx context.Context, addr, name string) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	var leaf *x509.Certificate
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, ServerName: name,
			InsecureSkipVerify: true, //nolint:gosec // no secret is sent, and whose certificate it is, is what we ask
			VerifyConnection: func(state tls.ConnectionState) error {
				leaf = state.PeerCertificates[0]
				return nil
			},
		},
		DisableKeepAlives: true,
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+"/readyz", nil)
	if err != nil {
		return nil, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return leaf, fmt.Errorf("it answers %s", resp.Status)
	}
	return leaf, nil
}

func (d *Doctor) checkPublicURL(ctx context.Context) {
	const check = "public URL"
	if d.Config.PublicURL == "" {
		d.good(check, "none is set: the gateway is reached as localhost")
		return
	}
	u, err := url.Parse(d.Config.PublicURL)
	if err != nil {
		d.bad(Failure, check, "set public_url to https://host[:port]", "it is not an address")
		return
	}
	asked, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(asked, u.Hostname())
	if err != nil {
		d.bad(Failure, check, "give the name an address in the DNS", "%v", err)
		return
	}
	if !d.running {
		d.good(check, "%s is %s; it was not asked, since no gateway runs", u.Hostname(), strings.Join(addrs, ", "))
		return
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	leaf, err := d.ask(ctx, net.JoinHostPort(u.Hostname(), port), u.Hostname())
	switch {
	case err != nil:
		d.bad(Warning, check, "do the firewall and the router let the port through? From inside, some routers don't: ask from outside, too", "%s does not answer from here: %v", d.Config.PublicURL, err)
	case d.leaf != nil && socketxp.PinOf(leaf) != socketxp.PinOf(d.leaf):
		d.bad(Warning, check, "if that is no load balancer of yours, the name leads to another machine", "who answers at %s has another key than this gateway", d.Config.PublicURL)
	default:
		d.good(check, "the gateway answers at %s", d.Config.PublicURL)
		if d.leaf != nil && !leaf.Equal(d.leaf) { // one obtained by ACME, or that of a load balancer
			d.judgeCertificate("certificate shown", leaf, "the certificate at "+d.Config.PublicURL)
		}
	}
}

// fewFiles is the limit of open files below which a gateway has no room for many
// devices: each takes one, each link two.
const fewFiles = 65536

func (d *Doctor) checkMetrics(ctx context.Context) {
	const files, metrics = "open files", "metrics"
	if !d.running || d.Config.MetricsListen == "" {
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil {
			d.judgeFiles(files, -1, float64(limit.Max)) // the Go runtime raises its own to the hard limit
		}
		d.good(metrics, "not asked")
		return
	}
	open, most, err := d.scrape(ctx)
	if err != nil {
		d.bad(Warning, metrics, "is --metrics-listen what the gateway was started with?", "%v", err)
		return
	}
	d.good(metrics, "served at %s", d.Config.MetricsListen)
	if most > 0 {
		d.judgeFiles(files, open, most)
	}
}

// judgeFiles judges the limit of open files; open is -1 if nobody knows.
func (d *Doctor) judgeFiles(check string, open, most float64) {
	used := ""
	if open >= 0 {
		used = fmt.Sprintf("%.0f of ", open)
	}
	switch {
	case open > most*0.9:
		d.bad(Failure, check, "raise it: LimitNOFILE in the unit, or ulimit -n", "%s%.0f are open", used, most)
	case most < fewFiles:
		d.bad(Warning, check, "raise it for more than a few hundred devices: LimitNOFILE in the unit, or ulimit -n", "%s%.0f may be open", used, most)
	default:
		d.good(check, "%s%.0f may be open", used, most)
	}
}

// scrape reads how many files the gateway has open, and may have, from its metrics.
func (d *Doctor) scrape(ctx context.Context) (open, most float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.Config.MetricsListen+"/metrics", nil)
	if err != nil {
		return 0, 0, err
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return 0, 0, fmt.Errorf("it answers %s", resp.Status)
	}
	lines := bufio.NewScanner(io.LimitReader(resp.Body, 4<<20))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.ParseFloat(value, 64)
		switch {
		case err != nil:
		case name == "process_open_fds":
			open = n
		case name == "process_max_fds":
			most = n
		}
	}
	return open, most, lines.Err()
}
