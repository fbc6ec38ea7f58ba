package agent_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/opspawn/opscore/bus/event"
)

// shared is the server of all tests that do not stop it. Each test has an agent id of its own.
var shared *server.Server

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "opscore-agent-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if shared, err = startServer(serverOptions(dir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	stopServer(shared)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func serverOptions(dir string) *server.Options {
	return &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: dir, JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: 1 << 30, DisableJetStreamBanner: true,
	}
}

// startServer starts a server with the streams of Ops-Core. After it, o.Port is the port in use.
func startServer(o *server.Options) (*server.Server, error) {
	s, err := server.NewServer(o)
	if err != nil {
		return nil, err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return nil, fmt.Errorf("the server did not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	return s, makeStreams(nc, event.StreamAgent, event.StreamWork)
}

func stopServer(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

var streamSubjects = map[string][]string{
	event.StreamAgent: {event.SubjectRegister, event.SubjectDeregister, event.SubjectState},
	event.StreamWork:  {event.SubjectAccepted, event.SubjectProgress, event.SubjectResult, event.SubjectCommandAll},
}

func makeStreams(nc *nats.Conn, names ...string) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := makeStream(js, name); err != nil {
			return err
		}
	}
	return nil
}
