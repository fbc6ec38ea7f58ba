package loadgen

import (
	"cmp"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"
)

// sample is one finished request.
type sample struct {
	operation string
	intended  time.Time // when it should have been sent
	sent      time.Time
	done      time.Time
	interval  time.Duration // mean pause of its user between two tasks; 0 where none is left out
	bytes     int
	request   string // id
	failed    *failure
}

// statistics collects samples. Users record into shards, so that they do not wait for each other; once a second the shards are
// gathered. A shard keeps about 200 KB for each operation.
type statistics struct {
	shards []*shard

	mu     sync.Mutex // guards the rest; taken before a shard's
	total  map[string]*measured
	spans  map[string]histogram
	errors map[errorKey]*ErrorClass
}

type shard struct {
	mu         sync.Mutex
	operations map[string]*measured
	errors     map[errorKey]*ErrorClass
	spans      map[string]histogram
}

// measured is what is known of one operation.
type measured struct {
	requests, failures, bytes int64
	corrected, uncorrected    histogram
}

type errorKey struct{ operation, class string }

// maxRequestIDs is how many ids of failed requests a class keeps, and maxErrorClasses how many classes there are.
const (
	maxRequestIDs   = 20
	maxErrorClasses = 1000
)

func newMeasured() *measured {
	return &measured{corrected: newHistogram(), uncorrected: newHistogram()}
}

func newStatistics() *statistics {
	s := &statistics{total: make(map[string]*measured), spans: make(map[string]histogram), errors: make(map[errorKey]*ErrorClass)}
	for range max(2, runtime.GOMAXPROCS(0)) {
		s.shards = append(s.shards, &shard{
			operations: make(map[string]*measured), errors: make(map[errorKey]*ErrorClass), spans: make(map[string]histogram),
		})
	}
	return s
}

// shard returns the one a user records into.
func (s *statistics) shard(user int) *shard { return s.shards[user%len(s.shards)] }

// entry returns the value of a key, made if it is not there.
func entry[K comparable, V any](m map[K]V, key K, make func() V) V {
	v, ok := m[key]
	if !ok {
		v = make()
		m[key] = v
	}
	return v
}

// record adds a request.
func (s *shard) record(r *sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := entry(s.operations, r.operation, newMeasured)
	m.requests++
	m.bytes += int64(r.bytes)
	late := r.done.Sub(r.intended)
	m.corrected.record(late)
	m.corrected.recordOmitted(late, r.interval)
	m.uncorrected.record(r.done.Sub(r.sent))
	if r.failed != nil {
		m.failures++
		s.fail(r)
	}
}

func (s *shard) fail(r *sample) {
	key := errorKey{r.operation, r.failed.class}
	e := s.errors[key]
	if e == nil {
		if len(s.errors) >= maxErrorClasses {
			return
		}
		e = &ErrorClass{Operation: key.operation, Class: key.class, FirstAt: r.done, Detail: r.failed.detail}
		s.errors[key] = e
	}
	e.Count++
	if len(e.RequestIDs) < maxRequestIDs && r.request != "" {
		e.RequestIDs = append(e.RequestIDs, r.request)
	}
}

// span adds a time that is not one of a request, as that from a run's start to its agent.
func (s *shard) span(name string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entry(s.spans, name, newHistogram).record(d)
}

// gathered is what came in since the last time.
type gathered struct {
	requests, failures int64
	all                histogram            // of all operations, from the intended time
	operations         map[string]histogram // from the intended time
}

// gather moves everything from the shards to the totals.
func (s *statistics) gather() gathered {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := gathered{all: newHistogram(), operations: make(map[string]histogram)}
	for _, shard := range s.shards {
		shard.mu.Lock()
		for name, m := range shard.operations {
			if m.requests == 0 {
				continue
			}
			g.requests += m.requests
			g.failures += m.failures
			g.all.merge(m.corrected)
			entry(g.operations, name, newHistogram).merge(m.corrected)
			entry(s.total, name, newMeasured).add(m)
			m.clear()
		}
		for key, e := range shard.errors {
			mergeError(s.errors, key, e)
		}
		clear(shard.errors)
		for name, h := range shard.spans {
			entry(s.spans, name, newHistogram).merge(h)
			h.reset()
		}
		shard.mu.Unlock()
	}
	return g
}

// point says in a point what was gathered over a time.
func (g gathered) point(p *Point, over time.Duration) {
	p.RPS, p.Failures = float64(g.requests)/over.Seconds(), float64(g.failures)/over.Seconds()
	p.P50Ms, p.P95Ms, p.P99Ms = g.all.percentile(50), g.all.percentile(95), g.all.percentile(99)
}

func (m *measured) add(from *measured) {
	m.requests += from.requests
	m.failures += from.failures
	m.bytes += from.bytes
	m.corrected.merge(from.corrected)
	m.uncorrected.merge(from.uncorrected)
}

func (m *measured) clear() {
	m.requests, m.failures, m.bytes = 0, 0, 0
	m.corrected.reset()
	m.uncorrected.reset()
}

func mergeError(all map[errorKey]*ErrorClass, key errorKey, e *ErrorClass) {
	known := all[key]
	if known == nil {
		c := *e
		all[key] = &c
		return
	}
	known.Count += e.Count
	if e.FirstAt.Before(known.FirstAt) {
		known.FirstAt, known.Detail = e.FirstAt, e.Detail
	}
	more := e.RequestIDs[:min(len(e.RequestIDs), maxRequestIDs-len(known.RequestIDs))]
	known.RequestIDs = append(known.RequestIDs, more...)
}

// totals returns the sum of all operations gathered so far.
func (s *statistics) totals() *measured {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := newMeasured()
	for _, m := range s.total {
		sum.add(m)
	}
	return sum
}

// named returns the sum of one operation gathered so far, nil if there was none.
func (s *statistics) named(operation string) *measured {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total[operation]
}

// operation sums up an operation over a time.
func (m *measured) operation(over time.Duration) Operation {
	o := Operation{
		Requests: m.requests, Failures: m.failures,
		Latency: m.corrected.quantiles(), Uncorrected: m.uncorrected.quantiles(),
	}
	if over > 0 {
		o.RPS = float64(m.requests) / over.Seconds()
	}
	if m.requests > 0 {
		o.MeanBytes = float64(m.bytes) / float64(m.requests)
	}
	return o
}

// sum says in a result what was gathered so far, over a time.
func (s *statistics) sum(r *Result, over time.Duration) {
	r.Total = s.totals().operation(over)
	r.Requests, r.Failures, r.RPS = r.Total.Requests, r.Total.Failures, r.Total.RPS
	r.P50Ms, r.P99Ms = r.Total.Latency.P50, r.Total.Latency.P99
	r.Operations, r.Errors = s.operations(over), s.errorClasses()
}

// operations sums up all operations gathered so far over a time.
func (s *statistics) operations(over time.Duration) map[string]Operation {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]Operation, len(s.total))
	for name, m := range s.total {
		all[name] = m.operation(over)
	}
	return all
}

// spanQuantiles sums up the spans gathered so far.
func (s *statistics) spanQuantiles() map[string]Quantiles {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]Quantiles, len(s.spans))
	for name, h := range s.spans {
		if h.count() > 0 {
			all[name] = h.quantiles()
		}
	}
	return all
}

// errorClasses returns the failures gathered so far, most frequent first.
func (s *statistics) errorClasses() []ErrorClass {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]ErrorClass, 0, len(s.errors))
	for _, e := range slices.Collect(maps.Values(s.errors)) {
		c := *e
		c.RequestIDs = slices.Clone(e.RequestIDs)
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b ErrorClass) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Class, b.Class))
	})
	return list
}
