package loadgen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nuid"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
)

// CheckError says that an installation failed before any load: a registration, a read, a task or a result did not come through.
type CheckError struct {
	Step      string // "connect", "register", "read", "agent", "task", "result", "definition" or "agents"
	RequestID string // for the server's log, empty if there is none
	Class     string // a Class constant or an HTTP status, empty if it was another kind of error
	Err       error
}

func (e *CheckError) Error() string {
	text := fmt.Sprintf("the check before the load failed at %q: %v", e.Step, e.Err)
	if e.RequestID != "" {
		text += " (request " + e.RequestID + ")"
	}
	return text
}

// Unwrap returns the cause.
func (e *CheckError) Unwrap() error { return e.Err }

// Unreachable reports whether the server did not answer at all.
func (e *CheckError) Unreachable() bool {
	switch e.Class {
	case ClassRefused, ClassReset, ClassNoResponse, ClassTimeout, ClassResolve:
		return true
	}
	return e.Step == "connect"
}

// checkTimeout bounds each step of the check.
const checkTimeout = 15 * time.Second

// check sends one registration, read, task and result through. Without NATS, where no agent can take a task, it ends after the read.
func (l *load) check(ctx context.Context) error {
	id := "loadgen-check-" + nuid.Next()
	s := &Scenario{Name: "check", Capabilities: []string{id}, Definition: oneTask(id, id)}
	session := l.transport.session()
	defer session.drop()
	if err := l.checkStep(ctx, session, s, id, Step{Op: OpRegister}, "register"); err != nil {
		return err
	}
	await := Step{Op: OpAwaitState, Every: 50 * time.Millisecond, Within: 5 * time.Second, AllowMissing: l.cfg.Transport == TransportNATS}
	if err := l.checkStep(ctx, session, s, id, await, "read"); err != nil {
		return err
	}
	if l.cfg.Target.NATS != "" {
		if err := l.checkTask(ctx, session, s, id); err != nil {
			return err
		}
	} else {
		l.cfg.Log.Info("the check before the load leaves out task and result: without a NATS URL no agent can take one")
	}
	return l.checkStep(ctx, session, s, id, Step{Op: OpDeregister}, "deregister")
}

// checkStep makes one request that must succeed; a read may be repeated, because a publish is answered before it is taken in.
func (l *load) checkStep(ctx context.Context, session session, s *Scenario, id string, step Step, name string) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	begin := time.Now()
	for {
		a := &action{scenario: s, step: &step, agent: id, run: l.transport.newRunID(), request: l.requestID(), intended: time.Now()}
		out := session.do(ctx, a)
		again := step.AllowMissing && out.status == http.StatusNotFound && time.Since(begin) < step.Within
		switch {
		case out.failed != nil && again && sleepUntil(ctx, time.Now().Add(step.Every)):
			continue
		case out.failed != nil:
			return &CheckError{Step: name, RequestID: a.request, Class: out.failed.class, Err: out.failed}
		case out.missing:
			return &CheckError{Step: name, RequestID: a.request, Class: ClassContent, Err: errors.New("the agent that has just registered has no state")}
		}
		return nil
	}
}

// checkTask lets an agent of its own take one task and waits until the run has ended with its result.
func (l *load) checkTask(ctx context.Context, session session, s *Scenario, id string) error {
	nc, err := dialNATS(l.cfg.Target.NATS)
	if err != nil {
		return &CheckError{Step: "connect", Err: err}
	}
	defer nc.Close()
	worked := make(chan string, 1)
	a, err := agent.New(agent.Config{
		Conn: nc, ID: id + "-worker", Version: "1", Capabilities: []string{id}, DeregisterOnStop: true,
		DrainTimeout: 5 * time.Second, Log: slog.New(slog.DiscardHandler),
	}, func(_ context.Context, t *agent.Task) (any, error) {
		select {
		case worked <- t.RunID:
		default: // a repeat
		}
		return event.Raw(`{"ok":true}`), nil
	})
	if err != nil {
		return &CheckError{Step: "agent", Err: err}
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- a.Run(life) }()
	defer func() {
		stop()
		<-ended
	}()
	limited, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	select {
	case <-a.Ready():
	case err := <-ended:
		ended <- err
		return &CheckError{Step: "agent", Err: err}
	case <-limited.Done():
		return &CheckError{Step: "agent", Class: ClassTimeout, Err: fmt.Errorf("its registration was not confirmed within %v", checkTimeout)}
	}
	if err := l.checkStep(ctx, session, s, id, Step{Op: OpStartRun, Inline: true}, "task"); err != nil {
		return err
	}
	select {
	case run := <-worked:
		return l.checkResult(ctx, run)
	case <-limited.Done():
		return &CheckError{Step: "task", Class: ClassTimeout, Err: fmt.Errorf("the run was started, and no agent got its task within %v", checkTimeout)}
	}
}

// checkResult waits until a run has ended.
func (l *load) checkResult(ctx context.Context, run string) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	read, done, err := l.runReader()
	if err != nil {
		return &CheckError{Step: "connect", Err: err}
	}
	defer done()
	for state := event.RunState("unknown"); ; {
		got, failed := read(ctx, run)
		if failed != nil && failed.class != ClassTimeout {
			return &CheckError{Step: "result", Class: failed.class, Err: failed}
		}
		if state = got.State; state == event.RunCompleted {
			return nil
		}
		if state == event.RunFailed || state == event.RunCancelled || !sleepUntil(ctx, time.Now().Add(20*time.Millisecond)) {
			return &CheckError{Step: "result", Err: fmt.Errorf("the task was done, and run %s is %s, want %s", run, state, event.RunCompleted)}
		}
	}
}

// runReader returns how to read a run over the transport of the load.
func (l *load) runReader() (read func(context.Context, string) (event.Run, *failure), done func(), err error) {
	switch t := l.transport.(type) {
	case *httpTransport:
		s := &httpSession{transport: t, conn: httpConn{base: t.base}}
		return func(ctx context.Context, id string) (run event.Run, f *failure) {
			answer, err := s.send(ctx, &httpRequest{method: http.MethodGet, path: pathRuns + "/" + url.PathEscape(id), id: l.requestID()})
			switch {
			case err != nil:
				return run, classify(err)
			case answer.status != http.StatusOK:
				return run, failuref(strconv.Itoa(answer.status), "%s", detail(answer.body))
			}
			if err := event.Unmarshal(answer.body, &run); err != nil {
				return run, failuref(ClassContent, "%v", err)
			}
			return run, nil
		}, s.drop, nil
	case *natsTransport:
		return func(ctx context.Context, id string) (run event.Run, f *failure) {
			answer, err := t.conns[0].RequestMsgWithContext(ctx, message(event.APISubject("run", "get"), "", map[string]string{"id": id}))
			if err != nil {
				return run, classify(err)
			}
			if err := event.Unmarshal(answer.Data, &run); err != nil {
				return run, failuref(ClassContent, "%v", err)
			}
			return run, nil
		}, func() {}, nil
	}
	return nil, nil, fmt.Errorf("unknown transport %T", l.transport)
}

// prepare stores the scenario's definition, if its steps name it by id.
func (l *load) prepare(ctx context.Context) error {
	if !l.scenario.storesDefinition() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	switch t := l.transport.(type) {
	case *natsTransport:
		return applyNATS(ctx, t.conns[0], l.scenario.Definition)
	case *httpTransport:
		s := &httpSession{transport: t, conn: httpConn{base: t.base}}
		defer s.drop()
		r := &httpRequest{
			method: http.MethodPut, path: pathWorkflows + url.PathEscape(l.scenario.definitionID()), body: l.scenario.Definition, id: l.requestID(),
		}
		answer, err := s.send(ctx, r)
		if err == nil && answer.status != http.StatusOK {
			err = failuref(strconv.Itoa(answer.status), "%s", detail(answer.body))
		}
		return err
	}
	return nil
}
