package loadgen

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// Kind is what a user of a scenario has sent.
type Kind string

// The kinds of sent messages.
const (
	KindRegister   Kind = "register"   // key: agent; the number travels as metadata.n
	KindDeregister Kind = "deregister" // key: agent
	KindState      Kind = "state"      // key: agent; the number travels as details.n
	KindStart      Kind = "start"      // key: run; the number travels as input.n
	KindCancel     Kind = "cancel"     // key: run
	KindResult     Kind = "result"     // key: see [Journal.SendResult]
)

// kinds gives each Kind the one byte it takes in a journal.
var kinds = []Kind{KindRegister, KindDeregister, KindState, KindStart, KindCancel, KindResult}

// Position is a place in a stream. The zero Position is an unknown one.
type Position struct {
	Stream string
	Seq    uint64
}

// Journal is what a load has sent and what its agents have done: one side of the ledger. It numbers every message, so that the other
// side can be compared with it. All methods are safe for concurrent use.
//
// A message takes 40 bytes besides its key, an attempt 72 bytes besides the id of its run.
type Journal struct {
	last  atomic.Uint64 // number given out last
	sent  [journalShards]sentShard
	names interner

	mu       sync.Mutex
	attempts [][]attempt             // in the order of their beginning, in chunks of journalChunk
	open     map[attemptKey][]uint64 // attempts that have not ended, by their place; several if one was begun twice
}

const (
	journalShards = 16
	journalChunk  = 1024 // messages or attempts
)

// sentShard holds every journalShards-th message.
type sentShard struct {
	mu     sync.Mutex
	chunks [][]sent
	why    map[uint64]string // reasons of the first refusals, by number
}

// maxWhy is how many reasons of refusals a shard keeps.
const maxWhy = 64

// sent is one message.
type sent struct {
	key     string
	seq     uint64
	settled uint64 // number given out last when the answer came: all later ones were sent after it
	stream  uint16
	kind    uint8 // place in kinds; for a message that is not in the journal yet, 0
	state   uint8 // of the bits below
}

const (
	bitAcked   = 1 << iota
	bitRefused // with or without bitAcked
	bitFailed  // a result with StatusFailed
)

// attempt is one task that an agent has begun.
type attempt struct {
	run         string
	task, agent uint32
	number      int32
	slots       uint16
	status      uint8 // place in statuses
	delivered   bool
	begin, end  int64 // ns since 1970; end is 0 while it goes on
	cancelled   int64 // when the agent heard of a cancel, 0 if it did not
}

// attemptKey names an attempt of an agent that has not ended.
type attemptKey struct {
	agent     uint32
	run, task string
	number    int
}

// statuses gives each end of an attempt the one byte it takes.
var statuses = []event.Status{"", event.StatusCompleted, event.StatusFailed}

// NewJournal returns an empty journal.
func NewJournal() *Journal {
	return &Journal{names: interner{numbers: map[string]uint32{"": 0}, names: []string{""}}, open: make(map[attemptKey][]uint64)}
}

// Send notes that a message is about to be sent, and returns the number that must travel in it.
func (j *Journal) Send(kind Kind, key string) (n uint64) {
	return j.send(sent{key: key, kind: uint8(slices.Index(kinds, kind) + 1)})
}

// SendResult is Send for the result of an attempt.
func (j *Journal) SendResult(ref event.AttemptRef, status event.Status) (n uint64) {
	e := sent{key: resultKey(ref), kind: uint8(slices.Index(kinds, KindResult) + 1)}
	if status == event.StatusFailed {
		e.state = bitFailed
	}
	return j.send(e)
}

// resultKey joins what names an attempt into the key of its result.
func resultKey(ref event.AttemptRef) string {
	return ref.RunID + "\x00" + ref.TaskID + "\x00" + strconv.Itoa(ref.Attempt)
}

// parseResultKey undoes resultKey.
func parseResultKey(key string) (ref event.AttemptRef) {
	rest, number, _ := cutLast(key)
	ref.RunID, ref.TaskID, _ = strings.Cut(rest, "\x00")
	ref.Attempt, _ = strconv.Atoi(number)
	return ref
}

func cutLast(key string) (before, after string, found bool) {
	i := strings.LastIndexByte(key, 0)
	return key[:max(i, 0)], key[i+1:], i >= 0
}

func (j *Journal) send(e sent) (n uint64) {
	n = j.last.Add(1)
	s, i := j.shard(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	for int(i/journalChunk) >= len(s.chunks) { // numbers may come to a shard out of order
		s.chunks = append(s.chunks, make([]sent, journalChunk))
	}
	s.chunks[i/journalChunk][i%journalChunk] = e
	return n
}

// shard returns the shard of a number and its place there.
func (j *Journal) shard(n uint64) (*sentShard, uint64) {
	return &j.sent[n%journalShards], n / journalShards
}

// change calls do with the message of a number, unless there is none.
func (j *Journal) change(n uint64, do func(s *sentShard, e *sent)) {
	s, i := j.shard(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	if int(i/journalChunk) < len(s.chunks) && s.chunks[i/journalChunk][i%journalChunk].kind != 0 {
		do(s, &s.chunks[i/journalChunk][i%journalChunk])
	}
}

// Ack notes that a message was acknowledged, and where it stands if that is known.
func (j *Journal) Ack(n uint64, at Position) {
	last, stream := j.last.Load(), j.names.number(at.Stream)
	j.change(n, func(_ *sentShard, e *sent) {
		e.state |= bitAcked
		e.stream, e.seq, e.settled = uint16(stream), at.Seq, last
	})
}

// Refuse notes that a message was answered with a refusal. One that was acknowledged before has had its effect with that; of one that was
// not, nothing is known.
func (j *Journal) Refuse(n uint64, why string) {
	j.change(n, func(s *sentShard, e *sent) {
		e.state |= bitRefused
		if len(s.why) < maxWhy {
			if s.why == nil {
				s.why = make(map[uint64]string)
			}
			s.why[n] = why
		}
	})
}

// Begin notes that an agent with so many slots has begun an attempt. It must be called before the work has any effect.
func (j *Journal) Begin(agent string, slots int, ref event.AttemptRef, at time.Time) {
	a := attempt{
		run: ref.RunID, task: j.names.number(ref.TaskID), agent: j.names.number(agent), number: int32(ref.Attempt),
		slots: uint16(min(slots, 1<<16-1)), begin: at.UnixNano(),
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(j.attempts); n == 0 || len(j.attempts[n-1]) == journalChunk {
		j.attempts = append(j.attempts, make([]attempt, 0, journalChunk))
	}
	chunk := &j.attempts[len(j.attempts)-1]
	*chunk = append(*chunk, a)
	key := attemptKey{agent: a.agent, run: ref.RunID, task: ref.TaskID, number: ref.Attempt}
	j.open[key] = append(j.open[key], uint64(len(j.attempts)-1)*journalChunk+uint64(len(*chunk)-1))
}

// End notes that the work on an attempt is over, whatever became of it. An empty status is work that was given up without a result.
func (j *Journal) End(agent string, ref event.AttemptRef, status event.Status, at time.Time) {
	key := attemptKey{agent: j.names.number(agent), run: ref.RunID, task: ref.TaskID, number: ref.Attempt}
	j.mu.Lock()
	defer j.mu.Unlock()
	places := j.open[key]
	if len(places) == 0 {
		return
	}
	a := j.attempt(places[0])
	a.end, a.status = max(at.UnixNano(), a.begin), uint8(max(slices.Index(statuses, status), 0))
	if places = places[1:]; len(places) == 0 {
		delete(j.open, key)
	} else {
		j.open[key] = places
	}
}

func (j *Journal) attempt(place uint64) *attempt {
	return &j.attempts[place/journalChunk][place%journalChunk]
}

// Cancelled notes that an agent has heard that an attempt it works on is cancelled. One that works on for the second grace is listed as
// unconfirmed.
func (j *Journal) Cancelled(agent string, ref event.AttemptRef, at time.Time) {
	key := attemptKey{agent: j.names.number(agent), run: ref.RunID, task: ref.TaskID, number: ref.Attempt}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, place := range j.open[key] {
		if a := j.attempt(place); a.cancelled == 0 {
			a.cancelled = at.UnixNano()
		}
	}
}

// Delivered notes that the results of all attempts that an agent has ended are acknowledged, as they are when the Run of an agent of
// package agent returns nil.
func (j *Journal) Delivered(agent string) {
	number := j.names.number(agent)
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, chunk := range j.attempts {
		for i := range chunk {
			if a := &chunk[i]; a.agent == number && a.end != 0 {
				a.delivered = true
			}
		}
	}
}

// each calls do with every message in the order of its number.
func (j *Journal) each(do func(n uint64, e sent)) {
	for n := uint64(1); n <= j.last.Load(); n++ {
		var copied sent
		j.change(n, func(_ *sentShard, e *sent) { copied = *e })
		if copied.kind != 0 { // otherwise it is just being noted
			do(n, copied)
		}
	}
}

// why returns the reason of a refusal, empty if it was not kept.
func (j *Journal) why(n uint64) string {
	s, _ := j.shard(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why[n]
}

// begun returns copies of all attempts in the order of their beginning.
func (j *Journal) begun() []attempt {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Concat(j.attempts...)
}

// interner numbers names that come again and again.
type interner struct {
	mu      sync.RWMutex
	numbers map[string]uint32
	names   []string
}

func (i *interner) number(name string) uint32 {
	i.mu.RLock()
	n, ok := i.numbers[name]
	i.mu.RUnlock()
	if ok {
		return n
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if n, ok = i.numbers[name]; !ok {
		n = uint32(len(i.names))
		i.numbers[name] = n
		i.names = append(i.names, name)
	}
	return n
}

func (i *interner) name(number uint32) string {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.names[number]
}

// Keys lists the agents and the runs that the journal names, each once and in order: what a reader has to look for.
func (j *Journal) Keys() (agents, runs []string) {
	seenAgents, seenRuns := make(map[string]bool), make(map[string]bool)
	j.each(func(_ uint64, e sent) {
		switch kinds[e.kind-1] {
		case KindRegister, KindDeregister, KindState:
			seenAgents[e.key] = true
		case KindResult:
			seenRuns[parseResultKey(e.key).RunID] = true
		default:
			seenRuns[e.key] = true
		}
	})
	for _, t := range j.begun() {
		seenRuns[t.run] = true
	}
	return sortedKeys(seenAgents), sortedKeys(seenRuns)
}
