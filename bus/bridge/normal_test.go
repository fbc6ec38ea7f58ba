package bridge

import (
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

func readJSON(t *testing.T, file string, v any) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := event.Unmarshal(data, v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// recorded is what the old server made of a text.
type recorded struct {
	In  string `json:"in"`
	Out string `json:"out"`
	Msg string `json:"msg"`
}

// The recorded results are those of datetime.fromisoformat of Python 3.11, stored and shown by pydantic.
func TestTimestampsAreReadAndShownAsInPython(t *testing.T) {
	var cases []recorded
	readJSON(t, "testdata/timestamps.json", &cases)
	for _, c := range cases {
		got, ok := parsePythonTime(c.In)
		if ok != (c.Out != "") {
			t.Errorf("%q: read %v, want %q", c.In, ok, c.Out)
		} else if ok && got.String() != c.Out {
			t.Errorf("%q: shown as %q, want %q", c.In, got, c.Out)
		} else if again, ok := parsePythonTime(c.Out); c.Out != "" && (!ok || again.String() != c.Out) {
			t.Errorf("%q: shown again as %q", c.Out, again)
		}
	}
}

func TestUnreadableTimestampBecomesServerTime(t *testing.T) {
	now := time.Date(2025, 4, 21, 10, 11, 12, 345678901, time.FixedZone("", 3600))
	if got, want := normaliseTimestamp("yesterday", now), "2025-04-21T09:11:12.345678Z"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// The recorded results are those of pydantic's HttpUrl.
func TestURLsAreNormalisedAsInPydantic(t *testing.T) {
	var cases []recorded
	readJSON(t, "testdata/urls.json", &cases)
	for _, c := range cases {
		check := checker{}
		o := &object{c: &check, members: map[string]event.Raw{"u": event.MustMarshal(c.In)}}
		got := o.httpURL("u")
		if got != c.Out && c.Msg == "" {
			t.Errorf("%q: %q, want %q", c.In, got, c.Out)
		}
		msg := ""
		if len(check.issues) > 0 {
			msg = check.issues[0].Msg
		}
		if msg != c.Msg {
			t.Errorf("%q: %q, want %q", c.In, msg, c.Msg)
		}
	}
}

func FuzzParsePythonTime(f *testing.F) {
	f.Add("2025-04-21T10:11:12.123456+00:00")
	f.Add("2025W161T10,5")
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := parsePythonTime(s)
		if !ok {
			return
		}
		if again, ok := parsePythonTime(got.String()); !ok || again.String() != got.String() {
			t.Errorf("%q is shown as %q, and that as %q (%v)", s, got, again, ok)
		}
	})
}

func FuzzNormaliseURL(f *testing.F) {
	f.Add("HTTP://u:p@Bücher.example:80/a/../b?q=1#f")
	f.Fuzz(func(t *testing.T, s string) {
		once, err := normaliseURL(s)
		if err != nil {
			return
		}
		if twice, err := normaliseURL(once); err != nil || twice != once {
			t.Errorf("%q becomes %q, and that %q (%v)", s, once, twice, err)
		}
	})
}

func FuzzSyntax(f *testing.F) {
	f.Add([]byte(`{"a":1,}`))
	f.Add([]byte(`{"a`))
	f.Fuzz(func(t *testing.T, body []byte) {
		issue := checkSyntax(body)
		if (issue == nil) != event.Raw(body).IsValid() {
			t.Errorf("%q: %v", body, issue)
		}
	})
}

// An offer is made again when the agent asks, however close the two come.
func TestAnOfferHearsThatItsAgentAsks(t *testing.T) {
	var o offers
	o.wake("a") // nobody waits
	o.join("a")
	o.join("a")
	first := o.polled("a")
	o.wake("a")
	select {
	case <-first:
	default:
		t.Error("the offer does not hear of it")
	}
	select {
	case <-o.polled("a"):
		t.Error("the next offer hears of the last poll")
	default:
	}
	o.leave("a")
	o.leave("a")
	if len(o.waiting) != 0 {
		t.Errorf("%d agents are remembered for nothing", len(o.waiting))
	}
}

func TestRetryAfterIsSecondsOrADateAndBounded(t *testing.T) {
	now := time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "soon": 0, "-3": 0, "7": 7 * time.Second, "99999999": 15 * time.Minute, "9999999999": 15 * time.Minute, "99999999999999999999": 0,
		"Sun, 01 Mar 2026 09:30:05 GMT": 5 * time.Second, "Sun, 01 Mar 2026 09:29:00 GMT": 0,
	} {
		if got := retryAfterOf(http.Header{"Retry-After": {text}}, now); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestThePayloadForOldAgentsKeepsTheInput(t *testing.T) {
	for in, want := range map[string]string{
		`{}`:                             `{"task_name":"n","task_parameters":{}}`,
		` {"a":1.0} `:                    `{"a":1.0,"task_name":"n","task_parameters":{"a":1.0}}`,
		`{"task_name":"own"}`:            `{"task_name":"own","task_parameters":{"task_name":"own"}}`,
		`{"task_parameters":1,"b":[{}]}`: `{"task_parameters":1,"b":[{}],"task_name":"n"}`,
		`null`:                           `{"task_name":"n","task_parameters":{}}`,
	} {
		got := agentKitPayload(event.Raw(in), "n")
		if again := got.Clone(); again.Compact() != nil || string(again) != want {
			t.Errorf("%s becomes %s, want %s", in, got, want)
		}
	}
}
