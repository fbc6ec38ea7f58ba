package lifecycle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
	"golang.org/x/sync/errgroup"
)

const (
	batchSize  = 4096   // messages folded together: the further behind, the more of them are about one agent
	maxEarly   = 10_000 // agents that have reported but not registered
	cacheSize  = 4096   // records and gates remembered with their revisions
	maxTold    = 3      // deliveries of a command before its agent is called unknown
	toldAgain  = 200 * time.Millisecond
	maxRetries = 50 // conflicts in a row before a batch is given back to be tried again later
)

// Config is what a Service needs. All fields but Wake and Crash are required.
type Config struct {
	Store storage.Store
	Bus   *bus.Conn
	Log   *slog.Logger
	// Wake is told, after the commit, of agents that became free or have ended an attempt. It must not block.
	Wake func(agents []string)
	// Newer, when set, reports whether a newer version has written the store: see [Keeper.Newer].
	Newer func() bool
	// Crash is called at named points, for fault tests.
	Crash func(point string)
}

// Service folds the events of agents into their documents. Its handlers give the verdicts of [bus.Consumer]: a message is
// acknowledged only after the Txn that holds its effect was committed.
type Service struct {
	cfg     Config
	revs    *storage.Revisions
	records *storage.Cache[*Record]
	gates   *storage.Cache[*Gate]
	schemas *storage.Cache[struct{}] // JSON Schemas that are ones, by their names
}

// New makes a Service.
func New(cfg Config) *Service {
	if cfg.Wake == nil {
		cfg.Wake = func([]string) {}
	}
	if cfg.Crash == nil {
		cfg.Crash = func(string) {}
	}
	return &Service{
		cfg:     cfg,
		revs:    storage.NewRevisions(),
		records: storage.NewCache[*Record](cacheSize),
		gates:   storage.NewCache[*Gate](cacheSize),
		schemas: storage.NewCache[struct{}](knownSchemas),
	}
}

// Run consumes the events of agents, and the commands about them, until ctx ends and all its goroutines are gone.
func (s *Service) Run(ctx context.Context) error {
	consumer, err := s.cfg.Bus.NewConsumer(bus.ConsumerConfig{
		Stream: event.StreamAgent, Durable: event.ConsumerLifecycle, Workers: 2,
		MaxBatch: batchSize, MaxHeld: 2 * batchSize,
		Handler: s.Handle, Newer: s.cfg.Newer, Log: s.cfg.Log, Crash: s.cfg.Crash,
	})
	if err != nil {
		return fmt.Errorf("consume %s: %w", event.StreamAgent, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return consumer.Run(ctx) })
	g.Go(func() error { return s.sweepEarly(ctx) })
	return g.Wait()
}

// sweepEarly removes expired early reports, once a minute.
func (s *Service) sweepEarly(ctx context.Context) error {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			if n, err := s.Sweep(ctx, now); err != nil {
				s.cfg.Log.Warn("early reports not swept", "err", err)
			} else if n > 0 {
				s.cfg.Log.Info("early reports expired", "count", n)
			}
		}
	}
}

// Forget drops all remembered documents: the store came back older than it was.
func (s *Service) Forget() {
	s.records.Clear()
	s.gates.Clear()
}

// item is one message of a batch that was decoded.
type item struct {
	msg   *bus.Msg
	event event.Event
	mark  Mark
}

// agentBatch is what one batch holds of one agent, in stream order.
type agentBatch struct {
	id    string
	items []item

	record    *Record
	recordRev storage.Rev
	gate      *Gate
	gateRev   storage.Rev
	fresh     bool // read from the store, not remembered

	schemas    schemaList // if it registers others
	schemasRev storage.Rev
}

// Handle folds one batch: one Txn per agent, all in one round trip. It gives each message its verdict, or returns an error when
// the store does not answer.
func (s *Service) Handle(ctx context.Context, batch []*bus.Msg) error {
	todo := s.decode(batch)
	for try := 0; len(todo) > 0; try++ {
		if try == maxRetries {
			return fmt.Errorf("fold %d agents: %w", len(todo), storage.ErrConflict)
		}
		if err := s.load(ctx, todo); err != nil {
			return err
		}
		if err := s.loadSchemas(ctx, todo); err != nil {
			return err
		}
		var err error
		if todo, err = s.foldAndCommit(ctx, todo); err != nil {
			return err
		}
	}
	return nil
}

// decode buries what cannot be read and groups the rest by agent.
func (s *Service) decode(batch []*bus.Msg) []*agentBatch {
	byID := make(map[string]*agentBatch, len(batch))
	var todo []*agentBatch
	for _, m := range batch {
		d, err := event.Decode(m.Subject, m.Data)
		if err == nil {
			err = s.checkSchemas(d.Event)
		}
		if err != nil {
			refusal := new(event.Error)
			errors.As(err, &refusal)
			m.Dead(refusal)
			s.cfg.Log.Warn("event refused", "subject", m.Subject, "seq", m.Seq, "code", refusal.Code, "err", refusal.Message)
			continue
		}
		b := byID[d.ID]
		if b == nil {
			b = &agentBatch{id: d.ID}
			byID[d.ID] = b
			todo = append(todo, b)
		}
		b.items = append(b.items, item{msg: m, event: d.Event, mark: Mark{Seq: m.Seq, At: m.Time}})
	}
	return todo
}

// load fills in records and gates, from memory where they are remembered.
func (s *Service) load(ctx context.Context, todo []*agentBatch) error {
	var keys []storage.Key
	var missing []*agentBatch
	for _, b := range todo {
		rec, ok1 := s.records.Load(RecordKey(b.id))
		gate, ok2 := s.gates.Load(GateKey(b.id))
		if ok1 && ok2 && !rec.Value.holds() { // what is held may have been buried by another replica
			b.record, b.recordRev, b.gate, b.gateRev, b.fresh = rec.Value, rec.Rev, gate.Value, gate.Rev, false
			continue
		}
		keys = append(keys, RecordKey(b.id), GateKey(b.id))
		missing = append(missing, b)
	}
	if len(keys) == 0 {
		return nil
	}
	docs, err := s.cfg.Store.Get(ctx, keys...)
	if err != nil {
		return fmt.Errorf("load agents: %w", err)
	}
	for i, b := range missing {
		b.fresh = true
		if err := b.read(docs[2*i], docs[2*i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (b *agentBatch) read(record, gate storage.Doc) error {
	b.record, b.gate = &Record{}, &Gate{Agent: b.id}
	b.recordRev, b.gateRev = record.Rev, gate.Rev
	if err := decodeDoc(record, b.record); err != nil {
		return err
	}
	return decodeDoc(gate, b.gate)
}

func decodeDoc(d storage.Doc, v any) error {
	if d.Rev == "" {
		return nil
	}
	if err := event.Unmarshal(d.Data, v); err != nil {
		return fmt.Errorf("document %s: %w", d.Key, err)
	}
	return nil
}

// foldAndCommit applies the events, commits, and returns the agents whose Txn met a conflict.
func (s *Service) foldAndCommit(ctx context.Context, todo []*agentBatch) ([]*agentBatch, error) {
	now := time.Now()
	room, err := s.room(ctx, todo)
	if err != nil {
		return nil, err
	}
	folds := make([]*fold, 0, len(todo))
	var txns []storage.Txn
	for _, b := range todo {
		f, err := s.fold(ctx, b, now, room > 0)
		if err != nil {
			s.forget(todo)
			return nil, err
		}
		if b.recordRev == "" && !b.record.Registered() && f.dirty() {
			room--
		}
		if f.dirty() {
			f.txn = f.build(s.revs.Next(), now)
			txns = append(txns, f.txn)
		}
		folds = append(folds, f)
	}
	errs := s.cfg.Store.Commit(ctx, txns...)
	s.cfg.Crash("lifecycle-after-commit")

	var again []*agentBatch
	var woken, heard []string
	var unknown error
	for _, f := range folds {
		var err error
		if f.dirty() {
			err, errs = errs[0], errs[1:]
		}
		switch {
		case err == nil && !f.dirty() && !f.b.fresh:
			again = append(again, f.b) // no commit has shown that the remembered record is the real one
		case err == nil:
			s.remember(f)
			f.answer()
			if f.woken {
				woken = append(woken, f.b.id)
			}
			if f.heard {
				heard = append(heard, f.b.id)
			}
		case errors.Is(err, storage.ErrConflict):
			again = append(again, f.b)
		case errors.Is(err, storage.ErrInvalid):
			panic(err)
		default:
			unknown = err
		}
	}
	if len(woken) > 0 {
		s.cfg.Wake(woken)
	}
	if len(heard) > 0 {
		sayHeard(s.cfg.Bus.NC(), heard)
	}
	s.forget(again)
	if unknown != nil {
		s.forget(todo)
		return nil, fmt.Errorf("commit agents: %w", unknown)
	}
	return again, nil
}

func (s *Service) remember(f *fold) {
	if !f.dirty() {
		s.records.Store(RecordKey(f.b.id), f.b.recordRev, f.b.record)
		s.gates.Store(GateKey(f.b.id), f.b.gateRev, f.b.gate)
		return
	}
	s.records.Store(RecordKey(f.b.id), f.txn.Rev, f.b.record)
	rev := f.b.gateRev
	if f.gateChanged {
		rev = f.txn.Rev
	}
	s.gates.Store(GateKey(f.b.id), rev, f.b.gate)
}

func (s *Service) forget(todo []*agentBatch) {
	for _, b := range todo {
		s.records.Forget(RecordKey(b.id))
		s.gates.Forget(GateKey(b.id))
	}
}

// rolledBack asks the stream whether it has lost the message at the record's fence: its last sequence is lower, or another message stands there.
func (s *Service) rolledBack(ctx context.Context, r *Record) (bool, error) {
	st, err := s.cfg.Bus.StreamState(ctx, event.StreamAgent)
	if err != nil {
		return false, fmt.Errorf("confirm a rollback: %w", err)
	}
	if st.LastSeq < r.Top.Seq {
		return true, nil
	}
	at, there, err := s.cfg.Bus.MessageTime(ctx, event.StreamAgent, r.Top.Seq)
	if err != nil {
		return false, fmt.Errorf("confirm a rollback: %w", err)
	}
	return there && at.After(r.Top.At), nil
}

// room returns how many more agents may report before they register; it asks only when one of the batch is new.
func (s *Service) room(ctx context.Context, todo []*agentBatch) (int, error) {
	if !slices.ContainsFunc(todo, func(b *agentBatch) bool { return b.recordRev == "" }) {
		return 0, nil
	}
	n, err := s.cfg.Store.Count(ctx, earlyIndex, 0, storage.MaxScore)
	if err != nil {
		return 0, fmt.Errorf("count early reports: %w", err)
	}
	return maxEarly - n, nil
}

// Sweep removes early reports whose registration never came, and returns how many it removed.
func (s *Service) Sweep(ctx context.Context, now time.Time) (int, error) {
	due, err := s.cfg.Store.Range(ctx, earlyIndex, storage.Cursor{}, storage.Score(now.UnixMicro()), 256)
	if err != nil || len(due) == 0 {
		return 0, err
	}
	todo := make([]*agentBatch, len(due))
	for i, e := range due {
		todo[i] = &agentBatch{id: e.Member}
	}
	s.forget(todo)
	if err := s.load(ctx, todo); err != nil {
		return 0, err
	}
	removed := 0
	for i, b := range todo {
		txn := storage.Txn{IndexRemove: []storage.IndexOp{{Index: earlyIndex, Member: b.id, Score: due[i].Score}}}
		if b.waiting() {
			if err := s.bury(ctx, b.unregistered()); err != nil {
				return removed, err
			}
			// What stays keeps a late repeat of the report's Txn from bringing it back; it holds nothing else.
			swept := *b.record
			swept.Reports = nil
			swept.Version++
			txn.Rev = s.revs.Next()
			txn.If = []storage.Cond{{Key: RecordKey(b.id), Rev: b.recordRev}}
			txn.Put = []storage.Put{{Key: RecordKey(b.id), Data: swept.encode()}}
			removed++
		}
		if err := s.cfg.Store.Commit(ctx, txn)[0]; err != nil && !errors.Is(err, storage.ErrConflict) {
			return removed, fmt.Errorf("remove an early report: %w", err)
		}
		s.forget(todo[i : i+1])
	}
	return removed, nil
}

// waiting reports whether the agent has reported and not registered.
func (b *agentBatch) waiting() bool { return b.recordRev != "" && b.record.holds() }

// sortItems puts the messages of one agent in stream order: redeliveries may come in any order.
func sortItems(items []item) {
	slices.SortStableFunc(items, func(a, b item) int { return cmp.Compare(a.mark.Seq, b.mark.Seq) })
}
