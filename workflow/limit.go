package workflow

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow/expr"
)

// limiter is the document that bounds how many runs of a definition go on at the same time, of those that share a key. It is written by every Txn in which one of
// them begins, begins to wait, or ends, so two replicas can never both give the last place. While runs wait and there is room, a due entry stands in the index.
type limiter struct {
	Workflow string `json:"wf"`
	Key      string `json:"key,omitzero"`
	Max      int    `json:"max"`
	Active   int    `json:"active,omitzero"`
	Waiting  int    `json:"waiting,omitzero"`
}

const maxLimitKey = 256 // bytes of a key

// admits reports whether a run may begin; one that waits has been taken from the head of the queue, one that does not stands behind those that do.
func (l *limiter) admits(most int, waits bool) bool {
	return l.Active < most && (waits || l.Waiting == 0)
}

// stalls reports whether somebody waits although there is room.
func (l *limiter) stalls() bool { return l.Waiting > 0 && l.Active < l.Max }

// idle reports whether the document need not be kept.
func (l *limiter) idle() bool { return l.Active == 0 && l.Waiting == 0 }

// limitQueue names the queue of the runs of a definition that share a key.
func limitQueue(workflow, key string) string {
	sum := sha256.Sum256([]byte(event.MustToken(workflow) + "|" + key))
	return "limit-" + hex.EncodeToString(sum[:12])
}

// waitsFor reports whether the run waits for a place of this limiter, and holds whether it has one.
func (r *Run) waitsFor(queue string) bool {
	return r.exists() && r.Control != nil && r.Control.Slot == queue && r.queue() == queue
}

func (r *Run) holds(queue string) bool {
	return r.exists() && r.Control != nil && r.Control.Slot == queue && !r.State.Final() && !r.pending()
}

// slot names the limiter of a run, empty if it has none.
func (r *Run) slot() string {
	if !r.exists() || r.Control == nil {
		return ""
	}
	return r.Control.Slot
}

// loadLimiter puts a limiter into the view. One that does not exist has nobody.
func (e *Engine) loadLimiter(ctx context.Context, v *view, queue string) (*limiter, error) {
	if s := v.limits[queue]; s != nil {
		return s.val, nil
	}
	if v.limits == nil {
		v.limits = make(map[string]*slot[*limiter])
	}
	key := limitKey(queue)
	if c, ok := e.limits.Load(key); ok {
		v.limits[queue] = &slot[*limiter]{rev: c.Rev, val: c.Value}
		return c.Value, nil
	}
	docs, err := e.cfg.Store.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("read how many runs go on: %w", err)
	}
	l := new(limiter)
	if docs[0].Rev != "" {
		if err := event.Unmarshal(docs[0].Data, l); err != nil {
			return nil, fmt.Errorf("document %s: %w", key, err)
		}
		e.limits.Store(key, docs[0].Rev, l)
	}
	v.limits[queue] = &slot[*limiter]{rev: docs[0].Rev, val: l}
	return l, nil
}

// admit finds the limiter of a run that is started, and the queue it must wait in if there is no place.
func (e *Engine) admit(ctx context.Context, v *view, c *change, start *Start) error {
	def := c.def
	if c.after.exists() || def == nil || def.Concurrency == nil || start.Problem != nil {
		return nil
	}
	key, err := limitKeyOf(def, start)
	if err != nil {
		start.Problem = evalError(err)
		return nil
	}
	start.Slot = limitQueue(def.ID, key)
	l, err := e.loadLimiter(ctx, v, start.Slot)
	if err != nil {
		return err
	}
	if l.Workflow == "" {
		named := *l
		named.Workflow, named.Key = def.ID, key
		v.limits[start.Slot].val = &named
	}
	if start.Queue == "" && !l.admits(def.Concurrency.Max, false) {
		start.Queue = start.Slot
	}
	return nil
}

// limitKeyOf evaluates the key that a run is counted by.
func limitKeyOf(def *Definition, start *Start) (string, error) {
	if def.Concurrency.Key == "" {
		return "", nil
	}
	x, err := def.expression(def.Concurrency.Key, expr.Text)
	if err != nil {
		return "", err
	}
	ev := start.Event
	return x.Text(&expr.Scope{Input: ev.Input, Run: expr.RunView{
		ID: ev.RunID, WorkflowID: start.Workflow, WorkflowVersion: start.DefVersion, Labels: ev.Labels, Priority: ev.Priority,
	}}, maxLimitKey)
}

// readmit says where a pending run must wait whose time has come: nowhere if there is a place for it.
func (e *Engine) readmit(ctx context.Context, v *view, c *change) (queue string, err error) {
	q := c.after.slot()
	if q == "" || c.def.Concurrency == nil {
		return "", nil
	}
	l, err := e.loadLimiter(ctx, v, q)
	if err != nil || l.admits(c.def.Concurrency.Max, c.after.waitsFor(q)) {
		return "", err
	}
	return q, nil
}

// refuseAgain refuses to let a run that has ended go on for which there is no place, or whose workflow is paused: its tasks would be begun at once.
func (e *Engine) refuseAgain(ctx context.Context, v *view, c *change, in *Command, seq uint64) (*event.Error, error) {
	r := c.after
	if in.Kind != event.KindRunRetry && in.Kind != event.KindRunRerun || !r.exists() || !r.State.Final() || r.Parent != nil || r.took(seq) {
		return nil, nil
	}
	q := r.slot()
	e.latest.Forget(definitionKey(r.Workflow)) // no commit shows that what is remembered is out of date, if it is refused
	if v.limits[q] == nil {
		e.limits.Forget(limitKey(q))
	}
	paused, err := e.queueOf(ctx, c, r.Workflow)
	if err != nil {
		return nil, err
	}
	if paused != "" {
		return event.Errorf(event.CodeNotAllowedNow, "workflow %q is paused; the run can go on when it is resumed", r.Workflow), nil
	}
	if q == "" || c.def.Concurrency == nil {
		return nil, nil
	}
	l, err := e.loadLimiter(ctx, v, q)
	if err != nil || l.admits(c.def.Concurrency.Max, false) {
		return nil, err
	}
	return event.Errorf(event.CodeNotAllowedNow, "there is no room for the run beside others of workflow %q: %d go on, at most %d may, and %d wait",
		r.Workflow, l.Active, c.def.Concurrency.Max, l.Waiting), nil
}

// countSlots lets a limiter follow what a change does to a run: it takes a place, gives it back, or begins or ceases to wait for one.
func (e *Engine) countSlots(ctx context.Context, v *view, c *change) error {
	for _, q := range [...]string{c.before.slot(), c.after.slot()} {
		if q == "" || c.limits[q] != nil {
			continue
		}
		active, waiting := difference(c.before.holds(q), c.after.holds(q)), difference(c.before.waitsFor(q), c.after.waitsFor(q))
		if active == 0 && waiting == 0 {
			continue
		}
		old, err := e.loadLimiter(ctx, v, q)
		if err != nil {
			return err
		}
		l := *old
		l.Active, l.Waiting = max(0, l.Active+active), max(0, l.Waiting+waiting)
		if c.def.Concurrency != nil && !c.after.State.Final() {
			l.Max = c.def.Concurrency.Max
		}
		if c.limits == nil {
			c.limits = make(map[string]*limiter, 1)
		}
		c.limits[q], c.at = &l, v.now
		v.limits[q].val = &l
	}
	return nil
}

func difference(before, after bool) int {
	switch {
	case before == after:
		return 0
	case after:
		return 1
	}
	return -1
}

// limit lets a group write the limiters that a change has changed.
func (v *view) limit(g *group, c *change, ops *indexOps) {
	for q, l := range c.limits {
		if g.limits == nil {
			g.limits = make(map[string]*limiter, 1)
		}
		s := v.limits[q]
		g.condition(limitKey(q), s.rev)
		g.limits[q] = l
		v.touched[limitKey(q)] = g
		if s.rev = g.txn.Rev; l.idle() {
			s.rev = ""
		}
		if l.stalls() {
			ops.add(dueIndex, timer(timerLimit, q), v.now)
		}
	}
}

// closeLimits writes the limiters of a group as its last change left them, and deletes those that count nobody.
func (g *group) closeLimits() {
	for q, l := range g.limits {
		key := limitKey(q)
		switch {
		case !l.idle():
			g.txn.Put = append(g.txn.Put, storage.Put{Key: key, Data: event.MustMarshal(l)})
		default:
			g.txn.Delete = append(g.txn.Delete, key)
		}
	}
}

// rememberLimits keeps what a change has made of limiters; forgetLimits drops it.
func (e *Engine) rememberLimits(c *change) {
	for q, l := range c.limits {
		if l.idle() {
			e.limits.Forget(limitKey(q))
		} else {
			e.limits.Store(limitKey(q), c.group.txn.Rev, l)
		}
	}
}

func (e *Engine) forgetLimits(c *change) {
	e.limits.Forget(limitKey(c.before.slot()), limitKey(c.after.slot()))
}

// wakeQueue looks at once at the queues in which somebody waits although there is room.
func (e *Engine) wakeQueue(c *change) {
	for q, l := range c.limits {
		if l.stalls() {
			e.inbox.fire(dueOp(dueIndex, timer(timerLimit, q), c.at))
		}
	}
}

// limitDue lets the runs at the head of a queue begin for which there is room. The entry stays until there is none, or nobody waits.
func (e *Engine) limitDue(ctx context.Context, queue string, op *storage.IndexOp) ([]*input, error) {
	e.limits.Forget(limitKey(queue))
	l, err := e.loadLimiter(ctx, new(view), queue)
	if err != nil {
		return nil, err
	}
	if !l.stalls() {
		return nothing(op), nil
	}
	entries, err := e.cfg.Store.Range(ctx, pendingIndex(queue), storage.Cursor{}, storage.MaxScore, min(l.Max-l.Active, duePage))
	if err != nil {
		return nil, fmt.Errorf("read the runs that wait for a place: %w", err)
	}
	if len(entries) == 0 {
		return nothing(op), nil
	}
	inputs := make([]*input, len(entries))
	for i, entry := range entries {
		inputs[i] = &input{run: entry.Member, in: &Begin{}}
	}
	return inputs, nil
}
