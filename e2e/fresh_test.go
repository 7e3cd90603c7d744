package e2e

import (
	"database/sql"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// setUpLink finds the one-time link in what a gateway says that nobody has set up.
const setUpLink = `(https://\S+)/setup#([A-Za-z0-9_-]{43})`

// fresh is a gateway that was started on a folder that was not there, with no setting
// but that of the folder and what it is given, under a umask that hides nothing.
type fresh struct {
	dir, secret string // of the set-up link
	gateway     *process
}

func startFresh(t *testing.T, s *stage, name string, run []string, settings ...string) fresh {
	t.Helper()
	f := fresh{dir: filepath.Join(s.work, name)}
	argv := slices.Concat(run, []string{
		"sh", "-c", `umask 0; exec "$@"`, "sh", filepath.Join(programs, "socketxp-gateway"), "serve", "--data-dir", f.dir,
	}, settings)
	var err error
	if f.gateway, err = s.start(name, append(os.Environ(), "GORACE=halt_on_error=1 exitcode=66"), argv...); err != nil {
		t.Fatal(err)
	}
	m, err := f.gateway.await("stdout", setUpLink, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	f.secret = m[2]
	if _, err := f.gateway.await("stderr", `serving`, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestFreshInstall is of a gateway as it is after its first start: what nobody has set
// must let nobody in.
func TestFreshInstall(t *testing.T) {
	needs(t, "unshare", "ip")
	s := &stage{work: t.TempDir(), procs: make(map[string]*process)}
	t.Cleanup(s.stopAll)
	// The first has a network of its own, as its ports are those that it has by itself.
	alone := startFresh(t, s, "alone", []string{"unshare", "--net", "sh", "-c", `ip link set lo up && exec "$@"`, "sh"})
	other := startFresh(t, s, "other", nil, "--listen", "127.0.0.1:0", "--metrics-listen", "")
	m, err := other.gateway.await("stdout", listening, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient("https://localhost:" + m[1])
	if err := waitFor(30*time.Second, func() error { return ready(c.url) }); err != nil {
		t.Fatal(err)
	}

	t.Run("C-02 only the documented ports listen", func(t *testing.T) {
		got, want := listeners(t, alone.gateway.cmd.Process.Pid), []string{"tcp 127.0.0.1:9464", "tcp6 [::]:8443"}
		if !slices.Equal(got, want) {
			t.Errorf("it listens on %q, want %q", got, want)
		}
	})
	t.Run("C-02 nothing in the data folder is open to others", func(t *testing.T) {
		for _, f := range []fresh{alone, other} {
			files := 0
			err := filepath.WalkDir(f.dir, func(name string, d fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				info, err := d.Info()
				if err != nil {
					return err
				}
				if files++; info.Mode().Perm()&0o077 != 0 {
					t.Errorf("%s is %v", name, info.Mode())
				}
				return nil
			})
			if err != nil || files < 5 {
				t.Errorf("%d files, %v", files, err)
			}
		}
	})
	t.Run("C-02 X-19 no default account, and no default password", func(t *testing.T) {
		for _, dir := range []string{alone.dir, other.dir} {
			for _, table := range []string{"users", "accounts", "memberships", "sign_ins", "tokens", "devices"} {
				if n := rowsOf(t, dir, table); len(n) != 0 {
					t.Errorf("%s has %v", table, n)
				}
			}
		}
		for _, email := range []string{"admin", "admin@localhost", "admin@example.com", "root", "socketxp"} { // an address has 30 tries
			for _, password := range []string{"", "admin", "password", "socketxp"} {
				status, answer, err := c.do("POST", "/api/v1/signin", fmt.Sprintf(`{"email":%q,"password":%q}`, email, password))
				if err != nil || status != 401 {
					t.Errorf("%s, %q: status %d, %v: %s", email, password, status, err, answer)
				}
			}
		}
	})
	t.Run("X-19 two share no secret", func(t *testing.T) {
		for _, name := range []string{"gateway.key", "gateway.crt", "signing.key"} {
			var bodies [2]string
			for i, dir := range []string{alone.dir, other.dir} {
				data, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				block, _ := pem.Decode(data)
				if block == nil {
					t.Fatalf("%s is no PEM", name)
				}
				bodies[i] = string(block.Bytes)
			}
			if bodies[0] == bodies[1] {
				t.Errorf("the two have the same %s", name)
			}
		}
		if alone.secret == other.secret {
			t.Error("the two have the same set-up link")
		}
		// All that stands in the databases and is long enough to be, or to stand for, a
		// secret.
		mine, compared := values(t, alone.dir), 0
		for value, where := range values(t, other.dir) {
			compared++
			if mine[value] != "" {
				t.Errorf("%q is in both: %s, %s", value, mine[value], where)
			}
		}
		if compared < 3 { // the gateway's id, the hash of the set-up secret, the public signing key
			t.Fatalf("only %d values were compared", compared)
		}
	})
	t.Run("X-19 the first owner is made by the link alone, and once", func(t *testing.T) {
		setUp := func(secret, email string) int {
			t.Helper()
			status, _, err := c.do("POST", "/api/v1/setup", fmt.Sprintf(`{"secret":%q,"email":%q,"password":%q,"account":"acme"}`, secret, email, ownerPassword))
			if err != nil {
				t.Fatal(err)
			}
			return status
		}
		for name, secret := range map[string]string{"no secret": "", "that of another gateway": alone.secret, "a guess": strings.Repeat("A", 43)} {
			if status := setUp(secret, ownerEmail); status != 403 {
				t.Errorf("%s: status %d", name, status)
			}
		}
		if status := setUp(other.secret, ownerEmail); status != 200 {
			t.Errorf("the link: status %d", status)
		}
		if status := setUp(other.secret, "second@example.com"); status != 409 {
			t.Errorf("the link again: status %d", status)
		}
		if users := rowsOf(t, other.dir, "users"); len(users) != 1 {
			t.Errorf("there are %d users", len(users))
		}
		if log := other.gateway.read("stderr"); strings.Contains(log, other.secret) {
			t.Error("X-17 the secret is in the log")
		}
	})
	for _, f := range []fresh{alone, other} {
		f.gateway.signal(syscall.SIGTERM)
		if code, err := f.gateway.wait(30 * time.Second); err != nil || code != 0 {
			t.Errorf("%s ended with status %d, %v: %s", f.gateway.name, code, err, lines(f.gateway.read("stderr"), 20))
		}
	}
}

// listeners returns what a process, alone in its network, takes connections or packets
// on, as the kernel has it.
func listeners(t *testing.T, pid int) (found []string) {
	t.Helper()
	for _, proto := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6"} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, proto))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line) // sl local_address rem_address st …
			if len(f) < 4 || f[0] == "sl" || strings.HasPrefix(proto, "tcp") && f[3] != "0A" {
				continue
			}
			found = append(found, proto+" "+kernelAddress(t, f[1]))
		}
	}
	return found
}

// kernelAddress returns an address of /proc/net in the usual form, if it is one that
// this test expects, or else as it is.
func kernelAddress(t *testing.T, s string) string {
	t.Helper()
	host, hexPort, ok := strings.Cut(s, ":")
	var port int
	if _, err := fmt.Sscanf(hexPort, "%X", &port); err != nil || !ok {
		t.Fatalf("not an address: %q", s)
	}
	switch host {
	case "0100007F":
		host = "127.0.0.1"
	case strings.Repeat("0", 32):
		host = "[::]"
	}
	return fmt.Sprintf("%s:%d", host, port)
}

// query runs do on each row of a query on a data folder's database.
func query(t *testing.T, dir, text string, do func(columns []string, values []any)) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "gateway.db")+"?mode=ro&_busy_timeout=5000")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		values := make([]any, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		do(columns, values)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}

func rowsOf(t *testing.T, dir, table string) (rows [][]any) {
	t.Helper()
	query(t, dir, "SELECT * FROM "+table, func(_ []string, values []any) { rows = append(rows, values) })
	return rows
}

// ownTable is what a table of the gateway's own is called: none of SQLite's, of the
// migrations, or of what an index is made of.
var ownTable = regexp.MustCompile(`^(settings|signing_keys|epoch|clock|idempotency|users|known_browsers|host_keys|accounts|memberships|sign_ins|tokens|devices?(_authorizations|_groups|_keys|_texts)?|tunnels|sessions|audit(_heads)?|events)$`)

// names are columns of what the program calls things.
var names = []string{"settings.key", "audit.action"}

// values returns all text and bytes of a database of 16 bytes or more that could be a
// secret, or stand for one, and where they are.
func values(t *testing.T, dir string) map[string]string {
	t.Helper()
	found, left := make(map[string]string), []string{}
	query(t, dir, "SELECT name FROM sqlite_schema WHERE type = 'table'", func(_ []string, v []any) {
		table := fmt.Sprint(v[0])
		if !ownTable.MatchString(table) {
			left = append(left, table)
			return
		}
		query(t, dir, "SELECT * FROM "+table, func(columns []string, values []any) {
			for i, v := range values {
				text, isText := v.(string)
				if raw, ok := v.([]byte); ok {
					text, isText = string(raw), true
				}
				where := table + "." + columns[i]
				if isText && len(text) >= 16 && strings.Trim(text, "\x00") != "" && !slices.Contains(names, where) {
					found[text] = where
				}
			}
		})
	})
	for _, table := range left {
		if !strings.HasPrefix(table, "sqlite_") && !strings.HasPrefix(table, "goose_") && !strings.HasPrefix(table, "device_search") && table != "device_trigrams" {
			t.Errorf("this test does not know the table %s", table)
		}
	}
	return found
}
