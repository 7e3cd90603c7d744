package socketxp_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport says which of our packages each package may import. It is the
// layout of this repository: to change the layout, change this table and say why
// in the commit.
var mayImport = map[string][]string{
	".":                     {},
	"internal/token":        {"."},
	"internal/control":      {"."},
	"internal/link":         {"."},
	"internal/relay":        {".", "internal/link"},
	"internal/websocket":    {},
	"internal/api":          {"."},
	"internal/store":        {".", "internal/store/sqlc"},
	"internal/store/sqlc":   {}, // generated from the SQL
	"internal/store/pgtest": {}, // starts a throwaway PostgreSQL, for tests
	"internal/manual":       {}, // makes and checks the manuals of both programs, for tests
	"internal/cluster":      {"."},
	"internal/terminal":     {"."},
	"internal/agent":        {".", "internal/control", "internal/link", "internal/websocket", "internal/api"},
	"internal/gateway":      {".", "internal/token", "internal/control", "internal/link", "internal/relay", "internal/websocket", "internal/api", "internal/terminal", "portal"},
	"portal":                {},
	"cmd/socketxp":          {".", "internal/control", "internal/link", "internal/api", "internal/agent"},
	"cmd/socketxp-gateway":  {".", "internal/gateway", "internal/store", "internal/cluster"},
	"bench":                 {".", "internal/api", "internal/agent"}, // measures the programs; no program imports it
}

// testOnly are packages that no program may import, this table or not.
var testOnly = []string{"internal/store/pgtest", "internal/manual"}

// packages returns the non-test files of every package in the tree, by folder.
// They are parsed here and not listed by the go command: the cache of test
// results does not see what a child process reads.
func packages(t *testing.T, mode parser.Mode) map[string][]*ast.File {
	t.Helper()
	found := make(map[string][]*ast.File)
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"testdata", "node_modules", "bin", "dist"}, d.Name())):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, mode)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(name))
		found[dir] = append(found[dir], f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestImports(t *testing.T) {
	found := packages(t, parser.ImportsOnly)
	for dir := range mayImport {
		if found[dir] == nil && !slices.Contains(testOnly, dir) {
			t.Errorf("%s is in the table, but there is no such package", dir)
		}
	}
	for dir, files := range found {
		allowed, ok := mayImport[dir]
		if !ok {
			t.Errorf("%s is not in the table", dir)
		}
		for _, f := range files {
			for _, spec := range f.Imports {
				name, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				if bad := forbidden(dir, name, allowed); bad != "" {
					t.Errorf("%s imports %s: %s", dir, name, bad)
				}
			}
		}
	}
}

// forbidden returns why a package in dir may not import name, or "".
func forbidden(dir, name string, allowed []string) string {
	first, rest, _ := strings.Cut(name, "/")
	switch {
	case name == "socketxp":
		rest = "."
	case first == "socketxp":
	case dir == "." && strings.Contains(first, "."):
		return "the root imports the standard library only"
	default:
		return ""
	}
	if !slices.Contains(allowed, rest) || slices.Contains(testOnly, rest) {
		return "the table does not allow it"
	}
	return ""
}

// gatewayReaches is all by which the gateway's program could run something or dial
// somewhere by itself, and why it does: what people reach ends at a device.
var gatewayReaches = map[string]map[string]string{
	"internal/gateway": {
		"exec.CommandContext":      "the operator's own hook for DNS records",
		"ssh.ParseAuthorizedKey":   "a device's host key, as text",
		"ssh.MarshalAuthorizedKey": "a device's host key, as text",
		"ssh.NewPublicKey":         "a single-use key, for the audit",
		"ssh.FingerprintSHA256":    "a single-use key, for the audit",
		"syscall.CloseOnExec":      "keeps a socket from that hook",
		"net.Dialer":               "doctor asks this very gateway",
		"http.Client":              "doctor asks this very gateway",
		"http.Transport":           "doctor asks this very gateway",
	},
	"internal/terminal": { // what it speaks to is a device, by a connection that it is handed
		"ssh.PublicKey": "a device's host key", "ssh.ParseAuthorizedKey": "a device's host key, as text", "ssh.MarshalAuthorizedKey": "a device's host key, as text",
		"ssh.FingerprintSHA256": "a device's host key, for people",
		"ssh.KeyAlgoED25519":    "of host keys", "ssh.KeyAlgoECDSA256": "of host keys", "ssh.KeyAlgoECDSA384": "of host keys", "ssh.KeyAlgoECDSA521": "of host keys",
		"ssh.KeyAlgoRSASHA512": "of host keys", "ssh.KeyAlgoRSASHA256": "of host keys", "ssh.KeyAlgoRSA": "of host keys",
		"ssh.Signer": "a person's key", "ssh.ParseRawPrivateKey": "a person's key", "ssh.ParseRawPrivateKeyWithPassphrase": "a person's key",
		"ssh.PassphraseMissingError": "a person's key", "ssh.NewSignerFromKey": "a person's key", "ssh.Unmarshal": "a person's key",
		"ssh.AuthMethod": "a person's sign-in to a device", "ssh.PublicKeys": "a person's sign-in to a device", "ssh.PublicKeysCallback": "a person's sign-in to a device",
		"ssh.PasswordCallback": "a person's sign-in to a device", "ssh.KeyboardInteractive": "a person's sign-in to a device",
		"ssh.Client": "a connection to a device", "ssh.NewClient": "a connection to a device", "ssh.NewClientConn": "a connection to a device", "ssh.ClientConfig": "a connection to a device",
		"ssh.Session": "a program on a device", "ssh.TerminalModes": "a program on a device", "ssh.TTY_OP_ISPEED": "a program on a device", "ssh.TTY_OP_OSPEED": "a program on a device",
		"ssh.ExitError": "a program on a device",
	},
	"cmd/socketxp-gateway": {},
	"internal/relay":       {},
	"internal/control":     {},
	"internal/link":        {},
	"internal/websocket":   {},
	"internal/token":       {},
	"internal/store":       {},
	"internal/cluster":     {},
}

// TestNothingEndsAtTheGateway keeps it so that the gateway has no shell, no files and
// no proxy of its own to be asked for (N-18).
func TestNothingEndsAtTheGateway(t *testing.T) {
	for dir, files := range packages(t, parser.SkipObjectResolution) {
		allowed, ok := gatewayReaches[dir]
		if !ok {
			continue
		}
		for _, f := range files {
			for _, spec := range f.Imports {
				switch name, _ := strconv.Unquote(spec.Path.Value); name {
				case "github.com/pkg/sftp":
					if dir != "internal/terminal" { // which has a device's files, by a connection to it
						t.Errorf("N-18 %s imports %s", dir, name)
					}
				case "github.com/creack/pty", "golang.org/x/crypto/ssh/agent", "net/http/httputil", "net/http/pprof", "net/rpc", "expvar", "plugin":
					t.Errorf("N-18 %s imports %s", dir, name)
				case "net", "crypto/tls", "net/http", "os", "os/exec", "syscall", "golang.org/x/sys/unix", "golang.org/x/crypto/ssh":
					if spec.Name != nil {
						t.Errorf("N-18 %s imports %s by another name, which this test doesn't know", dir, name)
					}
				}
			}
			ast.Inspect(f, func(n ast.Node) bool {
				use, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				of, ok := use.X.(*ast.Ident)
				if !ok {
					return true
				}
				if name := of.Name + "." + use.Sel.Name; reaches(name) && allowed[name] == "" {
					t.Errorf("N-18 %s uses %s", dir, name)
				}
				return true
			})
		}
	}
}

// reaches reports whether a name of the standard library, or of the SSH library, is
// one by which a program runs others or dials.
func reaches(name string) bool {
	pkg, what, _ := strings.Cut(name, ".")
	switch pkg {
	case "exec", "ssh":
		return true
	case "syscall", "unix":
		return strings.Contains(what, "Exec") || what == "Connect"
	case "os":
		return what == "StartProcess"
	case "net", "tls":
		return strings.HasPrefix(what, "Dial")
	case "http":
		return slices.Contains([]string{"Client", "Transport", "DefaultClient", "DefaultTransport", "Get", "Head", "Post", "PostForm"}, what)
	}
	return false
}

// gatewayListens is where the gateway's program opens a port, and why it does.
var gatewayListens = map[string]string{
	"internal/gateway net.ListenConfig": "its port, that of the metrics, and that of ACME's challenges",
	"internal/gateway net.Listen":       "doctor tries whether the port is free",
	"internal/gateway http.Server":      "what HTTPS connections, the metrics' and ACME's come to",
}

// TestNoBus keeps it so that gateways have no way of their own to each other, by
// which others could speak as one of them (N-20): the one that there is, Local, is
// within the process. Whoever builds another has to say here what it listens on, and
// has DESIGN.md of internal/cluster to keep. That nothing is dialled is kept by
// TestNothingEndsAtTheGateway.
func TestNoBus(t *testing.T) {
	for dir, files := range packages(t, parser.SkipObjectResolution) {
		if _, ok := gatewayReaches[dir]; !ok {
			continue
		}
		for _, f := range files {
			for _, spec := range f.Imports {
				name, _ := strconv.Unquote(spec.Path.Value)
				for _, bus := range []string{"nats", "grpc", "redis", "amqp", "kafka", "mqtt", "memberlist", "raft", "etcd", "net/rpc"} {
					if strings.Contains(name, bus) {
						t.Errorf("N-20 %s imports %s", dir, name)
					}
				}
				if dir == "internal/cluster" && name != "socketxp" && strings.ContainsAny(name, "./") && name != "sync/atomic" {
					t.Errorf("N-20 %s imports %s", dir, name)
				}
			}
			ast.Inspect(f, func(n ast.Node) bool {
				use, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if of, ok := use.X.(*ast.Ident); ok {
					if name := of.Name + "." + use.Sel.Name; listens(name) && gatewayListens[dir+" "+name] == "" {
						t.Errorf("N-20 %s uses %s", dir, name)
					}
				}
				return true
			})
		}
	}
}

// listens reports whether a name is one by which a program opens a port or takes what
// comes to one.
func listens(name string) bool {
	pkg, what, _ := strings.Cut(name, ".")
	switch pkg {
	case "net", "tls":
		return what != "Listener" && (strings.HasPrefix(what, "Listen") || what == "NewListener" || what == "FileListener" || what == "FilePacketConn")
	case "http":
		return strings.HasPrefix(what, "Serve") && what != "ServeMux" && what != "ServeContent" && what != "ServeFile" && what != "ServeFileFS" || strings.HasPrefix(what, "Listen")
	case "syscall", "unix":
		return what == "Listen" || what == "Bind"
	}
	return false
}

// requestHeaders are all headers of a request that the gateway reads, and what for.
// None says who somebody is but Authorization and the cookie, which are proved.
var requestHeaders = map[string]string{
	"Accept-Encoding":          "how pages are sent",
	"Authorization":            "a token",
	"Content-Encoding":         "refused",
	"Content-Type":             "must be JSON",
	"Idempotency-Key":          "under which an answer is kept, for its sender alone",
	"Last-Event-ID":            "where a stream of events goes on",
	"Origin":                   "refused at the doors",
	"Sec-Fetch-Site":           "refused at the doors",
	"Sec-WebSocket-Accept":     "of an answer",
	"Sec-WebSocket-Extensions": "of an answer",
	"Sec-WebSocket-Key":        "a WebSocket",
	"Sec-WebSocket-Protocol":   "of an answer",
	"Sec-WebSocket-Version":    "a WebSocket",
	"User-Agent":               "text for people",
	"X-Forwarded-For":          "where a connection comes from, of trusted proxies alone",
	// Those of answers to the gateway's own questions, and of its own answers.
	"Allow": "", "Date": "", "RateLimit-Remaining": "", "Set-Cookie": "",
}

// TestNoHeaderIsBelieved keeps it so that nobody becomes somebody by a header that a
// proxy or another gateway could have set (N-20).
func TestNoHeaderIsBelieved(t *testing.T) {
	found := make(map[string]bool)
	note := func(dir, name string) {
		found[name] = true
		if _, ok := requestHeaders[name]; !ok {
			t.Errorf("N-20 %s reads the header %s", dir, name)
		}
	}
	for dir, files := range packages(t, parser.SkipObjectResolution) {
		if _, ok := gatewayReaches[dir]; !ok {
			continue
		}
		for _, f := range files {
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					if name, ok := headerRead(n); ok {
						note(dir, name)
					}
				case *ast.IndexExpr: // h["Name"]
					if name, ok := literal(n.Index); ok && isHeader(n.X) {
						note(dir, name)
					}
				case *ast.Field:
					if n.Tag != nil {
						tag, _ := strconv.Unquote(n.Tag.Value)
						if name, ok := reflect.StructTag(tag).Lookup("header"); ok {
							note(dir, name)
						}
					}
				}
				return true
			})
		}
	}
	for name := range requestHeaders {
		if !found[name] {
			t.Errorf("nobody reads %s: take it out of the table", name)
		}
	}
}

// headerRead returns the header that a call reads: h.Get("Name") or h.Values("Name").
func headerRead(call *ast.CallExpr) (string, bool) {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || len(call.Args) != 1 || method.Sel.Name != "Get" && method.Sel.Name != "Values" || !isHeader(method.X) {
		return "", false
	}
	return literal(call.Args[0])
}

// isHeader reports whether x is called as headers are here.
func isHeader(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name == "h" || x.Name == "header"
	case *ast.SelectorExpr:
		return x.Sel.Name == "Header" || x.Sel.Name == "header"
	case *ast.CallExpr:
		return isHeader(x.Fun)
	}
	return false
}

func literal(x ast.Expr) (string, bool) {
	text, ok := x.(*ast.BasicLit)
	if !ok {
		return "", false
	}
	s, err := strconv.Unquote(text.Value)
	return s, err == nil
}

func TestForbidden(t *testing.T) {
	for _, c := range []struct {
		dir, name string
		ok        bool
	}{
		{".", "net/netip", true},
		{".", "socketxp/internal/token", false},
		{".", "github.com/google/uuid", false},
		{"internal/token", "socketxp", true},
		{"internal/token", "github.com/golang-jwt/jwt/v5", true},
		{"internal/token", "socketxp/internal/store", false},
		{"internal/gateway", "socketxp/internal/store", false},
		{"cmd/socketxp", "socketxp/internal/gateway", false},
		{"cmd/socketxp-gateway", "socketxp/internal/gateway", true},
		{"cmd/socketxp-gateway", "socketxp/internal/store/pgtest", false},
		{"elsewhere", "socketxp", false},
	} {
		if bad := forbidden(c.dir, c.name, mayImport[c.dir]); (bad == "") != c.ok {
			t.Errorf("%s importing %s: %q", c.dir, c.name, bad)
		}
	}
}

func TestPackageComments(t *testing.T) {
	for dir, files := range packages(t, parser.ParseComments|parser.PackageClauseOnly) {
		if !slices.ContainsFunc(files, func(f *ast.File) bool { return !ast.IsGenerated(f) }) {
			continue
		}
		var docs []string
		for _, f := range files {
			if f.Doc != nil {
				docs = append(docs, f.Doc.Text())
			}
		}
		if len(docs) != 1 {
			t.Errorf("%s has %d package comments, not 1", dir, len(docs))
			continue
		}
		if name := files[0].Name.Name; name != "main" && !strings.HasPrefix(docs[0], "Package "+name+" ") {
			t.Errorf("the package comment of %s does not start with its name", dir)
		}
	}
}
