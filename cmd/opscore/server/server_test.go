package server_test

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/cmd/opscore/server/servertest"
)

func TestMain(m *testing.M) { bustest.Main(m) }

func TestQueriesOverNATS(t *testing.T) {
	at := servertest.Start(t, server.Config{OldKey: "k"})
	nc, err := nats.Connect(at.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ask := func(subject, body string) *nats.Msg {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; {
			m, err := nc.Request(event.SubjectAPI+"."+subject, []byte(body), 5*time.Second)
			if err == nil {
				return m
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", subject, err)
			}
		}
	}
	for subject, want := range map[string]string{
		"agent.list":    `{"items":[]}`,
		"run.list":      `{"items":[]}`,
		"system.health": `"ok":true`,
	} {
		if m := ask(subject, ""); !strings.Contains(string(m.Data), want) {
			t.Errorf("%s answers %s, want %s", subject, m.Data, want)
		}
	}
	for _, c := range []struct{ subject, body, code string }{
		{"agent.get", `{"id":"nobody"}`, "unknown_agent"},
		{"run.get", `{"id":"none"}`, "unknown_run"},
		{"workflow.get", `{"id":"none"}`, "unknown_definition"},
		{"agent.get", `{"id":7}`, "malformed"},
	} {
		if m := ask(c.subject, c.body); m.Header.Get(micro.ErrorCodeHeader) != c.code || m.Header.Get(micro.ErrorHeader) == "" {
			t.Errorf("%s %s answers %v, want %s", c.subject, c.body, m.Header, c.code)
		}
	}
}

func TestAFailedStartSaysWhatToDo(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	at := servertest.Start(t, server.Config{OldKey: "k"})
	for _, c := range []struct {
		name string
		cfg  server.Config
		want string
	}{
		{"taken HTTP port", server.Config{StoreURL: "file:" + filepath.Join(t.TempDir(), "x.db"), HTTPAddr: at.HTTP}, "--http-addr"},
		{"unknown store", server.Config{StoreURL: "mysql://x", HTTPAddr: "127.0.0.1:0"}, "use one of redis: rediss: file:"},
		{"no Redis", server.Config{StoreURL: "redis://127.0.0.1:1/0", NATSURL: at.NATS, HTTPAddr: "127.0.0.1:0"}, "127.0.0.1:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Log = log
			if err := server.Run(t.Context(), c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the start failed with %v, want one that says %s", err, c.want)
			}
		})
	}
}
