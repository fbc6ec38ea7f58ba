package bridge_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
)

// publish stores a message that nobody waits for.
func (b *bundle) publish(subject, body string) {
	b.t.Helper()
	if _, err := b.conn.Publish(soon(b.t), &nats.Msg{Subject: subject, Data: []byte(body)}); err != nil {
		b.t.Fatal(err)
	}
}

// dead waits until as many dead letters are listed, and returns them.
func (b *bundle) dead(query string, n int) event.DeadList {
	b.t.Helper()
	var list event.DeadList
	bustest.Eventually(b.t, fmt.Sprintf("%d dead letters with %q", n, query), func() bool {
		list = decode[event.DeadList](b.t, b.do("GET", "/api/v1/dead?"+query, "").want(b.t, 200))
		return len(list.Items) == n
	})
	return list
}

func TestDeadLettersOverHTTP(t *testing.T) {
	b := setup(t, nil)
	for i := range 3 {
		b.publish(event.CommandSubject(event.KindAgentCordon, fmt.Sprint("a", i)), `{"reason":"x"}`)
	}
	b.publish(event.AgentSubject(event.VerbState, "a0"), `{"state":1}`)
	b.dead("", 4)
	all := b.dead("", 4) // the counts are read before the letters: the last may have come between
	if all.Letters != 4 || all.LastSeq != 4 || all.MaxBytes <= 0 {
		t.Errorf("%+v", all)
	}
	b.dead("class=unknown_agent&agent=a0", 1)
	b.dead("since="+time.Now().Add(time.Hour).UTC().Format(time.RFC3339), 0)
	page := b.do("GET", "/api/v1/dead?limit=2&class=unknown_agent", "").want(t, 200)
	next, _, _ := strings.Cut(strings.TrimPrefix(page.Header.Get("Link"), "<"), ">")
	if more := decode[event.DeadList](t, b.do("GET", next, "").want(t, 200)); len(more.Items) != 1 || more.NextCursor != "" {
		t.Errorf("the second page, %s, has %+v", next, more)
	}
	b.do("GET", "/api/v1/dead?since=yesterday", "").problem(t, 422, event.CodeInvalid)

	malformed := b.dead("class=malformed", 1).Items[0]
	path := fmt.Sprintf("/api/v1/dead/%d", malformed.Seq)
	letter := decode[event.DeadLetter](t, b.do("GET", path, "").want(t, 200))
	if string(letter.Body) != `{"state":1}` || letter.AgentID != "a0" || letter.Class != event.CodeMalformed {
		t.Errorf("the letter is %s", event.MustMarshal(&letter))
	}
	b.do("POST", path+"/replay", "").problem(t, 400, event.CodeMalformed)
	b.register("a0")
	b.do("POST", path+"/replay", `{"body":{"state":"idle"}}`).want(t, 200)
	bustest.Eventually(t, "the edited state is taken in", func() bool {
		return strings.Contains(b.do("GET", "/api/v1/agents/a0", "").want(t, 200).body, `"state":"idle"`)
	})
	b.do("POST", path+"/replay", "").problem(t, 404, event.CodeUnknownLetter)
	b.do("GET", path, "").problem(t, 404, event.CodeUnknownLetter)

	cordon := b.dead("agent=a0", 1).Items[0]
	b.do("POST", fmt.Sprintf("/api/v1/dead/%d/replay", cordon.Seq), "").want(t, 200)
	bustest.Eventually(t, "the agent is cordoned", func() bool {
		return decode[event.Agent](t, b.do("GET", "/api/v1/agents/a0", "").want(t, 200)).Cordoned
	})
	// Sent again while its agent is still unknown, it comes back with a hop more.
	other := b.dead("agent=a1", 1).Items[0]
	b.do("POST", fmt.Sprintf("/api/v1/dead/%d/replay", other.Seq), "").want(t, 200)
	bustest.Eventually(t, "the letter comes back", func() bool {
		list := decode[event.DeadList](t, b.do("GET", "/api/v1/dead?agent=a1", "").want(t, 200))
		return len(list.Items) == 1 && list.Items[0].Seq > other.Seq && list.Items[0].Hops == 1
	})
	back := b.dead("agent=a1", 1).Items[0]
	b.do("DELETE", fmt.Sprintf("/api/v1/dead/%d", back.Seq), "").want(t, 200)
	b.do("DELETE", fmt.Sprintf("/api/v1/dead/%d", back.Seq), "").problem(t, 404, event.CodeUnknownLetter)
	b.dead("", 1)
}

func TestHistoriesOverHTTP(t *testing.T) {
	b := setup(t, nil)
	b.serve("worker", "think", func(context.Context, *agent.Task) (any, error) { return nil, nil })
	b.apply("one", oneTask)
	run := decode[event.Run](t, b.do("POST", "/api/v1/runs", `{"workflowId":"one"}`, "Prefer", "wait=20").want(t, http.StatusOK))
	h := decode[event.RunHistory](t, b.do("GET", "/api/v1/runs/"+run.RunID+"/history", "").want(t, 200))
	if n := len(h.Items); h.RunID != run.RunID || n != 5 || h.Items[n-1].To != "completed" || h.Items[n-1].At.IsZero() {
		t.Errorf("the timeline is %s", event.MustMarshal(&h))
	}
	b.do("GET", "/api/v1/runs/nothing/history", "").problem(t, 404, event.CodeUnknownRun)

	path := "/api/v1/agents/worker/history"
	entries := decode[event.List[event.Raw]](t, b.do("GET", path, "").want(t, 200)).Items
	newest := decode[event.List[event.Raw]](t, b.do("GET", path+"?limit=1", "").want(t, 200)).Items
	if len(entries) < 2 || len(newest) != 1 || string(newest[0]) != string(entries[len(entries)-1]) {
		t.Errorf("%d entries, the newest are %s", len(entries), newest)
	}
	later := path + "?since=" + time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	if none := b.do("GET", later, "").want(t, 200).body; none != `{"items":[]}` {
		t.Errorf("of the future: %s", none)
	}
}
