package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/opspawn/opscore/bus/event"
)

// letterbox is a server that keeps dead letters, at most two on a page.
type letterbox struct {
	t *testing.T

	mu      sync.Mutex
	letters []uint64
	young   uint64           // becomes a letter with the first page that is read
	refuse  map[uint64]int   // status of what is done with these
	asked   []string         // queries of lists, without their cursors
	done    map[string][]int // by method
	bodies  []string
}

func (l *letterbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/api/v1/dead"), "/replay")
	if name == "" {
		l.list(w, r)
		return
	}
	seq, err := strconv.ParseUint(strings.TrimPrefix(name, "/"), 10, 64)
	if err != nil {
		l.t.Errorf("%s %s", r.Method, r.URL)
	}
	if r.Method == http.MethodGet {
		_, _ = fmt.Fprintf(w, `{"seq":%d,"subject":"s","body":{"a":1}}`, seq)
		return
	}
	if status := l.refuse[seq]; status != 0 {
		problemAnswer(w, status, `{"detail":"not this one","code":"not_allowed_now"}`)
		return
	}
	body, _ := io.ReadAll(r.Body)
	l.bodies = append(l.bodies, string(body))
	l.done[r.Method] = append(l.done[r.Method], int(seq))
	_, _ = fmt.Fprintf(w, `{"seq":%d,"subject":"s","stream":"OPSCORE_WORK","streamSeq":9,"deleted":true}`, seq)
}

func (l *letterbox) list(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	after, _ := strconv.Atoi(query.Get("cursor"))
	limit, _ := strconv.Atoi(query.Get("limit"))
	query.Del("cursor")
	l.asked = append(l.asked, query.Encode())
	page := event.DeadList{Items: []event.DeadLetter{}, Letters: uint64(len(l.letters)), LastSeq: l.letters[len(l.letters)-1], Bytes: 3 << 20, MaxBytes: 1 << 30, Evicted: 7}
	for i, seq := range l.letters[after:] {
		if i == min(limit, 2) {
			page.NextCursor = strconv.Itoa(after + i)
			break
		}
		page.Items = append(page.Items, event.DeadLetter{Seq: seq, Class: event.CodeUnknownRun, Subject: "s", Reason: "why"})
	}
	if l.young != 0 {
		l.letters, l.young = append(l.letters, l.young), 0
	}
	_, _ = w.Write(event.MustMarshal(&page))
}

func newLetterbox(t *testing.T) (*letterbox, *program) {
	l := &letterbox{t: t, letters: []uint64{3, 5, 6, 9, 10}, done: make(map[string][]int)}
	return l, newProgram(t, l)
}

func TestDeadLettersAreListed(t *testing.T) {
	t.Parallel()
	l, p := newLetterbox(t)
	got := p.run("dead", "list", "--class", "unknown_run", "--agent", "a b", "--limit", "3")
	if got.code != exitOK || strings.Count(got.stdout, "\n") != 4 || !strings.Contains(got.stdout, "unknown_run") {
		t.Errorf("%+v", got)
	}
	want := "5 dead letters are stored, 3.0 MiB of 1.0 GiB; 7 older ones were dropped to make room since the server began to count\n"
	if got.stderr != want {
		t.Errorf("said %q", got.stderr)
	}
	if diff := cmp.Diff([]string{"agent=a+b&class=unknown_run&limit=3", "agent=a+b&class=unknown_run&limit=1"}, l.asked); diff != "" {
		t.Error(diff)
	}
}

// Work on many letters goes on when some are refused, and never reaches those that came while it went on.
func TestManyDeadLettersAreSentAgain(t *testing.T) {
	t.Parallel()
	l, p := newLetterbox(t)
	l.young, l.refuse = 11, map[uint64]int{5: http.StatusConflict}
	got := p.run("dead", "replay", "--all", "--run", "r", "-o", "json")
	if got.code != exitFailure || !strings.Contains(got.stderr, "refused, and kept: 1 letter\n") {
		t.Errorf("%+v", got)
	}
	var done deadDone
	if err := event.Unmarshal([]byte(got.stdout), &done); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(deadDone{Done: 4, Left: 1, Refused: []deadRefusal{{5, "not this one"}}}, done); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string][]int{http.MethodPost: {3, 6, 9, 10}}, l.done); diff != "" {
		t.Error(diff)
	}
	if got := p.run("dead", "delete", "3", "6"); got.code != exitOK || got.stdout != "2 letters deleted\n" {
		t.Errorf("%+v", got)
	}
	l.refuse[9] = http.StatusServiceUnavailable
	if got := p.run("dead", "delete", "--all"); got.code != exitUnreachable || !strings.Contains(got.stderr, "2 letters deleted, then") {
		t.Errorf("%+v", got)
	}
}

func TestDeadLetterIsEdited(t *testing.T) {
	t.Parallel()
	l, p := newLetterbox(t)
	p.stdin = `{"a":2}`
	if got := p.run("dead", "edit", "6", "-f", "-"); got.code != exitOK || !strings.Contains(got.stdout, "OPSCORE_WORK, message 9") {
		t.Errorf("%+v", got)
	}
	editor := filepath.Join(t.TempDir(), "editor.sh")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nsed -i s/1/3/ \"$1\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p.env["EDITOR"] = editor
	if got := p.run("dead", "edit", "6"); got.code != exitOK {
		t.Errorf("%+v", got)
	}
	if diff := cmp.Diff([]string{`{"body":{"a":2}}`, `{"body":{"a":3}}`}, l.bodies); diff != "" {
		t.Error(diff)
	}
	for name, c := range map[string]struct {
		stdin, editor string
		args          []string
		code          int
	}{
		"no JSON":      {"{", "", []string{"-f", "-"}, exitUsage},
		"unchanged":    {"", "true", nil, exitFailure},
		"emptied":      {"", "truncate -s 0", nil, exitFailure},
		"no editor":    {"", "", nil, exitUsage},
		"editor fails": {"", "false", nil, exitFailure},
	} {
		p.stdin, p.env["EDITOR"] = c.stdin, c.editor
		if got := p.run(append([]string{"dead", "edit", "6"}, c.args...)...); got.code != c.code {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if len(l.bodies) != 2 {
		t.Errorf("sent %q", l.bodies)
	}
}

func TestDeadCommandLines(t *testing.T) {
	t.Parallel()
	_, p := newLetterbox(t)
	for _, args := range []string{
		"dead replay", "dead delete", "dead replay 3 --all", "dead replay 3 --class x", "dead get", "dead get x", "dead delete 0", "dead list --since -1h",
	} {
		if got := p.run(strings.Fields(args)...); got.code != exitUsage {
			t.Errorf("%s: %+v", args, got)
		}
	}
}
