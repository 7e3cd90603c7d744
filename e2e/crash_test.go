package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestCrash ends the gateway, the device's agent and the laptop's agent in turn
// by kill -9, at random times under load, and brings each back as a service
// manager would. After every round the device is reachable again by itself, and
// every write that was acknowledged is there. CRASH_ROUNDS sets the number of
// rounds (15 without it), CRASH_SEED repeats one run's choices.
func TestCrash(t *testing.T) {
	rounds := 15
	if v := os.Getenv("CRASH_ROUNDS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		rounds = n
	}
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("CRASH_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("CRASH_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 1))

	r := reachThrough(t, nil)
	c := &crash{t: t, reached: r, journal: newJournal()}
	stop := make(chan struct{})
	var load sync.WaitGroup
	for i := range 3 {
		load.Go(func() { c.write(i, stop) })
	}
	for range 2 {
		load.Go(func() { c.talk(stop) })
	}
	endLoad := sync.OnceFunc(func() {
		close(stop)
		load.Wait()
	})
	defer endLoad()

	var slowest [3]time.Duration
	for round := range rounds {
		pause := time.NewTimer(time.Duration(random.IntN(700)) * time.Millisecond)
		<-pause.C
		victim := round % 3
		start := time.Now()
		switch victim {
		case 0:
			c.kill("gateway")
			c.startGateway()
			c.checkJournal()
		case 1:
			c.kill("device")
			c.must(c.startDevice())
		case 2:
			c.kill("laptop")
			c.must(c.startLaptop())
		}
		if err := waitFor(90*time.Second, func() error { return c.echo([]byte("are you there?")) }); err != nil {
			t.Fatalf("round %d: after kill -9 of %s the device can't be reached: %v", round, victims[victim], err)
		}
		slowest[victim] = max(slowest[victim], time.Since(start))
	}
	endLoad()
	writes := c.checkJournal()
	c.checkAudit()
	for i, d := range slowest {
		t.Logf("%s: reachable again within %v of kill -9", victims[i], d.Round(time.Millisecond))
	}
	t.Logf("%d rounds, %d acknowledged writes, none lost, none half done; %d connections carried", rounds, writes, c.carried())
	if writes < rounds {
		t.Errorf("only %d writes in %d rounds: that was no load", writes, rounds)
	}
}

var victims = [3]string{"gateway", "device", "laptop"}

type crash struct {
	t *testing.T
	reached
	journal *journal

	mu    sync.Mutex
	talks int
}

func (c *crash) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *crash) kill(name string) {
	p, err := c.stage.proc(name)
	c.must(err)
	if p.over() {
		c.t.Fatalf("%s ended by itself with status %d:\n%s", name, p.code, lines(p.read("stderr"), 20))
	}
	p.signal(syscall.SIGKILL)
	<-p.done
}

// startGateway starts it again on its port; it has 10 s to be ready.
func (c *crash) startGateway() {
	c.t.Helper()
	_, port, _ := net.SplitHostPort(c.gateway[len("https://"):])
	start := time.Now()
	_, err := startGateway(c.stage, c.env, filepath.Join(c.stage.work, "gateway"), port)
	c.must(err)
	if took := time.Since(start); took > 10*time.Second {
		c.t.Errorf("the gateway took %v to be ready", took)
	}
}

// signIn signs the owner in. The writers do so at the same time, and tries that a
// kill cut short count as failures: then the gateway asks to wait a moment.
func (c *crash) signIn() (owner *client) {
	c.t.Helper()
	c.must(waitFor(30*time.Second, func() (err error) {
		owner, err = signIn(c.gateway)
		return err
	}))
	return owner
}

// talk keeps short connections going through the laptop's port; they may fail
// while something is down.
func (c *crash) talk(stop <-chan struct{}) {
	text := bytes.Repeat([]byte("load "), 20_000)
	for {
		select {
		case <-stop:
			return
		default:
		}
		if err := c.echo(text); err == nil {
			c.mu.Lock()
			c.talks++
			c.mu.Unlock()
		} else {
			pause := time.NewTimer(20 * time.Millisecond)
			<-pause.C
		}
	}
}

func (c *crash) carried() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.talks
}

// journal holds what the gateway acknowledged.
type journal struct {
	mu      sync.Mutex
	tokens  map[string]bool   // id: revoked
	devices map[string]string // id: display name; "" once deleted
	unsure  map[string]bool   // ids whose last write got no answer
	writes  int
}

func newJournal() *journal {
	return &journal{tokens: map[string]bool{}, devices: map[string]string{}, unsure: map[string]bool{}}
}

const deleted = "\x00deleted"

// write makes, changes, revokes and deletes until stopped. It owns what it makes,
// so that the journal knows the order of writes to each object.
func (c *crash) write(worker int, stop <-chan struct{}) {
	var owner *client
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		if owner == nil {
			var err error
			if owner, err = signIn(c.gateway); err != nil {
				owner = nil
				pause := time.NewTimer(50 * time.Millisecond)
				<-pause.C
				continue
			}
		}
		if n%2 == 0 {
			if text, id, err := owner.token(`{"kind":"access","name":"crash"}`); err == nil && text != "" {
				c.journal.token(id, false)
				_, err = owner.must("POST", "/api/v1/tokens/"+id+"/revoke", "")
				c.journal.tokenAfter(id, err)
			}
			continue
		}
		name := fmt.Sprintf("crash-%d-%d", worker, n)
		answer, err := owner.must("POST", "/api/v1/devices", fmt.Sprintf(`{"name":%q,"display_name":"a"}`, name))
		if err != nil {
			continue
		}
		id, err := lookup(answer, "id")
		if err != nil {
			c.t.Errorf("pre-registration: %v", err)
			return
		}
		c.journal.device(id, "a", nil)
		_, err = owner.must("PATCH", "/api/v1/devices/"+id, `{"display_name":"b"}`)
		c.journal.device(id, "b", err)
		if n%4 == 1 && err == nil {
			_, err = owner.must("DELETE", "/api/v1/devices/"+id, "")
			c.journal.device(id, deleted, err)
		}
	}
}

func (j *journal) token(id string, revoked bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.tokens[id] = revoked
	j.writes++
}

// tokenAfter records a revocation's answer: without one it may have happened.
func (j *journal) tokenAfter(id string, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.unsure[id] = true
		return
	}
	j.tokens[id] = true
	j.writes++
}

func (j *journal) device(id, name string, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.unsure[id] = true
		return
	}
	j.devices[id] = name
	j.writes++
}

// checkJournal asks the gateway for all that it acknowledged before the call.
func (c *crash) checkJournal() int {
	c.t.Helper()
	c.journal.mu.Lock()
	tokens, devices, unsure := map[string]bool{}, map[string]string{}, map[string]bool{}
	for k, v := range c.journal.tokens {
		tokens[k] = v
	}
	for k, v := range c.journal.devices {
		devices[k] = v
	}
	for k := range c.journal.unsure {
		unsure[k] = true
	}
	writes := c.journal.writes
	c.journal.mu.Unlock()

	owner := c.signIn()
	have := map[string]bool{} // tokens: revoked
	c.pages(owner, "/api/v1/tokens?kind=access&limit=200", func(item map[string]any) {
		id, _ := item["id"].(string)
		have[id] = item["revoked_at"] != nil
	})
	for id, revoked := range tokens {
		got, ok := have[id]
		switch {
		case !ok:
			c.t.Fatalf("token %s was acknowledged and is lost", id)
		case revoked && !got:
			c.t.Fatalf("the revocation of token %s was acknowledged and is lost", id)
		}
	}
	names := map[string]string{}
	c.pages(owner, "/api/v1/devices?search=crash-&limit=200", func(item map[string]any) {
		id, _ := item["id"].(string)
		names[id], _ = item["display_name"].(string)
	})
	for id, want := range devices {
		got, ok := names[id]
		switch {
		case want == deleted && ok:
			c.t.Fatalf("the deletion of device %s was acknowledged and is lost", id)
		case want == deleted || unsure[id]:
		case !ok:
			// A writer may have deleted it since the journal was read.
			c.journal.mu.Lock()
			now := c.journal.devices[id] == deleted || c.journal.unsure[id]
			c.journal.mu.Unlock()
			if !now {
				if status, _, err := owner.do("GET", "/api/v1/devices/"+id, ""); err != nil || status != 404 {
					continue // being deleted or renamed just now
				}
				c.t.Fatalf("device %s was acknowledged and is lost", id)
			}
		case want == "b" && got != "b":
			c.t.Fatalf("the change of device %s was acknowledged and is lost: %q", id, got)
		}
	}
	return writes
}

// pages calls fn for every item of a list.
func (c *crash) pages(owner *client, path string, fn func(map[string]any)) {
	c.t.Helper()
	cursor := ""
	for {
		url := path
		if cursor != "" {
			url += "&cursor=" + cursor
		}
		answer, err := owner.must("GET", url, "")
		c.must(err)
		var page struct {
			Items []map[string]any `json:"items"`
			Next  string           `json:"next_cursor"`
		}
		c.must(json.Unmarshal(answer, &page))
		for _, item := range page.Items {
			fn(item)
		}
		if cursor = page.Next; cursor == "" {
			return
		}
	}
}

// checkAudit verifies the chain, and that no object exists without the record of
// its making: a half write would show here.
func (c *crash) checkAudit() {
	c.t.Helper()
	owner := c.signIn()
	answer, err := owner.must("GET", "/api/v1/audit/verify", "")
	c.must(err)
	if ok, _ := lookup(answer, "ok"); ok != "true" {
		c.t.Fatalf("the audit chain does not hold: %s", answer)
	}
	answer, err = owner.must("GET", "/api/v1/audit/export", "")
	c.must(err)
	recorded := map[string]bool{}
	scan := bufio.NewScanner(bytes.NewReader(answer))
	for scan.Scan() {
		var record struct {
			ObjectID string `json:"object_id"`
			Reason   string `json:"reason"`
		}
		c.must(json.Unmarshal(scan.Bytes(), &record))
		if record.Reason == "" {
			recorded[record.ObjectID] = true
		}
	}
	c.pages(owner, "/api/v1/devices?limit=200", func(item map[string]any) {
		if id, _ := item["id"].(string); !recorded[id] {
			c.t.Errorf("device %s exists without an audit record", id)
		}
	})
	c.pages(owner, "/api/v1/tokens?limit=200", func(item map[string]any) {
		if id, _ := item["id"].(string); !recorded[id] {
			c.t.Errorf("token %s exists without an audit record", id)
		}
	})
}
