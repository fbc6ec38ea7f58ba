package workflow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/boltstore"
)

// What may go wrong on the stage.
const (
	requestLost  = "request lost"       // the agent never sees it
	answerLost   = "answer lost"        // the agent works, and nobody knows
	refusal      = "refusal"            // the agent does not want it now
	vanishing    = "vanishing"          // nothing is heard of the attempt again
	lateness     = "late result"        // the result comes when its time is over
	repetition   = "repeated words"     // what an agent says comes twice, and out of order
	rebirth      = "rebirth"            // the agent's process is replaced
	deafness     = "cancel lost"        // the agent never sees it
	refusedWrite = "refused write"      // the store does not answer, and has written nothing
	lostReply    = "lost reply"         // the store does not answer, and has written
	slowWrite    = "slow write"         // by seconds, perhaps so many that others have gone on
	failedRead   = "failed read"        // the store does not answer
	deathBefore  = "death before write" // kill -9 of the replica
	deathAfter   = "death after write"  // kill -9 between the commit and what follows from it
	deathAtPoint = "death at a point"   // kill -9 at one of the named points
)

var mishaps = []string{
	requestLost, answerLost, refusal, vanishing, lateness, repetition, rebirth, deafness, refusedWrite, lostReply, slowWrite, failedRead,
	deathBefore, deathAfter, deathAtPoint,
}

// How much may go wrong before everything is left alone, so that what remains must come to an end.
const (
	maxDeaths  = 4
	maxMishaps = 60
	calmAfter  = 40 * time.Second
	replicas   = 2
)

// stage is everything around a run: a NATS server, a store, replicas of the engine that die and are started again, and agents. It plays in a bubble, so
// all of it lives by one clock, which nothing but waiting moves.
type stage struct {
	t      *testing.T
	scene  *scene
	server *bus.Embedded
	conn   *bus.Conn // of those who start and steer runs
	store  storage.Store
	began  time.Time
	calm   time.Time // nothing goes wrong any more from then on
	watch  *watcher
	fact   atomic.Pointer[event.Fact] // of the run, the newest there was

	mu     sync.Mutex
	dice   *rand.Rand
	deaths int
	count  map[string]int
	over   bool

	cancelled bool         // somebody cancels the run
	acting    atomic.Int32 // words of which nobody knows yet whether they let the run go on again
	goes      int          // how often it was let go on again

	cast sync.WaitGroup // replicas and what agents are doing
	done context.Context
	stop context.CancelFunc
}

func newStage(t *testing.T, sc *scene, seed uint64) *stage {
	t.Helper()
	store, err := boltstore.Driver.Open(t.Context(), &url.URL{Scheme: "file", Opaque: filepath.Join(t.TempDir(), "opscore.db")})
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{
		t: t, scene: sc, server: bustest.Server(t), store: store, began: time.Now(),
		dice: rand.New(rand.NewPCG(seed, 1)), count: make(map[string]int),
	}
	s.calm = s.began.Add(calmAfter)
	s.watch = newWatcher(t, sc.def)
	s.conn = bustest.Dial(t, s.server)
	if _, err := s.conn.NC().Subscribe(event.FactSubject("run", runID), s.heard); err != nil {
		t.Fatal(err)
	}
	s.done, s.stop = context.WithCancel(context.WithoutCancel(t.Context()))
	for range replicas {
		s.cast.Go(s.replica)
	}
	for _, id := range slices.Sorted(mapKeys(sc.seats)) {
		s.join(id, sc.seats[id])
	}
	return s
}

func mapKeys[K comparable, V any](m map[K]V) func(func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// heard takes a fact about the run, which may be older than what is known.
func (s *stage) heard(m *nats.Msg) {
	fact := new(event.Fact)
	if err := event.Unmarshal(m.Data, fact); err != nil {
		s.t.Errorf("the fact %s: %v", m.Data, err)
	}
	if known := s.fact.Load(); known == nil || fact.Version >= known.Version {
		s.fact.Store(fact)
	}
}

// close ends everything, in good order.
func (s *stage) close() {
	s.stop()
	s.cast.Wait()
	if err := s.store.Close(); err != nil {
		s.t.Error(err)
	}
}

// happens reports whether a mishap happens now.
func (s *stage) happens(mishap string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	chance := s.scene.risks[mishap]
	if death := mishap == deathBefore || mishap == deathAfter || mishap == deathAtPoint; death {
		if chance /= 4; s.deaths >= maxDeaths {
			return false
		}
	}
	total := 0
	for _, n := range s.count {
		total += n
	}
	if s.over || total >= maxMishaps || time.Now().After(s.calm) || s.dice.Float64() >= chance {
		return false
	}
	s.count[mishap]++
	return true
}

// between draws a time.
func (s *stage) between(least, most time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return least + time.Duration(s.dice.Int64N(int64(most-least)+1))
}

// sleep lets time pass, and reports false if the stage was closed meanwhile.
func (s *stage) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.done.Done():
		return false
	}
}

// replica runs a replica of Ops-Core, one life after the other. A death forgets everything, and lets nothing more be written or said.
func (s *stage) replica() {
	for s.done.Err() == nil {
		life, end := context.WithCancel(s.done)
		if err := s.live(life, end); err != nil && life.Err() == nil {
			s.t.Errorf("a replica has ended: %v", err)
		}
		end()
		s.sleep(s.between(0, 2*time.Second))
	}
}

var errDead = errors.New("the replica is dead")

func (s *stage) live(ctx context.Context, end context.CancelFunc) error {
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(s.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	conn, err := bus.Connect(ctx, bus.Config{Name: "replica", InProcess: s.server, Log: log})
	if err != nil {
		return err
	}
	defer conn.Close()
	kill := func() {
		s.mu.Lock()
		s.deaths++
		s.mu.Unlock()
		conn.NC().Close()
		end()
	}
	store := &frail{Store: s.store, stage: s, alive: ctx, kill: kill}
	crash := func(string) {
		if ctx.Err() == nil && s.happens(deathAtPoint) {
			kill()
		}
	}
	var engine *Engine
	keeper := lifecycle.NewKeeper(store, conn, log, func() { engine.Forget() })
	engine = NewEngine(Config{Store: store, Bus: conn, Keeper: keeper, Log: log, Crash: crash})
	if err := keeper.Check(ctx); err != nil {
		return nil // the store did not answer: it is started again
	}
	life := lifecycle.New(lifecycle.Config{Store: store, Bus: conn, Log: log, Wake: engine.Wake, Crash: crash})
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{keeper.Run, engine.Run, life.Run} {
		g.Go(func() error { return run(ctx) })
	}
	return g.Wait()
}

// frail is the store as one life of a replica sees it.
type frail struct {
	storage.Store
	stage *stage
	alive context.Context // ends with the life
	kill  func()
}

func (f *frail) unwell() error {
	switch {
	case f.alive.Err() != nil:
		return fmt.Errorf("%w: %w", storage.ErrUnknown, errDead)
	case f.stage.happens(failedRead):
		return errors.New("the store does not answer")
	}
	return nil
}

func (f *frail) Get(ctx context.Context, keys ...storage.Key) ([]storage.Doc, error) {
	if err := f.unwell(); err != nil {
		return nil, err
	}
	return f.Store.Get(ctx, keys...)
}

func (f *frail) Range(
	ctx context.Context, index storage.Index, after storage.Cursor, to storage.Score, limit int,
) ([]storage.Entry, error) {
	if err := f.unwell(); err != nil {
		return nil, err
	}
	return f.Store.Range(ctx, index, after, to, limit)
}

func aboutRuns(txns []storage.Txn) bool {
	return slices.ContainsFunc(txns, func(t storage.Txn) bool {
		return slices.ContainsFunc(t.Put, func(p storage.Put) bool { return strings.HasPrefix(string(p.Key), "run/") })
	})
}

func (f *frail) Commit(_ context.Context, txns ...storage.Txn) []error {
	unknown := make([]error, len(txns))
	for i := range unknown {
		unknown[i] = fmt.Errorf("%w: as planned", storage.ErrUnknown)
	}
	if aboutRuns(txns) && f.stage.happens(slowWrite) { // others are written under a lock, and nobody who waits for a lock lets the clock of a bubble go on
		f.stage.sleep(f.stage.between(0, 12*time.Second))
	}
	if f.stage.happens(deathBefore) {
		f.kill()
	}
	if f.alive.Err() != nil || f.stage.happens(refusedWrite) {
		return unknown
	}
	errs := f.stage.watch.commit(f.Store, txns)
	switch {
	case f.stage.happens(deathAfter):
		f.kill()
		return unknown
	case f.stage.happens(lostReply):
		return unknown
	}
	return errs
}

// say publishes what somebody says, until the stream has it.
func (s *stage) say(subject string, body any) {
	m := nats.NewMsg(subject)
	m.Data = event.MustMarshal(body)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.done), time.Minute)
	defer cancel()
	if _, err := s.conn.Publish(ctx, m); err != nil {
		s.t.Errorf("%s was not published: %v", subject, err)
	}
}

// actor is an agent.
type actor struct {
	*stage
	id       string
	mu       sync.Mutex
	instance int
	works    map[string]context.CancelFunc // by attempt, while it works on it
	known    map[string]bool               // attempts it has ever taken
}

// join registers an agent and lets it take tasks.
func (s *stage) join(id string, slots int) {
	a := &actor{stage: s, id: id, works: make(map[string]context.CancelFunc), known: make(map[string]bool)}
	for subject, handle := range map[string]nats.MsgHandler{event.TaskSubject(id): a.asked, event.CancelSubject(id): a.cancelled} {
		if _, err := s.conn.NC().Subscribe(subject, handle); err != nil {
			s.t.Fatal(err)
		}
	}
	a.born(slots)
}

// born registers a process of the agent.
func (a *actor) born(slots int) {
	a.mu.Lock()
	a.instance++
	for _, end := range a.works {
		end()
	}
	clear(a.works)
	process := a.process()
	a.mu.Unlock()
	a.say(event.AgentSubject(event.VerbRegister, a.id), &event.Register{
		AgentName: a.id, Version: "1.2.0", Capabilities: []string{"c", "spare", "undo"}, Labels: map[string]string{"pool": "a"}, Slots: slots, Instance: process,
	})
	a.say(event.AgentSubject(event.VerbState, a.id), &event.State{State: "idle", Instance: process})
}

func (a *actor) process() string { return fmt.Sprint("p", a.instance) }

func attemptName(run, task string, attempt int) string {
	return fmt.Sprintf("%s/%s/%d", run, task, attempt)
}

// asked takes a request for an attempt.
func (a *actor) asked(m *nats.Msg) {
	var task event.Task
	if err := event.Unmarshal(m.Data, &task); err != nil {
		a.t.Errorf("agent %s was asked for what is no task: %v", a.id, err)
		return
	}
	if a.happens(requestLost) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if task.Instance != a.process() {
		return // it is meant for another process
	}
	name := attemptName(task.RunID, task.TaskID, task.Attempt)
	if !a.known[name] {
		if a.happens(refusal) {
			_ = m.Respond(event.MustMarshal(event.TaskAnswer{Status: event.AnswerRejected, RetryAfterMs: 200}))
			return
		}
		a.known[name] = true
		ctx, end := context.WithCancel(a.done)
		a.works[name] = end
		if len(a.works) > a.scene.seats[a.id] {
			a.t.Errorf("agent %s has %d slots and works on %d: %v", a.id, a.scene.seats[a.id], len(a.works), slices.Sorted(mapKeys(a.works)))
		}
		process := a.process()
		a.cast.Go(func() { a.work(ctx, name, process, &task) })
	}
	if !a.happens(answerLost) {
		_ = m.Respond(event.MustMarshal(event.TaskAnswer{Status: event.AnswerAccepted}))
	}
}

// cancelled takes the word that an attempt is over.
func (a *actor) cancelled(m *nats.Msg) {
	var c event.Cancel
	if err := event.Unmarshal(m.Data, &c); err != nil || a.happens(deafness) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	name := attemptName(c.RunID, c.TaskID, c.Attempt)
	answer := event.CancelAnswer{Status: event.AnswerUnknown}
	if end := a.works[name]; end != nil {
		end()
		delete(a.works, name)
		answer.Status = event.AnswerCancelled
	}
	_ = m.Respond(event.MustMarshal(answer))
}

// work does a task as its parameters say, unless something goes wrong.
func (a *actor) work(ctx context.Context, name, process string, task *event.Task) {
	wait := time.NewTimer(a.between(0, 1500*time.Millisecond))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
		return
	}
	if !a.rests(name, process) || a.happens(vanishing) {
		return
	}
	if a.happens(rebirth) {
		a.born(a.scene.seats[a.id])
		return
	}
	if a.happens(lateness) && !a.sleep(a.between(2*time.Second, 9*time.Second)) {
		return
	}
	ref := task.Ref()
	result := func() { a.say(event.AgentSubject(event.VerbResult, a.id), a.result(task, process)) }
	words := []func(){result}
	if a.happens(repetition) {
		words = append(words, result, func() {
			a.say(event.AgentSubject(event.VerbAccepted, a.id), &event.Accepted{AttemptRef: ref, Instance: process})
		}, func() {
			a.say(event.AgentSubject(event.VerbProgress, a.id), &event.Progress{AttemptRef: ref, Instance: process})
		})
		a.stage.mu.Lock()
		a.dice.Shuffle(len(words), func(i, j int) { words[i], words[j] = words[j], words[i] })
		a.stage.mu.Unlock()
	}
	for i, word := range words {
		if i > 0 && !a.sleep(a.between(0, time.Second)) {
			return
		}
		word()
	}
}

// rests notes that the agent does not work on an attempt any more, though nobody may have heard of it; it reports whether it did.
func (a *actor) rests(name, process string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if process != a.process() || a.works[name] == nil {
		return false
	}
	a.works[name]()
	delete(a.works, name)
	return true
}

// result is what comes of a task.
func (a *actor) result(task *event.Task, process string) *event.Result {
	var in struct {
		As    string `json:"as"`
		Spare string `json:"spare"`
		N     int    `json:"n"`
		Pad   string `json:"pad"`
	}
	if err := event.Unmarshal(task.Input, &in); err != nil {
		a.t.Errorf("the input of %s: %v", task.TaskID, err)
	}
	r := &event.Result{AttemptRef: task.Ref(), Instance: process, Status: event.StatusFailed}
	as := in.As
	if task.Capability == "spare" {
		as = in.Spare
	}
	switch {
	case as == asGood, as == asFlaky && task.Attempt > 2:
		r.Status = event.StatusCompleted
		r.Output = event.MustMarshal(map[string]any{"n": in.N, "pad": in.Pad})
	case as == asFinal:
		r.Error = &event.TaskError{Code: asFinal, Message: "never", Retryable: ptr(false)}
	default:
		r.Error = &event.TaskError{Code: asBad, Message: "not now"}
	}
	return r
}
