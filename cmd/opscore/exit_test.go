package main

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/cmd/interrupt"
	"github.com/opspawn/opscore/storage/boltstore"
)

// TestRefusals maps the answers of a server to exit codes and one clear line each.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		code   int
		stderr string
	}{
		{
			"not found", problemOf(404, `{"title":"Not Found","status":404,"code":"unknown_run","detail":"there is no run \"r-1\""}`),
			exitNotFound, `opscore: there is no run "r-1"`,
		},
		{
			"conflict", problemOf(409, `{"title":"Conflict","code":"not_allowed_now","detail":"the run has ended"}`),
			exitFailure, "opscore: the run has ended",
		},
		{
			"several mistakes", problemOf(422, `{"title":"Unprocessable","code":"invalid","detail":"validation failed","errors":[{"message":"too long","location":"body.reason"},{"message":"expected object"}]}`),
			exitFailure, "opscore: validation failed; body.reason: too long; expected object",
		},
		{
			"mistakes in a definition", problemOf(422, `{"code":"invalid","detail":"id is missing ($.id)\nno tasks","errors":[{"message":"id is missing","location":"$.id"},{"message":"no tasks"}]}`),
			exitFailure, "opscore: id is missing ($.id) no tasks",
		},
		{
			"internal error", problemOf(500, `{"code":"internal","detail":"the log has more","requestId":"q-1"}`),
			exitFailure, "opscore: the log has more (request q-1)",
		},
		{
			"no detail", problemOf(500, `{"title":"Internal Server Error"}`),
			exitFailure, "opscore: Internal Server Error",
		},
		{
			"wrong key", problemOf(401, `{"title":"Unauthorized","detail":"the key is not known"}`),
			exitFailure, "opscore: http://server wants a valid key (the key is not known); put it into OPSCORE_API_KEY",
		},
		{
			"unavailable", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "2")
				problemAnswer(w, 503, `{"title":"Unavailable","code":"unavailable","detail":"the store is down"}`)
			},
			exitUnreachable, "opscore: http://server is not available: the store is down; try again after 2s",
		},
		{
			"proxy without server", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusBadGateway) },
			exitUnreachable, "opscore: http://server is not available: HTTP 502 Bad Gateway",
		},
		{
			"another server", http.NotFound,
			exitFailure, "opscore: http://server does not answer like Ops-Core (HTTP 404 Not Found); check --server and OPSCORE_URL",
		},
		{
			"redirect", func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "https://elsewhere/", http.StatusFound)
			},
			exitFailure, "opscore: http://server does not answer like Ops-Core (it redirects to https://elsewhere/; name the right URL with --server or OPSCORE_URL); check --server and OPSCORE_URL",
		},
		{
			"escape sequences", problemOf(409, `{"detail":"a\u001b[2Jb\nc\u202ed"}`),
			exitFailure, "opscore: a [2Jb cd",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := newProgram(t, c.answer).run("run", "cancel", "r-1")
			if want := (result{c.code, "", c.stderr + "\n"}); got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// TestAnotherServer says that what answers, and seems content, is not Ops-Core.
func TestAnotherServer(t *testing.T) {
	t.Parallel()
	got := newProgram(t, write("<html>hello")).run("agent", "list")
	if got.code != exitFailure || got.stdout != "" || !strings.HasPrefix(got.stderr, "opscore: http://server answered something else than Ops-Core does (") {
		t.Errorf("%+v", got)
	}
}

func problemOf(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { problemAnswer(w, status, body) }
}

// TestServerNotReachable names the server that was tried, and what to do.
func TestServerNotReachable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	l.Close()
	p := &program{t: t, env: map[string]string{envServer: url}}
	for _, args := range [][]string{
		{"agent", "list"}, {"agent", "list", "-o", "json"}, {"run", "start", "w", "--wait"}, {"workflow", "apply", "-f", "testdata/report.yaml"}, {"backup", t.TempDir() + "/b"},
	} {
		got := p.run(args...)
		if got.code != exitUnreachable || got.stdout != "" {
			t.Errorf("%v: %+v", args, got)
		}
		const want = `cannot reach http://server: connection refused; start a server with "opscore dev", or name another one with --server or OPSCORE_URL`
		if !strings.HasSuffix(got.stderr, want+"\n") {
			t.Errorf("%v: stderr %q, want …%q", args, got.stderr, want)
		}
	}
}

// TestNATSIsNotTheAPI knows the greeting of a NATS server, which the HTTP client would log or take for a broken answer.
func TestNATSIsNotTheAPI(t *testing.T) {
	t.Parallel()
	nats := bustest.ListeningServer(t)
	p := &program{t: t, env: map[string]string{envServer: strings.Replace(nats.URL(), "nats:", "http:", 1)}}
	for _, args := range [][]string{{"agent", "list"}, {"run", "start", "w"}, {"backup", t.TempDir() + "/b"}} {
		got := p.run(args...)
		const want = "opscore: http://server is a NATS server, not the HTTP address of Ops-Core, which looks like http://127.0.0.1:8000; name that with --server or OPSCORE_URL\n"
		if got != (result{exitUnreachable, "", want}) {
			t.Errorf("%v: %+v", args, got)
		}
	}
}

// TestDevOnAFolderInUse says what to do, and nothing about keys: nothing is served.
func TestDevOnAFolderInUse(t *testing.T) {
	t.Parallel()
	dir := bustest.Dir(t)
	other, err := boltstore.Open(t.Context(), &url.URL{Scheme: "file", Path: filepath.Join(dir, "opscore.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	got := (&program{t: t}).run("dev", "--data-dir", dir, "--http-addr", "127.0.0.1:0", "--nats-addr", "127.0.0.1:0")
	const want = "in use by another process (stop what uses it, or choose another folder with --data-dir)\n"
	if got.code != exitFailure || !strings.HasSuffix(got.stderr, want) || strings.Contains(got.stderr, envAPIKey) {
		t.Errorf("%+v", got)
	}
}

// TestUsage refuses command lines that make no sense before it talks to anybody.
func TestUsage(t *testing.T) {
	t.Parallel()
	secret := t.TempDir() + "/key"
	for _, c := range []struct {
		args, env []string
		stderr    string
	}{
		{args: []string{}, stderr: `"opscore" needs a command: agent,`},
		{args: []string{"agnet"}, stderr: `unknown command "agnet" for "opscore"; did you mean "agent"? (see "opscore --help")`},
		{args: []string{"agent"}, stderr: `"opscore agent" needs a command: cordon,`},
		{args: []string{"run", "strat", "x"}, stderr: `did you mean "start"?`},
		{args: []string{"agent", "lst"}, stderr: `did you mean "list"?`},
		{args: []string{"agent", "get"}, stderr: `"opscore agent get" needs the id of an agent`},
		{args: []string{"agent", "get", ""}, stderr: `"opscore agent get" needs the id of an agent`},
		{args: []string{"agent", "get", "a", "b"}, stderr: `takes one id, and 2 were given`},
		{args: []string{"run", "approve", "r"}, stderr: `opscore: TASK is missing: opscore run approve RUN TASK (see`},
		{args: []string{"run", "reject"}, stderr: `opscore: RUN is missing: opscore run reject RUN TASK (see`},
		{args: []string{"run", "rerun", "r", ""}, stderr: `opscore: TASK is missing: opscore run rerun RUN TASK (see`},
		{args: []string{"run", "rerun", "r", "a", "b"}, stderr: `opscore: "b" is one argument too many: opscore run rerun RUN TASK (see`},
		{args: []string{"run", "signal", "r"}, stderr: `opscore: NAME is missing: opscore run signal RUN NAME [JSON] (see`},
		{args: []string{"run", "signal", "r", "n", "1", "2"}, stderr: `opscore: "2" is one argument too many`},
		{args: []string{"workflow", "validate"}, stderr: `opscore: FILE is missing: opscore workflow validate FILE... (see`},
		{args: []string{"dev", "--http-addr", "foo"}, stderr: `--http-addr "foo" is not of the form HOST:PORT, as in 127.0.0.1:8000: missing port in address`},
		{args: []string{"dev", "--http-addr", "0.0.0.0:0"}, stderr: `0.0.0.0:0 is not a loopback address: set OPSCORE_API_KEY`},
		{args: []string{"run", "list", "x"}, stderr: `takes no argument, and "x" was given`},
		{args: []string{"run", "list", "--nope"}, stderr: `unknown flag: --nope (see "opscore run list --help")`},
		{args: []string{"run", "list", "-o", "xml"}, stderr: `it can be table or json`},
		{args: []string{"run", "list", "--timeout", "soon"}, stderr: `--timeout`},
		{args: []string{"run", "list", "--server", "localhost:8000"}, stderr: `"localhost:8000" is not the URL of a server`},
		{args: []string{"run", "list", "--server", "http://u:p@localhost"}, stderr: `must not hold a password`},
		{args: []string{"run", "list"}, env: []string{envAPIKey, "k", envAPIKeyFile, secret}, stderr: `OPSCORE_API_KEY and OPSCORE_API_KEY_FILE are both set`},
		{args: []string{"workflow", "apply"}, stderr: `required flag(s) "file" not set`},
		{args: []string{"run", "start", "w", "--label", "x"}, stderr: `--label "x" is not of the form k=v`},
		{args: []string{"run", "start", "w", "--label", "x=1", "--label", "x=2"}, stderr: `--label x is given two values`},
		{args: []string{"run", "start", "w", "--input", "[1]"}, stderr: `--input must be a JSON object`},
		{args: []string{"run", "start", "w", "--input", "{"}, stderr: `--input is not JSON`},
		{args: []string{"run", "start", "w", "--input", "@-"}, stderr: `stdin is not JSON`},
		{args: []string{"completion", "tcsh"}, stderr: `unknown command "tcsh"`},
		{args: []string{"help", "nope"}, stderr: `there is no command "nope"`},
	} {
		p := newProgram(t, answers(t, nil))
		for i := 0; i < len(c.env); i += 2 {
			p.env[c.env[i]] = c.env[i+1]
		}
		got := p.run(c.args...)
		if got.code != exitUsage || got.stdout != "" || !strings.Contains(got.stderr, c.stderr) || strings.Count(got.stderr, "\n") != 1 {
			t.Errorf("%q: %+v, want one line with %q", c.args, got, c.stderr)
		}
	}
}

// TestHelpListsExitCodes keeps the promise of the front page.
func TestHelpListsExitCodes(t *testing.T) {
	t.Parallel()
	got := (&program{t: t}).run("--help")
	if got.code != exitOK || !strings.Contains(got.stdout, exitCodesHelp) || got.stderr != "" {
		t.Errorf("%+v", got)
	}
}

// TestSignalEndsContext gives 128 plus the number of the signal, and hands the signals back.
func TestSignalEndsContext(t *testing.T) {
	ctx, stop := interrupt.Context(t.Context())
	defer stop()
	guard := make(chan os.Signal, 1)
	signal.Notify(guard, syscall.SIGTERM)
	defer signal.Stop(guard)
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := self.Signal(syscall.SIGTERM); err != nil {
		t.Skipf("no signals here: %v", err)
	}
	<-ctx.Done()
	if code := exitCode(ctx, ctx.Err()); code != 128+int(syscall.SIGTERM) {
		t.Errorf("exit code %d", code)
	}
	plain, cancel := context.WithCancel(t.Context())
	cancel()
	if code := exitCode(plain, plain.Err()); code != exitInterrupt {
		t.Errorf("exit code %d without a signal", code)
	}
}

func TestUnknownRequestIsNotFound(t *testing.T) {
	t.Parallel()
	p := newProgram(t, problemOf(404, `{"status":404,"code":"unknown_request","detail":"no replica remembers a request \"x\""}`))
	got := p.run("explain", "request", "x")
	if got.code != exitNotFound || got.stderr != "opscore: no replica remembers a request \"x\"\n" {
		t.Errorf("%+v", got)
	}
}
