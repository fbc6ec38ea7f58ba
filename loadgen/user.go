package loadgen

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// requestTimeout bounds one request.
const requestTimeout = 30 * time.Second

// timerResolution is by how much Go's timers may be late. So much belongs to the pause, more is charged to the request after it: then the
// load generator itself has no time.
const timerResolution = 2 * time.Millisecond

// user is one of the users of a scenario: one goroutine, one session, dice of its own.
type user struct {
	load    *load
	number  int
	id      string
	dice    dice
	session session
	storms  int  // reconnects that are over
	begun   bool // does its tasks, and not what comes before the first
}

func newUser(l *load, number int) *user {
	d := newDice(l.cfg.Seed, number)
	return &user{load: l, number: number, id: d.id(l.scenario.IDs, number), dice: d, session: l.transport.session()}
}

// run does what the scenario says until live ends. Requests on their way then may go on until hard ends.
func (u *user) run(live, hard context.Context) {
	defer u.session.drop()
	if !u.begin(live, hard) {
		return
	}
	if u.load.scenario.Rate > 0 {
		u.runOpen(live, hard)
		return
	}
	u.runClosed(live, hard)
}

// begin does what a user does before its first task. It reports false when the run has ended meanwhile.
func (u *user) begin(live, hard context.Context) bool {
	u.begun = false
	for i := range u.load.scenario.OnStart {
		if live.Err() != nil {
			return false
		}
		u.do(live, hard, &u.load.scenario.OnStart[i], time.Now())
	}
	u.begun = true
	return live.Err() == nil
}

// runClosed does one task after the other with pauses between them, as users do who wait for answers. A task is intended for the end of
// the pause before it.
func (u *user) runClosed(live, hard context.Context) {
	for {
		intended, ok := u.pause(live, hard)
		if !ok {
			return
		}
		u.do(live, hard, u.dice.step(u.load.scenario.Tasks), intended)
	}
}

// pause waits for the time of the next task and returns it. When all users have to reconnect meanwhile, this one does.
func (u *user) pause(live, hard context.Context) (intended time.Time, ok bool) {
	intended = time.Now().Add(u.dice.span(u.load.scenario.Pause))
	for {
		storm, more := u.load.storm(u.storms)
		if !more || storm.After(intended) {
			ok = sleepUntil(live, intended)
			if now := time.Now(); now.Sub(intended) < timerResolution {
				intended = now
			}
			return intended, ok
		}
		u.storms++
		if !sleepUntil(live, storm) {
			return intended, false
		}
		u.session.drop()
		if !u.begin(live, hard) {
			return intended, false
		}
		if now := time.Now(); intended.Before(now) { // the reconnect has taken the task's time
			intended = now
		}
	}
}

// runOpen does the tasks of an open model: the users take the next one that is due, whoever is free. A task that nobody was free for
// is late from its beginning, and its time counts from when it was due.
func (u *user) runOpen(live, hard context.Context) {
	for {
		select {
		case due := <-u.load.due:
			u.do(live, hard, u.dice.step(u.load.scenario.Tasks), due)
		case <-live.Done():
			return
		}
	}
}

// sleepUntil waits for a moment and reports whether it has come before ctx ended.
func sleepUntil(ctx context.Context, at time.Time) bool {
	d := time.Until(at)
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// do does one step.
func (u *user) do(live, hard context.Context, step *Step, intended time.Time) {
	switch step.Op {
	case OpWait:
		sleepUntil(live, time.Now().Add(step.For))
	case OpAwaitState:
		u.awaitState(live, hard, step)
	default:
		_, s := u.send(hard, step, intended)
		u.record(s)
	}
}

// awaitState reads the state of the user until it is there.
func (u *user) awaitState(live, hard context.Context, step *Step) {
	begin := time.Now()
	for next := begin; sleepUntil(live, next); next = time.Now().Add(step.Every) {
		out, s := u.send(hard, step, next)
		late := time.Since(begin)+step.Every > step.Within
		switch {
		case out.missing:
			s.failed = failuref(ClassContent, "the state is null")
		case out.status == http.StatusNotFound && step.AllowMissing && !late:
			s.failed = nil
		case out.status == http.StatusNotFound && late:
			s.failed = failuref(ClassContent, "there was no state within %v: %s", step.Within, s.failed.detail)
		}
		u.record(s)
		if out.failed == nil && !out.missing || late {
			return
		}
	}
}

// send makes one request and tells the journal.
func (u *user) send(hard context.Context, step *Step, intended time.Time) (reply, *sample) {
	a := &action{scenario: u.load.scenario, step: step, agent: u.id, intended: intended, request: u.load.requestID()}
	journal := u.load.cfg.Journal
	switch step.Op {
	case OpPostState:
		a.state = u.dice.state()
	case OpTrigger, OpStartRun:
		a.run = u.load.transport.newRunID()
	}
	if kind, key := a.kind(); kind != "" && journal != nil {
		a.n = journal.Send(kind, key)
	}
	ctx, cancel := context.WithTimeout(hard, requestTimeout)
	s := &sample{operation: u.load.transport.operation(step.Op), intended: intended, request: a.request, sent: time.Now()}
	out := u.session.do(ctx, a)
	s.done = time.Now()
	cancel()
	s.bytes, s.failed = out.bytes, out.failed
	if u.begun && u.load.scenario.Rate == 0 {
		s.interval = u.load.scenario.Pause.Mean()
	}
	switch {
	case a.n == 0:
	case out.failed == nil:
		journal.Ack(a.n, out.position)
	case out.refused:
		journal.Refuse(a.n, out.failed.Error())
	}
	return out, s
}

func (u *user) record(s *sample) { u.load.stats.shard(u.number).record(s) }

// kind returns what a step is in the journal, and its key; nothing for what only reads.
func (a *action) kind() (Kind, string) {
	switch a.step.Op {
	case OpRegister:
		return KindRegister, a.agent
	case OpDeregister:
		return KindDeregister, a.agent
	case OpPostState:
		return KindState, a.agent
	case OpTrigger, OpStartRun:
		return KindStart, a.run
	}
	return "", ""
}

// requestID makes an id that the server's log can be searched for.
func (l *load) requestID() string { return fmt.Sprintf("%s-%d", l.name, l.requests.Add(1)) }
