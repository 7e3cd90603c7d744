package e2e

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// browser is a Chromium without a window, driven over its DevTools pipe.
type browser struct {
	t     testing.TB
	cmd   *exec.Cmd
	in    *os.File
	page  string // session of the one tab
	ended chan struct{}

	mu      sync.Mutex // guards the following
	next    int
	waiting map[int]chan devToolsMessage
	said    []string // errors of pages: scripts that failed, what the policy forbade
}

type devToolsMessage struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// startBrowser starts one that takes the certificate of the key with this pin, and no
// other that authorities don't vouch for.
func startBrowser(t testing.TB, pin string) *browser {
	t.Helper()
	key, err := base64.RawURLEncoding.DecodeString(pin)
	if err != nil {
		t.Fatal(err)
	}
	toBrowser, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, fromBrowser, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, in: in, ended: make(chan struct{}), waiting: make(map[int]chan devToolsMessage)}
	home := t.TempDir()
	b.cmd = exec.Command("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
		"--disable-background-networking", "--disable-component-update", "--user-data-dir="+filepath.Join(home, "profile"),
		"--ignore-certificate-errors-spki-list="+base64.StdEncoding.EncodeToString(key), "--remote-debugging-pipe", "about:blank")
	b.cmd.Env = append(os.Environ(), "HOME="+home)
	b.cmd.ExtraFiles = []*os.File{toBrowser, fromBrowser} // its file descriptors 3 and 4
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = toBrowser.Close(), fromBrowser.Close()
	go b.listen(out)
	t.Cleanup(func() {
		b.mu.Lock()
		said := b.said
		b.mu.Unlock()
		for _, s := range said {
			t.Errorf("the page complained: %s", s)
		}
		_ = in.Close() // it ends by itself when nobody can drive it any more
		over := time.AfterFunc(20*time.Second, func() { _ = b.cmd.Process.Kill() })
		_ = b.cmd.Wait()
		over.Stop()
		<-b.ended
	})
	var target struct{ TargetID string }
	b.call("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.page = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		b.call(b.page, domain+".enable", nil, nil)
	}
	return b
}

// listen takes what the browser says, messages with a NUL after each.
func (b *browser) listen(out *os.File) {
	defer close(b.ended)
	defer func() { _ = out.Close() }()
	r := bufio.NewReader(out)
	for {
		text, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m devToolsMessage
		if json.Unmarshal(text[:len(text)-1], &m) != nil {
			continue
		}
		b.mu.Lock()
		if c := b.waiting[m.ID]; m.ID != 0 && c != nil {
			c <- m
			delete(b.waiting, m.ID)
		}
		switch {
		case m.Method == "Runtime.exceptionThrown":
			b.said = append(b.said, string(m.Params))
		case m.Method == "Log.entryAdded" && strings.Contains(string(m.Params), `"source":"security"`):
			b.said = append(b.said, string(m.Params))
		}
		b.mu.Unlock()
	}
}

func (b *browser) call(session, method string, params, result any) {
	b.t.Helper()
	answer := make(chan devToolsMessage, 1)
	b.mu.Lock()
	b.next++
	id := b.next
	b.waiting[id] = answer
	b.mu.Unlock()
	message := map[string]any{"id": id, "method": method}
	if params != nil {
		message["params"] = params
	}
	if session != "" {
		message["sessionId"] = session
	}
	text, err := json.Marshal(message)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.in.Write(append(text, 0)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	select {
	case m := <-answer:
		if m.Error != nil {
			b.t.Fatalf("%s: %s", method, m.Error.Message)
		}
		if result != nil {
			if err := json.Unmarshal(m.Result, result); err != nil {
				b.t.Fatalf("%s: %v", method, err)
			}
		}
	case <-b.ended:
		b.t.Fatalf("%s: the browser has ended", method)
	case <-ctx.Done():
		b.t.Fatalf("%s: no answer", method)
	}
}

func (b *browser) open(url string) {
	b.t.Helper()
	var r struct{ ErrorText string }
	b.call(b.page, "Page.navigate", map[string]any{"url": url}, &r)
	if r.ErrorText != "" {
		b.t.Fatalf("open %s: %s", url, r.ErrorText)
	}
}

// eval returns the value of an expression in the page as JSON.
func (b *browser) eval(expression string) string {
	b.t.Helper()
	var r struct {
		Result struct{ Value json.RawMessage }
	}
	b.call(b.page, "Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &r)
	return string(r.Result.Value)
}

// sees waits until something that a person would see has this text in it.
func (b *browser) sees(text string) {
	b.t.Helper()
	err := waitFor(30*time.Second, func() error {
		if seen := b.eval(`document.body ? document.body.innerText : ""`); !strings.Contains(seen, strings.Trim(strconv.Quote(text), `"`)) {
			return errors.New(seen)
		}
		return nil
	})
	if err != nil {
		b.t.Fatalf("the page does not show %q: %v", text, err)
	}
}

// click clicks with the mouse on what is at the middle of an element.
func (b *browser) click(selector string) {
	b.t.Helper()
	at := b.eval(fmt.Sprintf(`(() => { const e = document.querySelector(%q); e.scrollIntoView({block: "center"}); const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()`, selector))
	var xy [2]float64
	if err := json.Unmarshal([]byte(at), &xy); err != nil || xy == [2]float64{} {
		b.t.Fatalf("there is nothing to click at %s: %s", selector, at)
	}
	for _, what := range []string{"mousePressed", "mouseReleased"} {
		b.call(b.page, "Input.dispatchMouseEvent", map[string]any{"type": what, "x": xy[0], "y": xy[1], "button": "left", "clickCount": 1}, nil)
	}
}

// write types into a field.
func (b *browser) write(selector, text string) {
	b.t.Helper()
	b.click(selector)
	b.call(b.page, "Input.insertText", map[string]any{"text": text}, nil)
}

// screenshot keeps a picture in $SCREENSHOTS, if that is set, for a person to look at.
func (b *browser) screenshot(name string) {
	b.t.Helper()
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	for _, scheme := range []string{"light", "dark"} {
		for shape, width := range map[string]int{"wide": 1200, "narrow": 360} {
			b.call(b.page, "Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]string{"name": "prefers-color-scheme", "value": scheme}}}, nil)
			b.call(b.page, "Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false}, nil)
			var picture struct{ Data []byte }
			b.call(b.page, "Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}, &picture)
			if err := os.WriteFile(filepath.Join(dir, name+"-"+scheme+"-"+shape+".png"), picture.Data, 0o600); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	b.call(b.page, "Emulation.clearDeviceMetricsOverride", nil, nil)
}

// A person confirms a sign-in by the link that their terminal shows, in a browser in
// which nobody is signed in yet.
func TestBrowserSignIn(t *testing.T) {
	needs(t, "chromium")
	s := &stage{work: t.TempDir(), procs: make(map[string]*process)}
	t.Cleanup(s.stopAll)
	env := append(os.Environ(), "HOME="+s.work, "XDG_CONFIG_HOME="+filepath.Join(s.work, "config"), "GORACE=halt_on_error=1 exitcode=66")
	dir := filepath.Join(s.work, "gateway")
	if err := createOwner(dir, env); err != nil {
		t.Fatal(err)
	}
	url, err := startGateway(s, env, dir, "0")
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := s.proc("gateway")
	if err != nil {
		t.Fatal(err)
	}
	await := func(p *process, stream, pattern string) string {
		t.Helper()
		found, err := p.await(stream, pattern, 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return found[1]
	}
	pin := await(gateway, "stdout", `(?m)^Key  (\S+)$`)
	signIn := func(name string) (*process, string) {
		t.Helper()
		p, err := s.start(name, env, filepath.Join(programs, "socketxp"), "signin", url, "--pin", pin, "--profile", name)
		if err != nil {
			t.Fatal(err)
		}
		return p, await(p, "stderr", `(?m)^    (https://\S+)$`)
	}
	b := startBrowser(t, pin)

	laptop, link := signIn("laptop")
	_, code, _ := strings.Cut(link, "#")
	b.open(link)
	b.sees("First, sign in")
	if at := b.eval("location.href"); strings.Contains(at, code) {
		t.Errorf("the code is still in the address bar: %s", at)
	}
	b.screenshot("1-signin")
	b.write("#email", ownerEmail)
	b.write("#password", "not the password")
	b.click("#signin button[type=submit]")
	b.sees("The email address or the password is wrong.")
	b.eval(`document.querySelector("#password").value = ""`)
	b.write("#password", ownerPassword)
	b.click("#signin button[type=submit]")
	// W-19: it asks, with all that a person needs to tell a stranger's sign-in from theirs.
	b.sees("Is this you?")
	b.sees(code)
	b.sees("127.0.0.1")
	host, _ := os.Hostname()
	b.sees(host)
	b.sees("Approve only what you have begun yourself")
	b.screenshot("3-ask")
	if laptop.over() {
		t.Fatalf("W-19 it was signed in before anybody approved: %s", laptop.read("stdout"))
	}
	b.click("#approve")
	b.sees("is signed in. You can close this page.")
	b.screenshot("4-done")
	if status, err := laptop.wait(30 * time.Second); status != 0 || err != nil {
		t.Fatalf("status %d, %v: %s", status, err, laptop.read("stderr"))
	}

	// The second one is typed by hand, with a mistake first, and denied.
	second, link := signIn("second")
	_, code, _ = strings.Cut(link, "#")
	b.click("#again")
	b.screenshot("2-enter")
	b.write("#code", "BBBB-CCCC")
	b.click("#enter button[type=submit]")
	b.sees("No sign-in waits for this code.")
	b.eval(`document.querySelector("#code").value = ""`)
	b.write("#code", strings.ToLower(strings.ReplaceAll(code, "-", " ")))
	b.click("#enter button[type=submit]")
	b.sees(code)
	b.click("#deny")
	b.sees("gets no access")
	if status, err := second.wait(30 * time.Second); status != 4 || err != nil {
		t.Fatalf("status %d, %v: %s", status, err, second.read("stderr"))
	}
}
