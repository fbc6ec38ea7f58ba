package bridge_test

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/opspawn/opscore/bus/bridge"
	"github.com/opspawn/opscore/bus/event"
)

var (
	fuzzSeed  = flag.Uint64("old-seed", 1, "seed of the requests to the old routes")
	fuzzCount = flag.Int("old-requests", 20_000, "how many requests to the old routes")
)

const (
	fuzzWorkers = 16
	fuzzLimit   = 30 * time.Second // of one request: a hang is a failure
	fuzzAgents  = 12
)

// Whatever is sent to the old routes, the answer comes, is no 5xx, and is an object with a detail unless it is a success. Each request
// follows from the seed and its number alone.
func TestOldRoutesBearAnything(t *testing.T) {
	b := setup(t, func(c *bridge.Config) {
		c.Log, c.CallTimeout = slog.New(slog.DiscardHandler), fuzzLimit
	})
	b.apply("sample_workflow_id", readFile(t, "testdata/sample_workflow.json"))
	for i := range fuzzAgents {
		b.register(fuzzAgent(i))
	}
	var next atomic.Int64
	var failures atomic.Int64
	var statuses sync.Map
	var workers sync.WaitGroup
	for range fuzzWorkers {
		workers.Go(func() {
			c := &rawClient{addr: strings.TrimPrefix(b.url, "http://")}
			defer c.close()
			for n := next.Add(1); n <= int64(*fuzzCount) && failures.Load() < 10; n = next.Add(1) {
				f := fuzzer{rand.New(rand.NewPCG(*fuzzSeed, uint64(n)))}
				req := f.request()
				status, problem := c.exchange(req)
				count, _ := statuses.LoadOrStore(status, new(atomic.Int64))
				count.(*atomic.Int64).Add(1)
				if problem != "" {
					failures.Add(1)
					t.Errorf("-old-seed %d, request %d: %s\n%s", *fuzzSeed, n, problem, abridged(req.text))
				}
			}
		})
	}
	workers.Wait()
	seen := map[int]int64{}
	statuses.Range(func(k, v any) bool { seen[k.(int)] = v.(*atomic.Int64).Load(); return true })
	t.Logf("answers by status: %v", seen)
	for _, status := range []int{200, 202, 307, 400, 401, 404, 405, 413, 414, 422} {
		if seen[status] == 0 && *fuzzCount >= 20_000 {
			t.Errorf("no request was answered with %d: the requests are not what they should be", status)
		}
	}
	// And it still serves.
	b.register("after")
	auth := []string{"Authorization", "Bearer " + oldKey}
	b.do("POST", "/v1/opscore/agent/after/state", stateBody("after", `{"n":1.0}`), auth...).want(t, 202)
	if r := b.do("GET", "/v1/opscore/agent/after/state", "", auth...).want(t, 200); !strings.Contains(r.body, `"details":{"n":1.0}`) {
		t.Errorf("afterwards: %s", r.body)
	}
}

func fuzzAgent(i int) string { return "fuzz-" + strconv.Itoa(i) }

func abridged(b []byte) string {
	const most = 2000
	if len(b) > most {
		return fmt.Sprintf("%q … (%d bytes)", b[:most], len(b))
	}
	return fmt.Sprintf("%q", b)
}

// rawRequest is a request as it goes over the wire.
type rawRequest struct {
	method string
	text   []byte
}

// rawClient keeps a connection as long as the server does.
type rawClient struct {
	addr string
	conn net.Conn
	in   *bufio.Reader
}

func (c *rawClient) close() {
	if c.conn != nil {
		_ = c.conn.Close()
	}
	c.conn = nil
}

// exchange sends a request and says what is wrong with the answer.
func (c *rawClient) exchange(req rawRequest) (status int, problem string) {
	if c.conn == nil {
		conn, err := net.Dial("tcp", c.addr)
		if err != nil {
			return 0, err.Error()
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	_ = c.conn.SetDeadline(time.Now().Add(fuzzLimit))
	if _, err := c.conn.Write(req.text); err != nil {
		// A body that is too large is not read to its end; the answer may be there all the same.
		defer c.close()
	}
	resp, err := http.ReadResponse(c.in, &http.Request{Method: req.method})
	if err != nil {
		c.close()
		return 0, "no answer: " + err.Error()
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		c.close()
		return resp.StatusCode, "half an answer: " + err.Error()
	}
	if resp.Close {
		c.close()
	}
	return resp.StatusCode, judgeAnswer(req, resp, body)
}

func judgeAnswer(req rawRequest, resp *http.Response, body []byte) string {
	said := fmt.Sprintf("%d %s", resp.StatusCode, abridged(body))
	var object map[string]event.Raw
	switch {
	case resp.StatusCode >= 500:
		return said
	case resp.Header.Get("X-Request-Id") == "" || resp.Header.Get("X-Process-Time") == "":
		return "headers are missing: " + said
	case req.method == http.MethodHead, resp.StatusCode == http.StatusTemporaryRedirect:
		if len(body) > 0 {
			return "a body: " + said
		}
		return ""
	case resp.Header.Get("Content-Type") != "application/json":
		return resp.Header.Get("Content-Type") + ": " + said
	case event.Unmarshal(body, &object) != nil:
		return "no object: " + said
	case resp.StatusCode >= 300 && len(object["detail"]) == 0:
		return "no detail: " + said
	case resp.StatusCode == http.StatusUnprocessableEntity && object["detail"].Kind() != '[':
		return "no list of mistakes: " + said
	}
	return ""
}

// fuzzValues are JSON values of every type, and some texts that are none.
var fuzzValues = []string{
	"null", "true", "false", "0", "-0", "1", "1.0", "-1.5e300", "1e400", "1E-400", "12345678901234567890", strings.Repeat("9", 400),
	`""`, `"x"`, `"grün"`, `"\u0000"`, `"\ud800"`, `"\ud83d\ude00"`, "\"\x01\"", "\"\xff\"", `{}`, `[]`, `[[]]`, `{"a":{"b":[1]}}`,
	`{"opscore_task_id":"a/b/1"}`, `{"opscore_task_id":5}`,

	"NaN", "-Infinity", "01", "+1", ".5", "tru", "'x'", "{", "[1,", "// x", "",
}

// fuzzHeavy are values that are much too large or too deep; they cost more than the others, and are rarer.
var fuzzHeavy = []string{
	`"` + strings.Repeat("x", 70_000) + `"`,
	strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000),
	`{"x":"` + strings.Repeat("y", 66_000) + `"}`,
	strings.Repeat(`{"a":`, 500) + "1" + strings.Repeat("}", 500),
	strings.Repeat("[", 200) + strings.Repeat("]", 200),
}

// fuzzIDs are ids of agents that nobody should have, and some may.
var fuzzIDs = []string{
	"nobody", "", " ", "a b", "a:b", "grün", "\x00", "\xff", "%", "..", ".", "a/b", "*", ">", "a.b", "=", "=41", "=C3", "_INBOX.x", "\u202e", "😀",
	"a\r\nb", "a\tb", strings.Repeat("x", 128), strings.Repeat("x", 129), strings.Repeat("x", 256), strings.Repeat("ü", 128), strings.Repeat("x", 5000), `"`, `\`,
}

// fuzzer makes one request.
type fuzzer struct{ *rand.Rand }

func (f *fuzzer) chance(percent int) bool { return f.IntN(100) < percent }

func pick[T any](f *fuzzer, from ...T) T { return from[f.IntN(len(from))] }

// field is a member of an object, as text.
type field struct{ name, value string }

func object(fields []field) string {
	parts := make([]string, len(fields))
	for i, m := range fields {
		parts[i] = quote(m.name) + ":" + m.value
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func quote(s string) string { return string(event.MustMarshal(strings.ToValidUTF8(s, "\uFFFD"))) }

func (f *fuzzer) request() rawRequest {
	agent, segment := f.agent()
	method, path, body := f.target(agent, segment)
	if f.chance(3) {
		method = pick(f, "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND", strings.Repeat("X", 300))
	}
	if f.chance(3) {
		path += pick(f, "/", "//", "?", "?x=%zz&y", "?"+strings.Repeat("q", 9000), ";x=1", "/x")
	}
	raw := f.spoil([]byte(body))
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: h\r\n", method, path)
	f.headers(&b)
	if len(raw) > 0 || f.chance(50) {
		f.writeBody(&b, raw)
	} else {
		b.WriteString("\r\n")
	}
	return rawRequest{method, b.Bytes()}
}

// agent returns the id of an agent and how it stands in a path.
func (f *fuzzer) agent() (id, segment string) {
	if f.chance(70) {
		id = fuzzAgent(f.IntN(fuzzAgents))
		return id, id
	}
	id = pick(f, fuzzIDs...)
	if f.chance(50) {
		var b strings.Builder
		for i := range len(id) {
			fmt.Fprintf(&b, "%%%02X", id[i])
		}
		return id, b.String()
	}
	return id, strings.NewReplacer(" ", "%20", "\x00", "%00", "\xff", "%FF", "%", "%25", "\r\n", "%0D%0A", "\t", "%09", "?", "%3F", "#", "%23").Replace(id)
}

// target chooses a route and a body that fits it, more or less.
func (f *fuzzer) target(agent, segment string) (method, path, body string) {
	prefix := "/v1"
	if f.chance(4) {
		prefix = pick(f, "/v1/v1", "/V1", "//v1", "/v1/")
	}
	switch n := f.IntN(100); {
	case n < 40:
		return "POST", prefix + "/opscore/agent/" + segment + "/state", f.mangle([]field{
			{"agentId", quote(agent)},
			{"timestamp", quote(f.timestamp())},
			{"state", quote(pick(f, "idle", "active", "error", "", "IDLE"))},
			{"details", pick(f, "null", `{}`, `{"n":1.0,"big":12345678901234567890}`, f.value(3))},
		})
	case n < 60:
		return "POST", prefix + "/opscore/agent/" + segment + "/workflow", f.trigger()
	case n < 75:
		details := f.mangle([]field{
			{"agentId", quote(agent)},
			{"agentName", `"n"`},
			{"version", `"1"`},
			{"capabilities", `["c"]`},
			{"contactEndpoint", quote(f.url())},
			{"metadata", pick(f, `{}`, `{"a":1}`, f.value(2))},
		})
		return "POST", "/v1/opscore/internal/agent/notify", f.mangle([]field{
			{"event_type", quote(pick(f, "REGISTER", "REGISTER", "REGISTER", "register", "DEREGISTER", "UPDATE", ""))}, {"agent_details", details},
		})
	case n < 95:
		return "GET", prefix + "/opscore/agent/" + segment + "/state", ""
	}
	return "GET", pick(f, "/health", "/", "/nowhere", "/v1/opscore/agents", "/v1/opscore/agent/"+segment, "/health/", "/%2e%2e/health"), ""
}

func (f *fuzzer) trigger() string {
	if f.chance(30) {
		return f.mangle([]field{
			{"workflowDefinitionId", quote(pick(f, "sample_workflow_id", "nothing", "", strings.Repeat("w", 300)))}, {"initialPayload", pick(f, "null", "{}", `{"a":1}`)},
		})
	}
	task := f.mangle([]field{
		{"taskId", `"t"`},
		{"name", `"n"`},
		{"agentCapability", `"c"`},
		{"parameters", pick(f, `{}`, `{"a":1}`, f.value(2))},
		{"nextTaskId", pick(f, "null", `"t"`, `"u"`, f.value(1))},
		{pick(f, "dependsOn", "timeoutSeconds", "retry", "type", "map", "when"), f.value(2)},
	})
	tasks := "[" + strings.TrimSuffix(strings.Repeat(task+",", f.IntN(3)), ",") + "]"
	return f.mangle([]field{
		{"workflowDefinition", f.mangle([]field{
			{"id", quote(pick(f, "inline", "inline-"+strconv.Itoa(f.IntN(50)), "", "a b", "sample_workflow_id"))},
			{"name", `"n"`},
			{"description", pick(f, "null", `"d"`)},
			{"version", `"1.0"`},
			{"tasks", tasks},
		})},
		{"initialPayload", pick(f, "null", "{}", `{"a":1}`)},
	})
}

// mangle writes an object, of which one member or another may be of a wrong type, missing, doubled or new.
func (f *fuzzer) mangle(fields []field) string {
	if f.chance(2) {
		return f.value(3)
	}
	for f.chance(20) && len(fields) > 0 {
		i := f.IntN(len(fields))
		switch f.IntN(10) {
		case 0:
			fields = append(fields[:i:i], fields[i+1:]...)
		case 1:
			fields = append(fields, fields[i])
		case 2:
			fields = append(fields, field{pick(f, "context", "", "registrationTime", "ü", "\x01"), f.value(2)})
		default:
			fields[i].value = f.value(3)
		}
	}
	return object(fields)
}

// value is a JSON value of any type, or something that is none.
func (f *fuzzer) value(depth int) string {
	if depth > 0 && f.chance(25) {
		inner := f.value(depth - 1)
		return pick(f, "["+inner+"]", "["+inner+","+inner+"]", `{"a":`+inner+`}`, `{"a":`+inner+`,"a":`+inner+`}`, `{"":`+inner+`}`)
	}
	if f.chance(4) {
		return pick(f, fuzzHeavy...)
	}
	return pick(f, fuzzValues...)
}

func (f *fuzzer) timestamp() string {
	return pick(f, "2025-04-21T10:11:12.123456+00:00", "2025-04-21T10:11:12Z", "", "now", "1745230272", "2025-W17-1", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999-23:59",
		"2025-02-30T00:00:00", "2025-04-21T24:00:00", strings.Repeat("2", 3000), "\x00")
}

func (f *fuzzer) url() string {
	return pick(f, "http://127.0.0.1:9/", "http://fake-agent.local/run", "https://[::1]:443", "http://[::1", "http://", "ftp://x", "", "http://a b/", "http://x:99999/", "http://ü.example/ü?ü#ü",
		"http://u:p@h/", "//h/", "http:h", "http://"+strings.Repeat("a", 3000), "http://xn--/", "http://%zz/", "http://\x00/")
}

// spoil damages a body as a whole.
func (f *fuzzer) spoil(b []byte) []byte {
	if !f.chance(12) {
		return b
	}
	switch f.IntN(9) {
	case 0:
		return b[:f.IntN(len(b)+1)]
	case 1:
		if len(b) > 0 {
			b[f.IntN(len(b))] ^= byte(1 + f.IntN(255))
		}
		return b
	case 2:
		return append([]byte("\xef\xbb\xbf"), b...)
	case 3:
		var wide []byte
		for _, u := range utf16.Encode([]rune(string(b))) {
			wide = append(wide, byte(u), byte(u>>8))
		}
		return append([]byte("\xff\xfe"), wide...)
	case 4:
		return append(b, b...)
	case 5:
		return append(bytes.Repeat([]byte(" \n"), f.IntN(1000)), b...)
	case 6:
		garbage := make([]byte, f.IntN(300))
		for i := range garbage {
			garbage[i] = byte(f.Uint32())
		}
		return garbage
	case 7:
		return []byte(f.value(4))
	}
	if f.chance(10) {
		return bytes.Repeat([]byte("x"), 1<<20+f.IntN(3)-1)
	}
	return nil
}

func (f *fuzzer) headers(b *bytes.Buffer) {
	if f.chance(85) {
		fmt.Fprintf(b, "Authorization: Bearer %s\r\n", oldKey)
	} else if f.chance(80) {
		fmt.Fprintf(b, "Authorization: %s\r\n", pick(f, "", "Bearer", "Bearer ", "Bearer  "+oldKey, "bearer "+oldKey, "Basic dTpw", oldKey, "Bearer "+strings.Repeat("k", 20_000), "Bearer \xff\xfe", "Bearer grün"))
	}
	if f.chance(80) {
		b.WriteString("Content-Type: application/json\r\n")
	} else if f.chance(80) {
		fmt.Fprintf(b, "Content-Type: %s\r\n", pick(f, "", ";", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=utf-16", "application/vnd.x+json",
			"APPLICATION/JSON", "application/*+json", "application/jsonx", "a/b/c", "\xff", strings.Repeat("x", 5000)))
	}
	if f.chance(5) {
		fmt.Fprintf(b, "%s: %s\r\n", pick(f, "X-Request-Id", "traceparent", "Content-Encoding", "Accept", "Cookie", "X-AgentKit-Timestamp", "Origin", "X-Forwarded-For"),
			pick(f, "", "x", "gzip", strings.Repeat("y", 2000), "\xff", "00-0-0-0", "a b"))
	}
}

func (f *fuzzer) writeBody(b *bytes.Buffer, raw []byte) {
	if f.chance(90) {
		fmt.Fprintf(b, "Content-Length: %d\r\n\r\n", len(raw))
		b.Write(raw)
		return
	}
	b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
	for len(raw) > 0 {
		n := min(len(raw), 1+f.IntN(5000))
		fmt.Fprintf(b, "%x\r\n%s\r\n", n, raw[:n])
		raw = raw[n:]
	}
	b.WriteString("0\r\n\r\n")
}
