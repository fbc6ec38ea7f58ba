package redisstore

import (
	"github.com/opspawn/opscore/storage"
)

// headers is the number of arguments of the commit function before those of its keys.
const headers = 9

// encode returns the call of the commit function for a Txn that passed its check; opscore.lua describes it.
//
// This is the hot path. Strings and scores are passed as pointers into the Txn, since putting their values into an
// interface would allocate.
func (s *Store) encode(t *storage.Txn) []any {
	written := len(t.Put) + len(t.Delete)
	compared := 0
	if written > 0 {
		compared = len(t.If) - written // each document written has exactly one condition
	}
	docs, rest := written+compared, 1+len(t.IndexAdd)+len(t.IndexRemove)+len(t.LogAppend)+len(t.LogDelete)
	names := make([]string, 0, docs+rest)
	args := make([]any, 0, 3+docs+rest+headers+docs+len(t.Put)+2*rest)

	args = append(args, "fcall", functionCommit, docs+rest)
	args = s.appendKeys(args, names, t, compared)
	args = append(args, (*string)(&t.Rev), s.accepted.Load(), len(t.Put), len(t.Delete), compared,
		len(t.IndexAdd), len(t.IndexRemove), len(t.LogAppend), len(t.LogDelete))
	for i := range t.Put {
		args = append(args, expected(t, t.Put[i].Key, i), t.Put[i].Data)
	}
	for i, key := range t.Delete {
		args = append(args, expected(t, key, len(t.Put)+i))
	}
	if compared > 0 {
		for i := range t.If {
			if !writes(t, t.If[i].Key) {
				args = append(args, (*string)(&t.If[i].Rev))
			}
		}
	}
	for i := range t.IndexAdd {
		args = append(args, (*int64)(&t.IndexAdd[i].Score), &t.IndexAdd[i].Member)
	}
	for i := range t.IndexRemove {
		args = append(args, (*int64)(&t.IndexRemove[i].Score), &t.IndexRemove[i].Member)
	}
	for i := range t.LogAppend {
		args = append(args, t.LogAppend[i].Cap, t.LogAppend[i].Data)
	}
	return args
}

// appendKeys appends the Redis keys of a Txn, kept in names, which has room for all of them.
func (s *Store) appendKeys(args []any, names []string, t *storage.Txn, compared int) []any {
	add := func(name string) {
		names = append(names, name)
		args = append(args, &names[len(names)-1])
	}
	for i := range t.Put {
		add(s.keys.doc(t.Put[i].Key))
	}
	for _, key := range t.Delete {
		add(s.keys.doc(key))
	}
	if compared > 0 {
		for i := range t.If {
			if !writes(t, t.If[i].Key) {
				add(s.keys.doc(t.If[i].Key))
			}
		}
	}
	for i := range t.IndexAdd {
		add(s.keys.index(t.IndexAdd[i].Index))
	}
	for i := range t.IndexRemove {
		add(s.keys.index(t.IndexRemove[i].Index))
	}
	for i := range t.LogAppend {
		add(s.keys.log(t.LogAppend[i].Log))
	}
	for _, log := range t.LogDelete {
		add(s.keys.log(log))
	}
	return append(args, &s.keys.fence)
}

// expected returns the revision the Txn demands of a document it writes. Most callers list conditions in the order of
// what they write, so position hint is tried first.
func expected(t *storage.Txn, key storage.Key, hint int) *string {
	if hint < len(t.If) && t.If[hint].Key == key {
		return (*string)(&t.If[hint].Rev)
	}
	for i := range t.If {
		if t.If[i].Key == key {
			return (*string)(&t.If[i].Rev)
		}
	}
	return nil // never: the Txn was checked
}

// writes reports whether the Txn puts or deletes a document.
func writes(t *storage.Txn, key storage.Key) bool {
	for i := range t.Put {
		if t.Put[i].Key == key {
			return true
		}
	}
	for _, deleted := range t.Delete {
		if deleted == key {
			return true
		}
	}
	return false
}

// size returns about how many bytes of the caller's a Txn sends.
func size(t *storage.Txn) int {
	n := 0
	for i := range t.Put {
		n += len(t.Put[i].Data)
	}
	for i := range t.LogAppend {
		n += len(t.LogAppend[i].Data)
	}
	return n
}
