package main

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// A registration and a refusal are followed through a server that runs.
func TestExplainRequestOfARunningServer(t *testing.T) {
	t.Parallel()
	url, log := dev(t, map[string]string{})
	p := &program{t: t, env: map[string]string{envServer: url}}
	for name, c := range map[string]struct {
		body string
		code int
		want string
	}{
		"registered": {oldRegister, 200, `(?s)Status +200 OK.*Sequence +OPSCORE_AGENT/\d+.*received +0\.00ms +ok.*published +\d.*consumed.*committed.*answered +\d+\.\d\dms +ok\n$`},
		"refused":    {`{"event_type":"REGISTER"}`, 422, `(?s)Status +422 .*authenticated +\d.*published +- +body\.agent_details: Field required\nanswered`},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+oldNotify, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		id := resp.Header.Get("X-Request-Id")
		if got := p.run("explain", "request", id); resp.StatusCode != c.code || got.code != exitOK || !regexp.MustCompile(c.want).MatchString(got.stdout) {
			t.Errorf("%s: status %d, %+v", name, resp.StatusCode, got)
		}
		if refused := c.code >= 400; strings.Contains(log.String(), id) != refused {
			t.Errorf("%s: the log has the request: %v\n%s", name, !refused, log)
		}
	}
	if got := p.run("explain", "request", "unheard-of"); got.code != exitNotFound || !strings.Contains(got.stderr, "10000") {
		t.Errorf("%+v", got)
	}
}
