package workflow

import (
	"errors"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// session is a document that only this replica writes, again each second. Every Txn that hands out a task conditions on it: if the store
// came back older than that, nothing is handed out on the word of documents that have lost their last changes.
type session struct {
	key storage.Key
	rev storage.Rev
	at  time.Time

	doubted bool // write it at once, to see whether it is still what was written
}

// txns returns the Txn that writes the session, when tasks are handed out and it is time.
func (s *session) txns(now time.Time, changes []*change, revs *storage.Revisions) []storage.Txn {
	needed := false
	for _, c := range changes {
		needed = needed || len(c.assigned) > 0
	}
	if !needed || (s.rev != "" && !s.doubted && now.Sub(s.at) < time.Second) {
		return nil
	}
	if now.Sub(s.at) > sessionRetention/2 { // it may have been removed; that is no regression
		*s = session{key: sessionKey(string(revs.Next()))}
	}
	t := storage.Txn{Rev: revs.Next(), If: []storage.Cond{{Key: s.key, Rev: s.rev}}}
	t.Put = []storage.Put{{Key: s.key, Data: event.MustMarshal(map[string]time.Time{"at": now.UTC()})}}
	t.IndexAdd = []storage.IndexOp{{Index: sessionIndex, Member: string(s.key), Score: storage.Score(now.UnixMicro())}}
	s.rev, s.at, s.doubted = t.Rev, now, false
	return []storage.Txn{t}
}

// confirm takes the outcome of the session's own Txn, and reports whether it shows that the store regressed. After any failure
// the replica goes on under a new name.
func (s *session) confirm(err error, revs *storage.Revisions) bool {
	if err == nil {
		return false
	}
	*s = session{key: sessionKey(string(revs.Next()))}
	return errors.Is(err, storage.ErrConflict)
}
