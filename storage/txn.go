package storage

import (
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
)

// Revisions makes revisions that are unique for ever: a random nonce per process and a counter.
type Revisions struct {
	nonce string
	n     atomic.Uint64
}

// NewRevisions returns a source of revisions with a fresh 80-bit nonce.
func NewRevisions() *Revisions {
	var b [10]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return &Revisions{nonce: base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:])}
}

// Next returns a revision that was never used before.
func (r *Revisions) Next() Rev {
	return Rev(r.nonce + "." + strconv.FormatUint(r.n.Add(1), 36))
}

// Check returns an error wrapping ErrInvalid that names the first rule the Txn breaks, or nil.
func (t *Txn) Check() error {
	if len(t.Put) == 0 {
		if t.OnlyRemoves() {
			return t.checkIndexes()
		}
		return fmt.Errorf("%w: it puts no document", ErrInvalid)
	}
	if t.Rev == "" {
		return fmt.Errorf("%w: it has no revision", ErrInvalid)
	}
	conds := make(map[Key]bool, len(t.If))
	for _, c := range t.If {
		if conds[c.Key] {
			return fmt.Errorf("%w: two conditions on %q", ErrInvalid, c.Key)
		}
		conds[c.Key] = true
	}
	written := make(map[Key]bool, len(t.Put)+len(t.Delete))
	write := func(k Key) error {
		switch {
		case k == "":
			return fmt.Errorf("%w: an empty key", ErrInvalid)
		case !conds[k]:
			return fmt.Errorf("%w: no condition on %q", ErrInvalid, k)
		case written[k]:
			return fmt.Errorf("%w: writes %q twice", ErrInvalid, k)
		}
		written[k] = true
		return nil
	}
	for _, p := range t.Put {
		if err := write(p.Key); err != nil {
			return err
		}
	}
	for _, k := range t.Delete {
		if err := write(k); err != nil {
			return err
		}
	}
	for _, a := range t.LogAppend {
		if a.Log == "" || a.Cap < 1 {
			return fmt.Errorf("%w: log %q with cap %d", ErrInvalid, a.Log, a.Cap)
		}
	}
	if err := t.checkLogDeletes(); err != nil {
		return err
	}
	return t.checkIndexes()
}

func (t *Txn) checkLogDeletes() error {
	for i, log := range t.LogDelete {
		appended := slices.ContainsFunc(t.LogAppend, func(a Append) bool { return a.Log == log })
		if log == "" || appended || slices.Contains(t.LogDelete[:i], log) {
			return fmt.Errorf("%w: deletes log %q, which is empty or named twice", ErrInvalid, log)
		}
	}
	return nil
}

// OnlyRemoves reports whether the Txn is the exception that removes index members conditional on their score.
func (t *Txn) OnlyRemoves() bool {
	return len(t.IndexRemove) > 0 && len(t.If)+len(t.Put)+len(t.Delete)+len(t.IndexAdd)+len(t.LogAppend)+len(t.LogDelete) == 0
}

func (t *Txn) checkIndexes() error {
	type member struct {
		index Index
		name  string
	}
	seen := make(map[member]bool, len(t.IndexAdd)+len(t.IndexRemove))
	check := func(ops []IndexOp) error {
		for _, op := range ops {
			m := member{op.Index, op.Member}
			switch {
			case op.Index == "" || op.Member == "":
				return fmt.Errorf("%w: empty index or member", ErrInvalid)
			case op.Score < 0 || op.Score > MaxScore:
				return fmt.Errorf("%w: score %d of %q", ErrInvalid, op.Score, op.Member)
			case seen[m]:
				return fmt.Errorf("%w: names %q in index %q twice", ErrInvalid, op.Member, op.Index)
			}
			seen[m] = true
		}
		return nil
	}
	if err := check(t.IndexAdd); err != nil {
		return err
	}
	return check(t.IndexRemove)
}
