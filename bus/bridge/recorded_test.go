package bridge_test

import (
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/opspawn/opscore/bus/event"
)

// exchange is one request and the answer that the old server gave.
type exchange struct {
	Name    string `json:"name"`
	Request struct {
		Method  string            `json:"method"`
		Target  string            `json:"target"`
		Headers map[string]string `json:"headers"`
		JSON    event.Raw         `json:"json"` // sent compact
		Text    string            `json:"text"` // sent as it is
	} `json:"request"`
	Response struct {
		Status  int               `json:"status"`
		Headers map[string]string `json:"headers"` // empty: must be absent
		JSON    event.Raw         `json:"json"`    // compact, with the placeholders below
		Text    string            `json:"text"`
	} `json:"response"`
}

// placeholders stand for what differs from run to run.
var placeholders = map[string]string{
	`\{uuid4\}`:     `[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`,
	`\{timestamp\}`: `20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z`,
}

// Each file is a conversation with a server of its own, in order.
func TestOldClientsAreServedAsBefore(t *testing.T) {
	files, err := filepath.Glob("testdata/old/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no recorded exchanges", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			t.Parallel()
			var exchanges []exchange
			if err := event.Unmarshal([]byte(readFile(t, file)), &exchanges); err != nil {
				t.Fatal(err)
			}
			b := setup(t, nil)
			b.apply("sample_workflow_id", readFile(t, "testdata/sample_workflow.json"))
			for _, x := range exchanges {
				t.Run(x.Name, func(t *testing.T) { x.replay(t, b) })
			}
		})
	}
}

func (x *exchange) replay(t *testing.T, b *bundle) {
	body := x.Request.Text
	if len(x.Request.JSON) > 0 {
		body = compact(t, x.Request.JSON)
	}
	req, err := http.NewRequestWithContext(t.Context(), x.Request.Method, b.url+x.Request.Target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range x.Request.Headers {
		req.Header.Set(k, v)
	}
	got := b.send(req)
	if got.StatusCode != x.Response.Status {
		t.Errorf("status %d, want %d", got.StatusCode, x.Response.Status)
	}
	for k, v := range x.Response.Headers {
		want := strings.ReplaceAll(v, "{host}", req.URL.Host)
		if have := got.Header.Get(k); have != want {
			t.Errorf("header %s is %q, want %q", k, have, want)
		}
	}
	if !regexp.MustCompile(`^\d+(\.\d+)?$`).MatchString(got.Header.Get("X-Process-Time")) {
		t.Errorf("X-Process-Time is %q", got.Header.Get("X-Process-Time"))
	}
	x.compareBody(t, got)
}

func (x *exchange) compareBody(t *testing.T, got response) {
	want := x.Response.Text
	if len(x.Response.JSON) > 0 {
		want = compact(t, x.Response.JSON)
	}
	if x.Request.Method == http.MethodHead {
		want = ""
	} else if int(got.ContentLength) != len(got.body) {
		t.Errorf("Content-Length is %d, the body has %d bytes", got.ContentLength, len(got.body))
	}
	pattern := regexp.QuoteMeta(want)
	for name, p := range placeholders {
		pattern = strings.ReplaceAll(pattern, name, p)
	}
	if !regexp.MustCompile("^" + pattern + "$").MatchString(got.body) {
		t.Errorf("body is\n%s\nwant\n%s", got.body, want)
	}
}

func compact(t *testing.T, v event.Raw) string {
	t.Helper()
	v = v.Clone()
	if err := v.Format(); err != nil {
		t.Fatal(err)
	}
	return string(v)
}
