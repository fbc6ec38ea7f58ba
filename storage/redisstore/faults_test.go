package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/redisstore"
	"github.com/opspawn/opscore/storage/storagetest"
	"github.com/opspawn/opscore/storage/storagetest/netproxy"
)

// reported is the time within which an outage must be reported: the store's own bound and some for a busy machine.
const reported = redisstore.DefaultTimeout + time.Second

// behindProxy is a store that reaches its server through a proxy.
type behindProxy struct {
	*redisstore.Store
	server *storagetest.RedisServer
	proxy  *netproxy.Proxy
	admin  *redis.Client // past the proxy
	revs   *storage.Revisions
}

func newBehindProxy(t *testing.T) *behindProxy {
	t.Helper()
	server := storagetest.StartRedis(t)
	proxy := storagetest.NewProxy(t, server.Addr())
	s := &behindProxy{
		server: server, proxy: proxy, revs: storage.NewRevisions(),
		Store: openAt(t, "redis://"+proxy.Addr()),
		admin: redis.NewClient(&redis.Options{Addr: server.Addr()}),
	}
	t.Cleanup(func() { _, _ = s.Close(), s.admin.Close() })
	s.connect(t)
	return s
}

// connect commits something, so that a connection for pipelines stands: the next reply is one to a pipeline, not to
// a handshake.
func (s *behindProxy) connect(t *testing.T) {
	t.Helper()
	wantSuccess(t, s.Commit(t.Context(), storage.Txn{IndexRemove: []storage.IndexOp{{Index: "none", Member: "m"}}}))
}

// chain returns Txns that each build upon the one before, and leave a log entry and an index entry.
func (s *behindProxy) chain(name string, n int) []storage.Txn {
	txns := make([]storage.Txn, n)
	from := storage.Rev("")
	for i := range txns {
		key := storage.Key(name)
		txns[i] = storage.Txn{
			Rev:       s.revs.Next(),
			If:        []storage.Cond{{Key: key, Rev: from}},
			Put:       []storage.Put{{Key: key, Data: fmt.Append(nil, i)}},
			IndexAdd:  []storage.IndexOp{{Index: "i", Member: name, Score: storage.Score(i)}},
			LogAppend: []storage.Append{{Log: storage.Log(name), Data: fmt.Append(nil, i), Cap: 100}},
		}
		from = txns[i].Rev
	}
	return txns
}

// wantOnce checks that a chain was applied exactly once.
func (s *behindProxy) wantOnce(t *testing.T, name string, chain []storage.Txn) {
	t.Helper()
	last := len(chain) - 1
	docs, err := s.Get(t.Context(), storage.Key(name))
	if err != nil || docs[0].Rev != chain[last].Rev || string(docs[0].Data) != fmt.Sprint(last) {
		t.Fatalf("document: %+v, %v", docs, err)
	}
	tail, err := s.Tail(t.Context(), storage.Log(name), 1000)
	if err != nil || len(tail) != len(chain) {
		t.Fatalf("log: %d entries, want %d, error %v", len(tail), len(chain), err)
	}
	for i, entry := range tail {
		if string(entry) != fmt.Sprint(i) {
			t.Fatalf("log entry %d is %q", i, entry)
		}
	}
}

// wantUnknown checks that no outcome is known, for want of an answer rather than for a conflict.
func wantUnknown(t *testing.T, errs []error) {
	t.Helper()
	for i, err := range errs {
		if !errors.Is(err, storage.ErrUnknown) || errors.Is(err, storage.ErrConflict) {
			t.Fatalf("transaction %d: got %v, want %v", i, err, storage.ErrUnknown)
		}
	}
}

func wantSuccess(t *testing.T, errs []error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestLostReplyOfACommit(t *testing.T) {
	s := newBehindProxy(t)
	for n := range 4 { // the first pipeline, and those of new connections with their handshake
		name := fmt.Sprint("one", n)
		one := s.chain(name, 1)
		s.proxy.LoseReplyAfter(n)
		wantSuccess(t, s.Commit(t.Context(), one...))
		s.wantOnce(t, name, one)
		wantSuccess(t, s.Commit(t.Context(), one...))
		s.wantOnce(t, name, one)
	}
	if s.proxy.Lost() == 0 {
		t.Fatal("no reply was lost")
	}
}

func TestLostReplyOfAChain(t *testing.T) {
	s := newBehindProxy(t)
	chain := s.chain("a", 50)
	s.proxy.LoseReplyAfter(0)
	errs := s.Commit(t.Context(), chain...)
	// All were applied, then the pipeline was sent again: only the last revision is still there to be found.
	for i, err := range errs[:len(errs)-1] {
		if !errors.Is(err, storage.ErrConflict) {
			t.Fatalf("transaction %d: got %v, want %v", i, err, storage.ErrConflict)
		}
	}
	wantSuccess(t, errs[len(errs)-1:])
	s.wantOnce(t, "a", chain)
}

func TestEveryReplyLost(t *testing.T) {
	s := newBehindProxy(t)
	chain := s.chain("a", 1)
	s.proxy.LoseReplies(-1)
	start := time.Now()
	wantUnknown(t, s.Commit(t.Context(), chain...))
	if took := time.Since(start); took > reported {
		t.Fatalf("reported after %v", took)
	}
	s.proxy.LoseReplies(0)
	wantSuccess(t, s.Commit(t.Context(), chain...))
	s.wantOnce(t, "a", chain)
}

// TestLostReplyWhileLoading loses, one after the other, each reply of a Commit that finds the library gone.
func TestLostReplyWhileLoading(t *testing.T) {
	s := newBehindProxy(t)
	for n := range 8 {
		if err := s.admin.FunctionFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		s.proxy.Cut() // so that handshakes are among the replies
		s.proxy.LoseReplyAfter(n)
		name := fmt.Sprint("a", n)
		one := s.chain(name, 1)
		wantSuccess(t, s.Commit(t.Context(), one...))
		s.wantOnce(t, name, one)
	}
	if s.proxy.Lost() == 0 {
		t.Fatal("no reply was lost")
	}
}

func TestLostReplyOfOpening(t *testing.T) {
	server := storagetest.StartRedis(t)
	proxy := storagetest.NewProxy(t, server.Addr())
	for n := range 5 {
		proxy.LoseReplyAfter(n)
		if err := openAt(t, "redis://"+proxy.Addr()).Close(); err != nil {
			t.Fatal(err)
		}
	}
	if proxy.Lost() == 0 {
		t.Fatal("no reply was lost")
	}
}

func TestLostReplyOfReads(t *testing.T) {
	s := newBehindProxy(t)
	wantSuccess(t, s.Commit(t.Context(), s.chain("a", 3)...))
	for name, read := range map[string]func() error{
		"Get": func() error {
			docs, err := s.Get(t.Context(), "a", "b")
			return want(err, len(docs) == 2 && string(docs[0].Data) == "2" && docs[1].Rev == "")
		},
		"Range": func() error {
			page, err := s.Range(t.Context(), "i", storage.Cursor{}, 9, 9)
			return want(err, len(page) == 1 && page[0] == storage.Entry{Member: "a", Score: 2})
		},
		"Count": func() error {
			n, err := s.Count(t.Context(), "i", 0, 9)
			return want(err, n == 1)
		},
		"Tail": func() error {
			tail, err := s.Tail(t.Context(), "a", 2)
			return want(err, len(tail) == 2 && string(tail[1]) == "2")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s.proxy.LoseReplyAfter(0)
			if err := read(); err != nil {
				t.Fatalf("with one reply lost: %v", err)
			}
			s.proxy.LoseReplies(-1)
			defer s.proxy.LoseReplies(0)
			if err := read(); err == nil || errors.Is(err, errWrong) {
				t.Fatalf("with all replies lost: %v", err)
			}
		})
	}
}

var errWrong = errors.New("wrong answer")

func want(err error, right bool) error {
	if err == nil && !right {
		return errWrong
	}
	return err
}

func TestLibraryIsLoadedAgain(t *testing.T) {
	s := newBehindProxy(t)
	flush := func() {
		if err := s.admin.FunctionFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	flush()
	chain := s.chain("a", 1200) // several pipelines
	wantSuccess(t, s.Commit(t.Context(), chain...))
	docs, err := s.Get(t.Context(), "a")
	if err != nil || docs[0].Rev != chain[len(chain)-1].Rev {
		t.Fatalf("%+v, %v", docs, err)
	}
	flush()
	if page, err := s.Range(t.Context(), "i", storage.Cursor{}, storage.MaxScore, 9); err != nil || len(page) != 1 {
		t.Fatalf("%v, %v", page, err)
	}
}

func TestOutageIsReportedInTime(t *testing.T) {
	for name, breakIt := range map[string]func(*behindProxy){
		"killed":  func(s *behindProxy) { s.server.Kill() },
		"refused": func(s *behindProxy) { s.proxy.Refuse(true); s.proxy.Cut() },
		"hanging": func(s *behindProxy) { s.proxy.Delay(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newBehindProxy(t)
			breakIt(s)
			start := time.Now()
			wantUnknown(t, s.Commit(t.Context(), s.chain("a", 2000)...))
			if took := time.Since(start); took > reported {
				t.Errorf("Commit reported after %v", took)
			}
			start = time.Now()
			if _, err := s.Get(t.Context(), "a"); err == nil {
				t.Error("Get works")
			}
			if took := time.Since(start); took > reported {
				t.Errorf("Get reported after %v", took)
			}
		})
	}
}

func TestDeadlineOfTheCallerHolds(t *testing.T) {
	s := newBehindProxy(t)
	s.proxy.Delay(time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	errs := s.Commit(ctx, s.chain("a", 1)...)
	wantUnknown(t, errs)
	if took := time.Since(start); took > redisstore.DefaultTimeout/2 {
		t.Fatalf("took %v", took)
	}
}

func TestAnsweredSurvivesKill(t *testing.T) {
	s := newBehindProxy(t)
	before := s.chain("before", 300)
	wantSuccess(t, s.Commit(t.Context(), before...))
	s.server.Kill()
	during := s.chain("during", 1)
	wantUnknown(t, s.Commit(t.Context(), during...))
	s.server.Restart()
	wantSuccess(t, s.Commit(t.Context(), during...))
	s.wantOnce(t, "during", during)
	docs, err := s.Get(t.Context(), "before")
	if err != nil || docs[0].Rev != before[299].Rev {
		t.Fatalf("%+v, %v", docs, err)
	}
}

// TestRefusalOfTheServerIsUnknown takes away what the server needs for writing.
func TestRefusalOfTheServerIsUnknown(t *testing.T) {
	s := newBehindProxy(t)
	for name, change := range map[string][2][]any{
		"OOM":      {{"config", "set", "maxmemory", "1"}, {"config", "set", "maxmemory", "0"}},
		"READONLY": {{"replicaof", "127.0.0.1", "1"}, {"replicaof", "no", "one"}},
	} {
		t.Run(name, func(t *testing.T) {
			one := s.chain(name, 3)
			if err := s.admin.Do(t.Context(), change[0]...).Err(); err != nil {
				t.Fatal(err)
			}
			wantUnknown(t, s.Commit(t.Context(), one...))
			if docs, err := s.Get(t.Context(), storage.Key(name)); err != nil || docs[0].Rev != "" {
				t.Fatalf("something was written: %+v, %v", docs, err)
			}
			if err := s.admin.Do(t.Context(), change[1]...).Err(); err != nil {
				t.Fatal(err)
			}
			wantSuccess(t, s.Commit(t.Context(), one...))
			s.wantOnce(t, name, one)
		})
	}
}
