package faults_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// TestPlainTCPAgent is an agent that knows nothing but TCP and the text protocol of NATS.
func TestPlainTCPAgent(t *testing.T) {
	w := newWorld(t)
	w.replica(allRoles, "")
	w.apply("greet", "greeting")
	a := dialPlain(t, strings.TrimPrefix(w.nats.URL(), "nats://"))
	a.send("SUB opscore.v1.task.plain 1\r\nSUB _INBOX.plain.* 2\r\n")
	a.publish("opscore.v1.agent.register.plain", `{"agentName":"plain","version":"1","capabilities":["greeting"]}`)
	a.publish("opscore.v1.agent.state.plain", `{"state":"idle"}`)
	run := w.start("greet")
	for {
		subject, reply, body := a.next()
		if subject != "opscore.v1.task.plain" {
			continue // the stream's acknowledgements
		}
		a.send(fmt.Sprintf("PUB %s 21\r\n{\"status\":\"accepted\"}\r\n", reply))
		var task event.Task
		if err := event.Unmarshal(body, &task); err != nil {
			t.Fatal(err)
		}
		a.publish("opscore.v1.agent.result.plain", fmt.Sprintf(`{"runId":%q,"taskId":%q,"attempt":%d,"token":%q,"status":"completed","output":{"hello":"world"}}`,
			task.RunID, task.TaskID, task.Attempt, task.Token))
		break
	}
	w.complete([]string{run}, 90*time.Second)
}

// plainAgent is a TCP connection and a reader of it.
type plainAgent struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dialPlain(t *testing.T, addr string) *plainAgent {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	a := &plainAgent{t: t, conn: conn, in: bufio.NewReader(conn)}
	a.line() // INFO
	a.send("CONNECT {\"verbose\":false,\"pedantic\":false}\r\n")
	return a
}

func (a *plainAgent) send(s string) {
	a.t.Helper()
	if _, err := io.WriteString(a.conn, s); err != nil {
		a.t.Fatal(err)
	}
}

// publish sends a message and wants the stream's acknowledgement.
func (a *plainAgent) publish(subject, body string) {
	a.t.Helper()
	a.send(fmt.Sprintf("PUB %s _INBOX.plain.ack %d\r\n%s\r\n", subject, len(body), body))
	if got, _, ack := a.next(); got != "_INBOX.plain.ack" || !strings.Contains(string(ack), `"seq":`) {
		a.t.Fatalf("publishing to %s was answered on %s with %s", subject, got, ack)
	}
}

// next reads one message; PINGs are answered on the way.
func (a *plainAgent) next() (subject, reply string, body []byte) {
	a.t.Helper()
	for {
		fields := strings.Fields(a.line())
		switch {
		case len(fields) == 0:
		case fields[0] == "PING":
			a.send("PONG\r\n")
		case fields[0] == "MSG":
			var n int
			if _, err := fmt.Sscan(fields[len(fields)-1], &n); err != nil {
				a.t.Fatal(err)
			}
			if len(fields) == 5 {
				reply = fields[3]
			}
			body = make([]byte, n+2)
			if _, err := io.ReadFull(a.in, body); err != nil {
				a.t.Fatal(err)
			}
			return fields[1], reply, body[:n]
		case fields[0] == "-ERR":
			a.t.Fatal(fields)
		}
	}
}

func (a *plainAgent) line() string {
	a.t.Helper()
	s, err := a.in.ReadString('\n')
	if err != nil {
		a.t.Fatal(err)
	}
	return strings.TrimSpace(s)
}
