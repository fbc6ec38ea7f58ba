package main

import (
	"bytes"
	"context"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/opspawn/opscore/bus/bustest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { bustest.Main(m) }

// program runs the command line in a test.
type program struct {
	t     *testing.T
	env   map[string]string
	stdin string
}

// result is what a run of the program left behind.
type result struct {
	code           int
	stdout, stderr string
}

// newProgram returns a program that talks to the server that a handler makes.
func newProgram(t *testing.T, h http.Handler) *program {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return &program{t: t, env: map[string]string{envServer: srv.URL}}
}

// run runs the program to its end.
func (p *program) run(args ...string) result {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	return p.runIn(ctx, args...)
}

func (p *program) runIn(ctx context.Context, args ...string) result {
	var stdout, stderr bytes.Buffer
	code := run(ctx, args, func(k string) string { return p.env[k] }, strings.NewReader(p.stdin), &stdout, &stderr)
	said := stderr.String()
	if url := p.env[envServer]; url != "" {
		said = strings.ReplaceAll(said, url, "http://server") // ports differ
	}
	return result{code, stdout.String(), said}
}

// answers serves one fixed answer per "METHOD /path".
func answers(t *testing.T, fixed map[string]string) http.Handler {
	mux := http.NewServeMux()
	for route, body := range fixed {
		mux.HandleFunc(route, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(body))
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("unexpected request %s %s", r.Method, r.RequestURI)
		http.NotFound(w, r)
	})
	return mux
}

// problemAnswer answers with problem+json.
func problemAnswer(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}

// golden compares a text with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); run with -update if that is right:\n%s", file, diff)
	}
}

// fixture reads a file of testdata.
func fixture(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
