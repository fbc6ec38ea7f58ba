// Package storage is the seam between the rules of Ops-Core and the database that keeps its documents.
//
// A [Store] keeps opaque documents, ordered indexes and capped logs. It knows nothing of agents or runs:
// every rule lives once, in Go, above it. What it does promise is the hard part of an event-driven writer:
//
//   - A [Txn] is atomic and durable, or leaves no trace.
//   - Its revision is made by the caller ([Revisions]) and written into every document it puts. A store that
//     finds that revision in a document the Txn would put answers success without writing: a reply that was
//     lost, a pipeline that a client library sent twice, or a fail-over to an older replica can then neither
//     repeat a write nor overwrite a newer one.
//   - A conflict stays local: the other Txns of the same [Store.Commit] are not affected.
//
// A conflict never proves that nothing was written: all documents of the Txn may have been overwritten since it
// was applied. After [ErrConflict] or [ErrUnknown] the caller reads again and decides anew.
//
// Documents that may be created a second time by a late repeat of their creation are replaced by a tombstone
// first and deleted no sooner than two minutes later.
//
// The contract is a test suite, [github.com/opspawn/opscore/storage/storagetest]; every driver passes it.
package storage

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"strings"
)

type (
	// Key names one document.
	Key string
	// Rev is the revision of a document: the Rev of the Txn that wrote it. Empty means the document is absent.
	// Revisions are compared for equality only.
	Rev string
	// Index names an ordered set of (score, member) pairs with unique members.
	Index string
	// Log names a capped list.
	Log string
	// Score orders an index. It is not negative and below 2^53; times are stored as Unix microseconds.
	Score int64
)

// MaxScore is the largest score an index can hold exactly.
const MaxScore Score = 1<<53 - 1

// Doc is a document as read. An absent document has an empty Rev and no Data.
type Doc struct {
	Key  Key
	Rev  Rev
	Data []byte
}

// Entry is one member of an index.
type Entry struct {
	Member string
	Score  Score
}

// Cursor is a position in an index, in (score, member) order. The zero Cursor stands before the first entry.
type Cursor struct {
	Score  Score
	Member string
}

// Cond demands that a document has exactly this revision; an empty Rev demands that it is absent.
type Cond struct {
	Key Key
	Rev Rev
}

// Put replaces or creates a document.
type Put struct {
	Key  Key
	Data []byte
}

// IndexOp adds a member to an index (moving it when it is there already) or removes it.
type IndexOp struct {
	Index  Index
	Member string
	Score  Score
}

// Append adds one entry at the end of a log, which then keeps its newest Cap entries.
type Append struct {
	Log  Log
	Data []byte
	Cap  int
}

// Txn is one atomic change.
//
// It puts at least one document, and every document it puts or deletes has a condition in If. The one exception is a
// Txn that holds nothing but IndexRemove: each member is then removed only if it still has the given score, and a
// member that is absent or was moved is left alone without error. In any other Txn the Score of an IndexRemove is ignored.
// A Txn names each document once, each (index, member) once, and no log both to append to and to delete. [Txn.Check] holds these rules; drivers refuse others.
type Txn struct {
	Rev         Rev
	If          []Cond
	Put         []Put
	Delete      []Key
	IndexAdd    []IndexOp
	IndexRemove []IndexOp
	LogAppend   []Append
	LogDelete   []Log // removed with all their entries
}

// Store is the database seam. Its methods are safe for concurrent use.
//
// An error other than [ErrConflict] and [ErrInvalid] means the database did not answer as it should; for a Txn it
// wraps [ErrUnknown] unless it is certain that nothing was written.
type Store interface {
	// Get reads documents, in the order of keys. Absent documents have an empty Rev.
	Get(ctx context.Context, keys ...Key) ([]Doc, error)

	// Range reads at most limit entries with a score ≤ to that stand behind after, in (score, member) order.
	Range(ctx context.Context, index Index, after Cursor, to Score, limit int) ([]Entry, error)

	// Count counts the entries with from ≤ score ≤ to.
	Count(ctx context.Context, index Index, from, to Score) (int, error)

	// Tail reads the newest n entries of a log, oldest first.
	Tail(ctx context.Context, log Log, n int) ([][]byte, error)

	// Commit applies Txns in order, in one round trip, each atomic and durable on its own, and answers one error per
	// Txn: nil, ErrConflict, ErrInvalid, or one wrapping ErrUnknown when the Txn may or may not have happened.
	Commit(ctx context.Context, txns ...Txn) []error

	// Close releases the connection or file. Calls after Close fail.
	Close() error
}

// Incarnated is a [Store] whose server may be replaced by one that lacks the last writes: after a restart, or when a replica takes over.
type Incarnated interface {
	Store

	// Incarnation names the server that answers now. It fails when none does.
	Incarnation(ctx context.Context) (string, error)

	// Accept binds Commit to one incarnation: a Txn that reaches another one is not executed and its error wraps ErrUnknown. Until it is called, and
	// for the empty name, Commit goes to any. It may be called at the same time as Commit.
	Accept(incarnation string)
}

// Item is a part of a copy of a store: a document, some entries of an index, or a whole log.
type Item struct {
	Doc     Doc // if its Key is not empty
	Index   Index
	Entries []Entry // of Index
	Log     Log
	Lines   [][]byte // of Log, oldest first
}

// Copied is a [Store] that can be copied as a whole and replaced by such a copy.
type Copied interface {
	Incarnated

	// Snapshot calls visit with everything that is stored, as it is at one moment. An item may come twice. While it runs, Commit may fail with ErrHeld;
	// that ends by itself when the process dies. It ends with the error of visit, if that has one.
	Snapshot(ctx context.Context, visit func(Item) error) error

	// Replace puts the items in place of everything that is stored, with the revisions they have. From its beginning Commit fails with ErrHeld; after
	// its end the store has another incarnation, and a Commit for an earlier one is refused. When it fails half-way Commit goes on to fail, and
	// Incarnation with it, until a Replace succeeds.
	Replace(ctx context.Context, items iter.Seq2[Item, error]) error
}

var (
	// ErrHeld says that the store takes no writes, because it is being copied or replaced. For a Txn it comes with ErrUnknown.
	ErrHeld = errors.New("storage: held")
	// ErrConflict says that a condition of a Txn did not hold. Read again; it may even be the Txn's own earlier success.
	ErrConflict = errors.New("storage: conflict")
	// ErrUnknown says that a Txn may or may not have been applied.
	ErrUnknown = errors.New("storage: outcome unknown")
	// ErrInvalid says that a Txn breaks the rules of [Txn]; it is a programming error and nothing was written.
	ErrInvalid = errors.New("storage: invalid transaction")
)

// Driver opens stores for one URL scheme.
type Driver struct {
	Scheme string
	Open   func(ctx context.Context, u *url.URL) (Store, error)
}

// Open opens the store a URL names with the driver of its scheme: "redis://host:6379/0?prefix=opscore" or
// "file:data/opscore.db". The error of an unknown scheme lists the known ones.
func Open(ctx context.Context, rawURL string, drivers ...Driver) (Store, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("storage URL: %w", err)
	}
	known := make([]string, 0, len(drivers))
	for _, d := range drivers {
		if d.Scheme == u.Scheme {
			return d.Open(ctx, u)
		}
		known = append(known, d.Scheme+":")
	}
	return nil, fmt.Errorf("storage URL %q: unknown scheme, use one of %s", u.Redacted(), strings.Join(known, " "))
}
