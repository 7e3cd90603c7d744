package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"socketxp"
	"socketxp/internal/agent"
	"socketxp/internal/api"
)

type row struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

var rowTable = list[row]{
	id: func(r row) string { return r.ID }, none: "nothing", next: "do",
	columns: []column[row]{
		{name: "ID", show: func(r row) string { return r.ID }},
		{name: "LONG TEXT", show: func(r row) string { return r.Text }, shrinks: true},
		{name: "END", show: func(row) string { return "x" }},
	},
}

func TestTable(t *testing.T) {
	rows := []row{{"a1", strings.Repeat("ab", 20)}, {"b22", "日本語"}, {"c", ""}}
	for name, c := range map[string]struct {
		width int
		want  string
	}{
		"as wide as it is": {0, "ID    LONG TEXT                                  END\n" +
			"a1    abababababababababababababababababababab   x\n" +
			"b22   日本語                                     x\n" +
			"c     -                                          x\n"},
		"cut to the terminal": {30, "ID    LONG TEXT            END\n" +
			"a1    abababababababababa…  x\n" +
			"b22   日本語                x\n" +
			"c     -                    x\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			rowTable.writeTable(&out, rows, c.width)
			for line := range strings.Lines(out.String()) {
				if c.width > 0 && cellWidth(strings.TrimSuffix(line, "\n")) > c.width {
					t.Errorf("%q is wider than %d", line, c.width)
				}
			}
			if name == "as wide as it is" && out.String() != c.want {
				t.Errorf("got\n%s\nwant\n%s", out.String(), c.want)
			}
			// Whatever is cut, the last column stands under its head.
			var columns []int
			for line := range strings.Lines(out.String()) {
				columns = append(columns, cellWidth(line[:strings.LastIndexAny(line, "xE")]))
			}
			for _, at := range columns {
				if at != columns[0] {
					t.Errorf("the last column is at %v in\n%s", columns, out.String())
					break
				}
			}
		})
	}
	t.Run("no narrower than can be read", func(t *testing.T) {
		var out bytes.Buffer
		rowTable.writeTable(&out, rows, 10)
		if !strings.Contains(out.String(), "abababa…") {
			t.Errorf("got\n%s", out.String())
		}
	})
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		cell  string
		width int
		want  string
	}{
		{"abc", 3, "abc"},
		{"abcd", 3, "ab…"},
		{"日本語", 6, "日本語"},
		{"日本語", 5, "日本…"},
		{"日本語", 4, "日…"},
		{"e\u0301e\u0301e\u0301", 3, "e\u0301e\u0301e\u0301"},
	} {
		if got := fit(c.cell, c.width); got != c.want {
			t.Errorf("fit(%q, %d) is %q, want %q", c.cell, c.width, got, c.want)
		}
	}
}

// hostile is what a device or a person may try to do to a terminal or spreadsheet.
var hostile = []string{
	"\x1b]0;owned\x07", "\x1b[2J\x1b[H", "a\rb", "a\nb", "a\tb", "\u009b31m", "\u202egnp.exe", "\u200b", "\x00", "\x7f", "\u2028", string(rune(0xe0041)), "\xff\xfe",
	"=cmd|'/C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "ordinary", "-5", "ä",
}

func dangerous(s string) bool { return agent.Printable(s) != s }

func TestHostileText(t *testing.T) {
	for _, text := range hostile {
		rows := []row{{"1", text}}
		t.Run(fmt.Sprintf("W-09 %q", text), func(t *testing.T) {
			var table bytes.Buffer
			rowTable.writeTable(&table, rows, 80)
			if lines := strings.Split(strings.TrimSuffix(table.String(), "\n"), "\n"); len(lines) != 2 || dangerous(lines[1]) {
				t.Errorf("the table is %q", table.String())
			}
			for _, form := range []string{formJSON, formJSONL} {
				a := &app{stdout: &bytes.Buffer{}}
				if err := writeList(a, form, rowTable, rows); err != nil {
					t.Fatal(err)
				}
				out := a.stdout.(*bytes.Buffer).String()
				for line := range strings.Lines(out) {
					if dangerous(strings.TrimSuffix(line, "\n")) {
						t.Errorf("%s is %q", form, out)
					}
				}
				var back []row
				if form == formJSONL {
					out = "[" + out + "]"
				}
				if err := json.Unmarshal([]byte(out), &back); err != nil || len(back) != 1 || back[0].Text != strings.ToValidUTF8(text, "\ufffd") && text != "\xff\xfe" {
					t.Errorf("%s means something else: %v %q", form, err, back)
				}
			}
		})
		t.Run(fmt.Sprintf("W-10 %q", text), func(t *testing.T) {
			var out bytes.Buffer
			if err := writeCSV(&out, rowTable, rows); err != nil {
				t.Fatal(err)
			}
			records, err := csv.NewReader(&out).ReadAll()
			if err != nil || len(records) != 2 || len(records[1]) != 3 {
				t.Fatalf("%v %q", err, records)
			}
			cell := records[1][1]
			if dangerous(cell) || strings.ContainsAny(cell[:1], "=+@") || cell[0] == '-' && cell != "-5" {
				t.Errorf("the cell is %q", cell)
			}
			if text == "ordinary" && cell != text {
				t.Errorf("the cell is %q", cell)
			}
		})
	}
}

func TestTimesForPeople(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0: "now", 400 * time.Millisecond: "now", time.Second: "in 1 s", -119 * time.Second: "119 s ago", -2 * time.Minute: "2 min ago",
		-119 * time.Minute: "119 min ago", 2 * time.Hour: "in 2 h", -47 * time.Hour: "47 h ago", 48 * time.Hour: "in 2 d", 30 * day: "in 30 d", -729 * day: "729 d ago", -1000 * day: "2 years ago",
	} {
		if got := relative(now.Add(d), now); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
	if relative(time.Time{}, now) != "" || exact(time.Time{}) != "" || both(time.Time{}) != "" {
		t.Error("no time is some time")
	}
	if got := exact(time.Date(2026, 11, 25, 13, 0, 0, 5, time.FixedZone("", 3600))); got != "2026-11-25T12:00:00Z" {
		t.Error(got)
	}
}

func TestSizes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 9949: "9.9 kB", 9950: "10 kB", 999499: "999 kB", 999500: "1.0 MB", 1_234_567_890: "1.2 GB", 1 << 62: "4.6 EB",
	} {
		if got := size(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

func TestLifeFlag(t *testing.T) {
	for s, want := range map[string]time.Duration{"30d": 30 * day, "8h": 8 * time.Hour, "0d": 0, "90m": 90 * time.Minute} {
		var l life
		if err := l.Set(s); err != nil || time.Duration(l) != want {
			t.Errorf("%q is %v, %v", s, time.Duration(l), err)
		}
		var again life
		if err := again.Set(l.String()); err != nil || again != l {
			t.Errorf("%q is printed as %q", s, l.String())
		}
	}
	for _, s := range []string{"", "d", "-1d", "1.5d", "99999999d", "8", "x"} {
		var l life
		if l.Set(s) == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

func TestPages(t *testing.T) {
	const total = 450
	asked := 0
	get := func(cursor string, n int) (items []int, next string, err error) {
		asked++
		if n < 1 || n > pageSize {
			t.Errorf("a page of %d", n)
		}
		from := 0
		_, _ = fmt.Sscan(cursor, &from)
		for i := from; i < min(from+n, total); i++ {
			items = append(items, i)
		}
		if from+n < total {
			next = fmt.Sprint(from + n)
		}
		return items, next, nil
	}
	for _, c := range []struct {
		f         listFlags
		want, ask int
		more      bool
	}{
		{listFlags{limit: 1}, 1, 1, true},
		{listFlags{limit: 200}, 200, 1, true},
		{listFlags{limit: 201}, 201, 2, true},
		{listFlags{limit: 450}, 450, 3, false},
		{listFlags{limit: 1000}, 450, 3, false},
		{listFlags{limit: 1, all: true}, 450, 3, false},
	} {
		asked = 0
		items, more, err := pages(c.f, get)
		if err != nil || len(items) != c.want || asked != c.ask || more != c.more {
			t.Errorf("%+v: %d items, %d pages, %v, %v", c.f, len(items), asked, more, err)
		}
		for i, n := range items {
			if i != n {
				t.Fatalf("%+v: item %d is %d", c.f, i, n)
			}
		}
	}
	t.Run("a gateway whose pages have no end", func(t *testing.T) {
		for name, get := range map[string]func(string, int) ([]int, string, error){
			"the same page again": func(string, int) ([]int, string, error) { return []int{1}, "same", nil },
			"empty pages":         func(c string, _ int) ([]int, string, error) { return nil, c + "x", nil },
		} {
			if items, _, err := pages(listFlags{all: true}, get); err != nil || len(items) > 2 {
				t.Errorf("%s: %d items, %v", name, len(items), err)
			}
		}
	})
}

func TestWatchPrintsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, errs bytes.Buffer
		a := &app{stdout: &out, stderr: &errs}
		ctx, cancel := context.WithCancel(t.Context())
		rounds := [][]row{
			{{"a", "1"}, {"b", "1"}},
			{{"a", "1"}, {"b", "1"}},
			nil, // the gateway does not answer
			{{"a", "2"}, {"b", "1"}, {"c", "a longer text"}},
			{{"a", "2"}},
			{{"a", "2"}, {"b", "1"}},
		}
		round := 0
		err := printList(ctx, a, listFlags{output: outputFlags{form: formTable}, watch: true, interval: time.Second}, rowTable, func(context.Context) ([]row, bool, error) {
			if round == len(rounds) {
				cancel()
				return nil, false, ctx.Err()
			}
			round++
			if rounds[round-1] == nil {
				return nil, false, agent.APIError("https://gw", errors.New("no route"))
			}
			return rounds[round-1], false, nil
		})
		want := "ID   LONG TEXT   END\n" +
			"a    1           x\nb    1           x\n" +
			"a    2               x\nc    a longer text   x\n" +
			"b    1               x\n"
		if err != nil || out.String() != want {
			t.Errorf("%v, got\n%s\nwant\n%s", err, out.String(), want)
		}
		if n := strings.Count(errs.String(), "can't reach the gateway"); n != 1 {
			t.Errorf("the trouble was told %d times: %s", n, errs.String())
		}
	})
	t.Run("a refusal ends it", func(t *testing.T) {
		a := &app{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
		no := agent.APIError("https://gw", socketxp.Errorf(socketxp.CodeForbidden, "no"))
		err := printList(t.Context(), a, listFlags{output: outputFlags{form: formTable}, watch: true, interval: time.Second}, rowTable, func(context.Context) ([]row, bool, error) { return nil, false, no })
		if status(err) != statusRefused {
			t.Errorf("got %v", err)
		}
	})
}

// A stream of events that breaks goes on after the last event that came, even if none
// has come yet.
func TestFollowEvents(t *testing.T) {
	id := func(n int) string { return fmt.Sprintf("019ab6f2-7c1e-7a3b-9d60-%012d", n) }
	streams := 0
	p := newPerson(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/events" {
			answerJSON(t, w, 200, api.Page[api.Event]{Items: []api.Event{{ID: id(1)}}})
			return
		}
		streams++
		last := r.Header.Get("Last-Event-ID")
		send := func(n int, kind socketxp.EventType, device string) {
			data, _ := json.Marshal(api.Event{ID: id(n), Type: kind, DeviceID: device, DeviceName: device, Message: fmt.Sprintf("event %d", n)})
			_, _ = fmt.Fprintf(w, "id: %s\ndata: %s\n\n", id(n), data)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		switch streams {
		case 1: // breaks before the first event
			if last != id(1) {
				t.Errorf("it began after %q", last)
			}
		case 2:
			if last != id(1) {
				t.Errorf("it went on after %q", last)
			}
			send(2, socketxp.EventDeviceOnline, "pump")
			send(3, socketxp.EventDeviceOnline, "valve")
		case 3:
			if last != id(3) {
				t.Errorf("it went on after %q", last)
			}
			send(4, socketxp.EventDeviceOffline, "pump\x1b[2J")
		default:
			answerJSON(t, w, 401, api.Problem{Code: socketxp.CodeTokenRevoked, Detail: "the token was revoked"})
		}
	})
	var out, errs bytes.Buffer
	a := &app{stdout: &out, stderr: &errs}
	err := a.followEvents(t.Context(), p, formTable, api.EventList{})
	if status(err) != statusNotRegistered {
		t.Errorf("a sign-in that ended is %v", err)
	}
	if n := strings.Count(out.String(), "event "); n != 3 || dangerous(strings.ReplaceAll(out.String(), "\n", "")) {
		t.Errorf("got %q", out.String())
	}
	t.Run("filtered", func(t *testing.T) {
		streams = 1
		out.Reset()
		_ = a.followEvents(t.Context(), p, formJSONL, api.EventList{DeviceID: "valve"})
		if strings.Count(out.String(), "\n") != 1 || !strings.Contains(out.String(), id(3)) {
			t.Errorf("got %q", out.String())
		}
	})
	t.Run("nobody reads on", func(t *testing.T) {
		streams = 1
		b := &app{stdout: brokenPipe{}, stderr: &errs}
		if err := b.followEvents(t.Context(), p, formTable, api.EventList{}); err == nil || !strings.Contains(err.Error(), "broken pipe") {
			t.Errorf("got %v", err)
		}
	})
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestVerifyExport(t *testing.T) {
	var chain []socketxp.AuditRecord
	for i := range 5 {
		r := socketxp.AuditRecord{AuditEntry: socketxp.AuditEntry{AccountID: "a", At: time.Unix(int64(i), 0).UTC(), Action: "device.delete", ObjectName: "pump"}, Seq: int64(i + 1)}
		if i > 0 {
			r.Prev = chain[i-1].Hash
		}
		r.Hash = r.ChainHash()
		chain = append(chain, r)
	}
	text := func(records ...socketxp.AuditRecord) string {
		var out strings.Builder
		for _, r := range records {
			line, err := json.Marshal(api.NewAuditRecord(r))
			if err != nil {
				t.Fatal(err)
			}
			out.Write(append(line, '\n'))
		}
		return out.String()
	}
	v, err := verifyChain(strings.NewReader(text(chain...)))
	if err != nil || !v.OK || v.Records != 5 || v.LastHash != api.NewAuditRecord(chain[4]).Hash {
		t.Fatalf("%+v, %v", v, err)
	}
	changed := chain[2]
	changed.Detail = "x"
	for name, bad := range map[string]string{
		"A-27 one changed":      text(chain[0], chain[1], changed, chain[3], chain[4]),
		"A-27 one left out":     text(chain[0], chain[1], chain[3], chain[4]),
		"A-27 the first ones":   text(chain[2:]...),
		"A-27 two exchanged":    text(chain[0], chain[2], chain[1]),
		"A-27 one twice":        text(chain[0], chain[0]),
		"not JSON":              text(chain[0]) + "x\n",
		"nothing":               "",
		"a line without an end": text(chain[0]) + `{"detail":"` + strings.Repeat("a", longestRecord) + `"}` + "\n",
	} {
		if v, err := verifyChain(strings.NewReader(bad)); err != nil || v.OK || v.Broken == "" {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
}
