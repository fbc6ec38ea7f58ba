package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

const (
	judgeEvery = 100 * time.Millisecond
	maxStall   = 2 * time.Second // a step that takes longer, or a tick that is later, is an outage of ours

	judgePage = 256 // agents judged, or looked up, at a time
	loadPage  = 1024
	loadTime  = judgeEvery / 2         // of a tick, spent reading who there is
	scanEvery = time.Minute            // a round over all registered agents, behind the hints
	readers   = 16                     // of last messages, at the same time
	handBacks = 200                    // attempts handed back a second at most
	jitter    = 200 * time.Millisecond // of that
	handPace  = time.Second / handBacks
)

// JudgeConfig is what a Judge needs. All fields but Wake are required.
type JudgeConfig struct {
	Store  storage.Store
	Bus    *bus.Conn
	Keeper *Keeper
	Log    *slog.Logger
	// Wake is told, after the commit, of agents that are free again. It must not block.
	Wake func(agents []string)
}

// Judge hears the heartbeats of all agents and says which are live, suspect or lost. All replicas listen; the one that holds the lease judges, and
// only by what it has heard itself without a gap: see [Pulse.Verdict].
type Judge struct {
	cfg    JudgeConfig
	revs   *storage.Revisions
	roster *roster
	lease  *lease
	clock  func() tick // monotonic, and never 0; it goes on while the process is stopped

	mark     tick // of the last checkpoint
	since    tick // since when the lease is held and the store answers; 0: it is not, or does not
	loaded   bool
	cursor   storage.Cursor // of the round over the agents
	round    tick           // when it began
	handNext time.Time      // when the next agent's work may be handed back
}

// NewJudge makes a Judge.
func NewJudge(cfg JudgeConfig) *Judge {
	if cfg.Wake == nil {
		cfg.Wake = func([]string) {}
	}
	revs, start := storage.NewRevisions(), time.Now()
	return &Judge{
		cfg: cfg, revs: revs, roster: newRoster(), lease: newLease(cfg.Store, revs),
		clock: func() tick { return time.Since(start) + time.Nanosecond },
	}
}

// Run listens and judges until ctx ends; then it gives the lease back. It fails only if it cannot subscribe.
func (j *Judge) Run(ctx context.Context) error {
	ear, err := listen(j.cfg.Bus.NC(), j.lease.name, j.roster, j.clock)
	if err != nil {
		return fmt.Errorf("judge liveness: %w", err)
	}
	defer ear.close()
	defer j.lease.leave(ctx)
	t := time.NewTicker(judgeEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			j.tick(ctx, ear)
		}
	}
}

// tick is one look at everything. Whatever keeps it from judging restarts the window: silence is counted anew from then on.
func (j *Judge) tick(ctx context.Context, e *ear) {
	j.checkpoint("this process stood still")
	ctx, cancel := context.WithTimeout(ctx, maxStall)
	defer cancel()
	clear, since, gap := e.listening()
	held := j.lease.held
	err := j.renew(ctx, gap != "")
	if held != j.lease.held {
		j.takeOver()
	}
	j.roster.sweep(j.clock())
	switch healing := j.cfg.Keeper.Dispatching(); {
	case gap != "":
		j.restart(gap, nil)
	case err == nil && healing != nil:
		j.restart("the store is being healed", healing)
	case err == nil && j.lease.held && !j.checkpoint(slowStore):
		if err = j.read(ctx); err == nil && j.loaded {
			j.begin()
			err = j.judge(ctx, clear, max(since, j.since))
		}
	}
	if err != nil {
		j.restart("the store or a stream does not answer", err)
	}
	j.checkpoint(slowStore)
}

const slowStore = "the store is slow"

// renew keeps the lease, or takes it. A replica that does not hear the beats leaves it to others.
func (j *Judge) renew(ctx context.Context, deaf bool) error {
	if !deaf {
		return j.lease.step(ctx, j.clock())
	}
	j.lease.lapse(j.clock())
	return nil
}

// begin begins the window, unless it has begun.
func (j *Judge) begin() {
	if j.since == 0 {
		j.since = j.clock()
	}
}

// checkpoint restarts the window if too much time has passed since the last one, and reports whether it has.
func (j *Judge) checkpoint(why string) bool {
	now := j.clock()
	late := now-j.mark > maxStall && j.mark > 0
	j.mark = now
	if late {
		j.restart(why, nil)
	}
	return late
}

// restart ends the window. The next begins when nothing stands against it.
func (j *Judge) restart(why string, err error) {
	if j.since > 0 {
		log := j.cfg.Log
		if err != nil {
			log = log.With("err", err)
		}
		log.Warn("liveness is not judged for a while", "reason", why)
	}
	j.since = 0
}

// takeOver begins or ends the time in which this replica judges.
func (j *Judge) takeOver() {
	j.since, j.loaded, j.cursor = 0, false, storage.Cursor{}
	j.roster.begin(j.lease.held)
	j.cfg.Log.Info("judging liveness", "here", j.lease.held)
}

// read keeps the roster in line with the gates: of all agents at first, then of those that something was heard of, and of all once a minute.
func (j *Judge) read(ctx context.Context) error {
	begun := j.clock()
	for !j.loaded {
		if err := j.scan(ctx, loadPage); err != nil {
			return err
		}
		if j.clock()-begun > loadTime {
			return nil
		}
	}
	if j.cursor != (storage.Cursor{}) || begun-j.round > scanEvery {
		if err := j.scan(ctx, judgePage); err != nil {
			return err
		}
	}
	tokens, asks := j.roster.take(judgePage)
	if err := j.lookUp(ctx, tokens); err != nil {
		return err
	}
	return j.refuse(ctx, asks)
}

// scan reads the gates of the next registered agents.
func (j *Judge) scan(ctx context.Context, n int) error {
	if j.cursor == (storage.Cursor{}) {
		j.round = j.clock()
	}
	entries, err := j.cfg.Store.Range(ctx, AgentIndex, j.cursor, 0, n)
	if err != nil {
		return fmt.Errorf("list agents: %w", err)
	}
	tokens := make([]string, 0, len(entries))
	for _, entry := range entries {
		tokens = append(tokens, event.MustToken(entry.Member))
	}
	if err := j.lookUp(ctx, tokens); err != nil {
		return err
	}
	j.cursor = storage.Cursor{}
	if len(entries) == n {
		j.cursor = storage.Cursor{Member: entries[n-1].Member}
	} else {
		j.loaded = true
	}
	return nil
}

// lookUp reads the gates of agents.
func (j *Judge) lookUp(ctx context.Context, tokens []string) error {
	ids := make([]string, 0, len(tokens))
	known := tokens[:0]
	for _, t := range tokens {
		if id, err := event.ParseToken(t); err == nil { // else nobody can register under it
			ids, known = append(ids, id), append(known, t)
		}
	}
	gates, err := Gates(ctx, j.cfg.Store, ids...)
	if err != nil {
		return err
	}
	now := j.clock()
	for i, g := range gates {
		j.roster.learn(known[i], g, now)
	}
	return nil
}

// refuse tells processes that beat, and should not or need to register first, what they are. It revives nothing.
func (j *Judge) refuse(ctx context.Context, asks []ask) error {
	if len(asks) == 0 {
		return nil
	}
	ids := make([]string, 0, len(asks))
	known := asks[:0]
	for _, a := range asks {
		if id, err := event.ParseToken(a.token); err == nil {
			ids, known = append(ids, id), append(known, a)
		}
	}
	gates, err := Gates(ctx, j.cfg.Store, ids...)
	if err != nil {
		return err
	}
	for i, g := range gates {
		var refusal *event.Error
		switch {
		case !g.Registered:
			refusal = event.Errorf(event.CodeUnknownAgent, "agent %q is not registered", ids[i])
		case g.Instance != "" && known[i].instance != "" && g.Instance != known[i].instance:
			refusal = event.Errorf(event.CodeStaleInstance, "another process of agent %q has registered", ids[i])
		default:
			continue
		}
		_ = j.cfg.Bus.NC().Publish(known[i].reply, event.MustMarshal(event.Refused(refusal))) // its next beat asks again
	}
	return nil
}

// judge looks again at the agents that are not what was said of them, and says what they are.
func (j *Judge) judge(ctx context.Context, clear, since tick) error {
	found := j.roster.judge(clear, since, judgePage)
	if len(found) == 0 {
		return nil
	}
	cases, err := j.confirm(ctx, found, clear)
	if err != nil || len(cases) == 0 || j.checkpoint(slowStore) {
		return err
	}
	txns := make([]storage.Txn, len(cases))
	now := time.Now()
	for i, c := range cases {
		txns[i] = j.sentence(c, now)
	}
	var unknown error
	var free []string
	for i, err := range j.cfg.Store.Commit(ctx, txns...) {
		c := cases[i]
		switch {
		case err == nil:
			j.roster.learn(c.token, c.gate, j.clock())
			j.cfg.Log.Info("agent is "+string(c.gate.Liveness()), "agent", c.gate.Agent, "was", c.pulse.Said, "held", len(c.gate.Held))
			if c.gate.Takes(now) {
				free = append(free, c.gate.Agent)
			}
		case errors.Is(err, storage.ErrInvalid):
			panic(err)
		case !errors.Is(err, storage.ErrConflict): // else it has changed meanwhile, and is looked at again
			unknown = err
		}
	}
	if len(free) > 0 {
		j.cfg.Wake(free)
	}
	return unknown
}

// caseFile is an agent whose verdict was confirmed by its documents and its last message.
type caseFile struct {
	suspicion
	gate, before *Gate
	gateRev, rev storage.Rev // of the gate and of the record
	seq          uint64      // last message in StreamAgent
}

// confirm reads what is stored of the agents, and returns those of whom the same must be said then.
func (j *Judge) confirm(ctx context.Context, found []suspicion, clear tick) ([]*caseFile, error) {
	cases, err := j.open(ctx, found)
	if err != nil {
		return nil, err
	}
	if err := j.witnessAll(ctx, cases); err != nil {
		return nil, err
	}
	kept := cases[:0]
	for _, c := range cases {
		if c.pulse.Stored < c.pulse.Beat {
			j.roster.refresh(c.token, clear-c.pulse.Stored)
		}
		verdict := c.pulse.Verdict()
		if verdict == c.pulse.Said {
			continue
		}
		before := *c.gate
		c.before = &before
		c.gate.Judged(verdict, c.seq)
		kept = append(kept, c)
	}
	return kept, nil
}

// open reads the documents of agents. Those that are not any more what the roster says are left for the next time.
func (j *Judge) open(ctx context.Context, found []suspicion) ([]*caseFile, error) {
	keys := make([]storage.Key, 0, 2*len(found))
	cases := make([]*caseFile, 0, len(found))
	for _, s := range found {
		id, err := event.ParseToken(s.token)
		if err != nil {
			continue
		}
		cases = append(cases, &caseFile{suspicion: s, gate: &Gate{Agent: id}})
		keys = append(keys, RecordKey(id), GateKey(id))
	}
	docs, err := j.cfg.Store.Get(ctx, keys...)
	if err != nil {
		return nil, fmt.Errorf("read agents: %w", err)
	}
	now := j.clock()
	kept := cases[:0]
	for i, c := range cases {
		c.rev, c.gateRev = docs[2*i].Rev, docs[2*i+1].Rev
		if err := decodeDoc(docs[2*i+1], c.gate); err != nil {
			return nil, err
		}
		if j.roster.differs(c.token, c.gate) {
			j.roster.learn(c.token, c.gate, now)
			continue
		}
		kept = append(kept, c)
	}
	return kept, nil
}

// witnessAll reads the last messages of agents whose silence would be held against them. Nothing stored starts the watching, and nothing more is needed for
// life.
func (j *Judge) witnessAll(ctx context.Context, cases []*caseFile) error {
	silent := make([]*caseFile, 0, len(cases))
	for _, c := range cases {
		if c.pulse.Verdict() != event.LivenessLive {
			silent = append(silent, c)
		}
	}
	if len(silent) == 0 {
		return nil
	}
	clocks := make(map[string]time.Time, 2)
	for _, stream := range []string{event.StreamAgent, event.StreamWork} {
		state, err := j.cfg.Bus.StreamState(ctx, stream)
		if err != nil {
			return fmt.Errorf("read the clock of a stream: %w", err)
		}
		clocks[stream] = state.Now
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for _, c := range silent {
		g.Go(func() error { return j.witness(ctx, c, clocks) })
	}
	return g.Wait()
}

// witness reads the agent's last message from the streams, also one that was not taken in yet. How old it is says the clock that has stamped it.
func (j *Judge) witness(ctx context.Context, c *caseFile, clocks map[string]time.Time) error {
	subject := event.AgentSubject("*", c.token)
	for stream, now := range clocks {
		m, ok, err := j.cfg.Bus.LastMessage(ctx, stream, subject)
		if err != nil {
			return fmt.Errorf("read the last message of an agent: %w", err)
		}
		if !ok {
			continue
		}
		if stream == event.StreamAgent {
			c.seq = m.Seq
		}
		if said, ok := instanceOf(m.Data); ok && said != "" && c.gate.Instance != "" && said != c.gate.Instance {
			continue // another process
		}
		c.pulse.Stored = min(c.pulse.Stored, max(now.Sub(m.Time), 0))
	}
	return nil
}

// sentence makes the Txn that says what an agent is. It holds only if nothing was changed since it was looked at, and the lease is still ours. What a lost
// agent holds is handed back, that of many one after the other.
func (j *Judge) sentence(c *caseFile, now time.Time) storage.Txn {
	t := storage.Txn{
		Rev: j.revs.Next(),
		If: []storage.Cond{
			{Key: leaseKey, Rev: j.lease.rev}, {Key: GateKey(c.gate.Agent), Rev: c.gateRev}, {Key: RecordKey(c.gate.Agent), Rev: c.rev},
		},
	}
	t.IndexAdd, t.IndexRemove = FreeOps(c.before, c.gate, now)
	t.IndexAdd = append(t.IndexAdd, FactOps(c.before, c.gate, now)...)
	if at := now; c.gate.Live == event.LivenessLost && len(c.gate.Held) > 0 {
		if j.handNext.After(at) {
			at = j.handNext
		}
		j.handNext = at.Add(time.Duration(len(c.gate.Held)) * handPace)
		t.IndexAdd = append(t.IndexAdd, handBackOp(c.gate.Agent, at.Add(rand.N(jitter))))
	} else if c.gate.Returned() {
		t.IndexAdd = append(t.IndexAdd, handBackOp(c.gate.Agent, now))
	}
	t.Put = []storage.Put{{Key: GateKey(c.gate.Agent), Data: c.gate.Encode()}}
	LogLiveness(&t, c.gate.Agent, c.gate.Liveness(), c.pulse.reason(), now)
	return t
}
