package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// keeperPeriod is how often positions are written and compared.
const keeperPeriod = time.Second

// quietGap is how far, by stream time, a position may lag behind the acknowledged messages when a process starts before this is
// called a regression of the store and not just the last second before a crash.
const quietGap = 10 * time.Second

// startUp is why dispatch is off before the first check.
const startUp = "start-up check"

// Position is how far a stream has been taken into the store, written each second.
type Position struct {
	Seq     uint64    `json:"seq"`     // all messages up to here are in the store
	At      time.Time `json:"at"`      // stream timestamp of that message
	Created time.Time `json:"created"` // of the stream
	N       uint64    `json:"n"`       // grows with each write
}

// Epoch counts the regressions of the store that were healed, and when the last one was noticed.
type Epoch struct {
	N  uint64    `json:"n"`
	At time.Time `json:"at"`
	// Incarnation names the running database, if it can tell: another one may have lost its last writes.
	Incarnation string `json:"incarnation,omitzero"`
	// Targets are the sequences that the consumers of each stream must pass before tasks are given out again.
	Targets map[string]uint64 `json:"targets,omitzero"`
	// Missing counts, by stream, the messages that should have been read again and were no longer there.
	Missing map[string]uint64 `json:"missing,omitzero"`
}

// durables names the consumer of each stream.
var durables = map[string]string{event.StreamAgent: event.ConsumerLifecycle, event.StreamWork: event.ConsumerWorkflow}

// Keeper writes the position of each stream into the store, notices when the store comes back empty or older than it was, and
// heals it: the consumers are set back to the store's position, and dispatch stays off until they have passed the
// messages that were there. Fences make the replay harmless. It also raises an alarm when a stream itself lost its tail.
//
// A Keeper is safe for concurrent use.
type Keeper struct {
	store storage.Store
	bus   *bus.Conn
	log   *slog.Logger
	revs  *storage.Revisions
	// forget is called when the store regressed: whatever is remembered of its documents is void.
	forget func()

	mu      sync.Mutex
	healing string            // why dispatch is off, or empty
	targets map[string]uint64 // stream: sequence to pass before healing ends
	seen    map[string]uint64 // stream: highest N seen
	passed  map[string]uint64 // stream: highest position seen
	epoch   Epoch
	checked bool
	alarmed string // a document was found older than it had been
	err     error  // of the last tick
	alarm   chan struct{}
	tidied  janitor
	schema  Schema // as the store says
}

// NewKeeper makes a Keeper. Forget is called whenever remembered documents become void.
func NewKeeper(store storage.Store, conn *bus.Conn, log *slog.Logger, forget func()) *Keeper {
	return &Keeper{
		store: store, bus: conn, log: log, forget: forget, revs: storage.NewRevisions(),
		healing: startUp, seen: make(map[string]uint64), passed: make(map[string]uint64), targets: make(map[string]uint64),
		alarm: make(chan struct{}, 1),
	}
}

// Dispatching returns nil when tasks may be given out, and otherwise says why not.
func (k *Keeper) Dispatching() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.healing != "" {
		return event.Errorf(event.CodeUnavailable, "%s", k.healing)
	}
	return nil
}

// Replayed reports whether a message of a stream may be one that was taken in before: the store is being healed, or the message stands at or below a position
// that was once reached. Then what it refers to may be missing only because another replica has not taken it in again yet.
func (k *Keeper) Replayed(stream string, seq uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.healing != "" || seq <= k.passed[stream]
}

// Progress returns the error of the last second's check, or nil.
func (k *Keeper) Progress() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// Epoch returns the count of healed regressions.
func (k *Keeper) Epoch() Epoch {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.epoch
}

// Alarm tells the keeper that a document was found older than it had been: dispatch is off at once, until a check says otherwise.
func (k *Keeper) Alarm(why string) {
	k.mu.Lock()
	if k.healing == "" {
		k.healing = why
	}
	k.alarmed = why
	k.mu.Unlock()
	k.log.Error("the store may have lost writes", "err", why)
	select {
	case k.alarm <- struct{}{}:
	default:
	}
}

// Check compares the store with the streams before anything is taken in. It tries again for as long as ctx lasts, since other replicas may be writing the
// same documents, and then fails with the last reason.
func (k *Keeper) Check(ctx context.Context) error {
	for {
		err := k.tick(ctx)
		if err == nil || errors.Is(err, storage.ErrHeld) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(keeperPeriod / 10):
		}
	}
}

// Run checks and writes positions each second until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	t := time.NewTicker(keeperPeriod)
	defer t.Stop()
	for {
		err := k.tick(ctx)
		if ctx.Err() != nil {
			return nil
		}
		k.mu.Lock()
		if err != nil && k.err == nil {
			k.log.Error("position not written", "err", err)
		}
		k.err = err
		k.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-k.alarm:
		}
	}
}

// streamView is what one tick sees of one stream.
type streamView struct {
	name  string
	floor uint64
	state bus.StreamState
	doc   storage.Doc
	pos   Position
}

func (k *Keeper) tick(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*keeperPeriod)
	defer cancel()
	views, epochDoc, err := k.look(ctx)
	if err != nil {
		return err
	}
	stored, err := decodeEpoch(epochDoc)
	if err != nil {
		return err
	}
	rolled := make(map[*streamView]bool)
	for _, v := range views {
		if rolled[v], err = k.checkStream(ctx, v); err != nil {
			return err
		}
	}
	incarnation, err := k.incarnation(ctx)
	if err != nil {
		return err
	}
	why, err := k.regressed(ctx, views, stored, incarnation)
	if err != nil {
		return err
	}
	if why != "" || epochDoc.Rev == "" {
		return k.heal(ctx, views, epochDoc, stored, incarnation, why)
	}
	k.adopt(stored, views)
	k.accept(incarnation)
	if !k.versioned() {
		if err := EnsureSchema(ctx, k.store); err != nil {
			return err
		}
	}
	for _, v := range views {
		if !rolled[v] {
			continue
		}
		if err := k.writeOne(ctx, v); err != nil {
			return err
		}
	}
	if err := k.write(ctx, views); err != nil {
		return err
	}
	if k.Dispatching() != nil {
		return nil // a replay may still need what the janitor would purge
	}
	return k.tidied.tidy(ctx, k.bus, views, time.Now())
}

// look reads the ack floors first and the store after them, so that a position never claims too much.
func (k *Keeper) look(ctx context.Context) ([]*streamView, storage.Doc, error) {
	views := []*streamView{{name: event.StreamAgent}, {name: event.StreamWork}}
	keys := []storage.Key{epochKey, schemaKey}
	for _, v := range views {
		var err error
		if v.floor, err = k.bus.AckFloor(ctx, v.name); err != nil {
			return nil, storage.Doc{}, fmt.Errorf("read ack floor: %w", err)
		}
		if v.state, err = k.bus.StreamState(ctx, v.name); err != nil {
			return nil, storage.Doc{}, fmt.Errorf("read stream state: %w", err)
		}
		keys = append(keys, positionKey(v.name))
	}
	docs, err := k.store.Get(ctx, keys...)
	if err != nil {
		return nil, storage.Doc{}, fmt.Errorf("read positions: %w", err)
	}
	for i, v := range views {
		v.doc = docs[i+2]
		if err := decodeDoc(v.doc, &v.pos); err != nil {
			return nil, storage.Doc{}, err
		}
	}
	return views, docs[0], k.noteSchema(docs[1])
}

func decodeEpoch(d storage.Doc) (e Epoch, err error) {
	err = decodeDoc(d, &e)
	return e, err
}

// incarnation names the running database, or is empty if it cannot tell.
func (k *Keeper) incarnation(ctx context.Context) (string, error) {
	store, ok := k.store.(storage.Incarnated)
	if !ok {
		return "", nil
	}
	name, err := store.Incarnation(ctx)
	if err != nil {
		return "", fmt.Errorf("ask which database this is: %w", err)
	}
	return name, nil
}

// accept lets writes reach the running database. Until then this process has written nothing to it, whatever it remembered of the one before: it is called when
// dispatch is off, if it must be, and what was remembered is forgotten.
func (k *Keeper) accept(incarnation string) {
	if store, ok := k.store.(storage.Incarnated); ok {
		store.Accept(incarnation)
	}
}

// adopt takes over what other replicas wrote, and ends the healing when the consumers have passed their targets.
func (k *Keeper) adopt(stored Epoch, views []*streamView) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if first := !k.checked; first || stored.N > k.epoch.N {
		if !first {
			k.healing = "another replica found the store older: healing"
			k.forget()
		}
		k.targets = maps.Clone(stored.Targets) // a process that starts may start in the middle of it
		k.epoch, k.checked = stored, true
	}
	behind := false
	for _, v := range views {
		k.seen[v.name] = max(k.seen[v.name], v.pos.N)
		k.passed[v.name] = max(k.passed[v.name], v.pos.Seq)
		behind = behind || v.floor < min(k.targets[v.name], v.state.LastSeq) // a stream may have lost its end since
	}
	if k.healing != "" && !behind {
		if len(k.targets) > 0 && k.healing != startUp {
			k.log.Info("dispatch on: the store has caught up with the streams", "epoch", k.epoch.N)
		}
		k.healing = ""
		clear(k.targets)
	}
}

func (k *Keeper) write(ctx context.Context, views []*streamView) error {
	for _, v := range views {
		if v.doc.Rev != "" && v.floor <= v.pos.Seq {
			continue
		}
		v.pos.Seq, v.pos.Created = v.floor, v.state.Created
		if v.floor > 0 {
			at, there, err := k.bus.MessageTime(ctx, v.name, v.floor)
			if err != nil {
				return fmt.Errorf("read message time: %w", err)
			}
			if there {
				v.pos.At = at
			}
		}
		if err := k.writeOne(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// writeOne writes a position. A conflict means that another replica wrote one, or that the store regressed: the next tick tells.
func (k *Keeper) writeOne(ctx context.Context, v *streamView) error {
	v.pos.N++
	err := k.store.Commit(ctx, storage.Txn{
		Rev: k.revs.Next(),
		If:  []storage.Cond{{Key: positionKey(v.name), Rev: v.doc.Rev}},
		Put: []storage.Put{{Key: positionKey(v.name), Data: event.MustMarshal(v.pos)}},
	})[0]
	if errors.Is(err, storage.ErrConflict) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write position: %w", err)
	}
	k.mu.Lock()
	k.seen[v.name] = max(k.seen[v.name], v.pos.N)
	k.mu.Unlock()
	return nil
}
