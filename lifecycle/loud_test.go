package lifecycle_test

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

// While one agent publishes as fast as the stream takes it, what others say is stored all the same, and of the loud one the last word counts.
func TestLoudAgentHarmsNobody(t *testing.T) {
	t.Parallel()
	f := newFleet(t, boltStore(t))
	f.serve()
	f.say(event.VerbRegister, "loud", registered("p1"))
	const events = 20_000
	stop, ended := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { ended <- n }()
		for ; n < events; n++ {
			select {
			case <-stop:
				return
			default:
			}
			m := &nats.Msg{Subject: event.AgentSubject(event.VerbState, "loud"), Data: event.MustMarshal(said("p1", fmt.Sprint("state-", n)))}
			if err := f.conn.NC().PublishMsg(m); err != nil { // nobody waits for the acknowledgement
				t.Error(err)
				return
			}
		}
	}()
	for i := range 50 {
		id := fmt.Sprint("quiet-", i)
		f.say(event.VerbRegister, id, registered("p1"))
		if o := f.say(event.VerbState, id, said("p1", "idle")); !o.OK {
			t.Errorf("%s: %v", id, o.Error)
		}
	}
	close(stop)
	n := <-ended
	f.say(event.VerbState, "loud", said("p1", "last"))
	for id, want := range map[string]string{"loud": "last", "quiet-0": "idle", "quiet-49": "idle"} {
		if a, err := f.queries.Get(t.Context(), id); err != nil || a.State != want {
			t.Errorf("%s is %q (%v), want %q", id, a.State, err, want)
		}
	}
	t.Logf("%d events of the loud agent", n)
}
