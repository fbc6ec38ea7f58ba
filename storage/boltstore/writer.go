package boltstore

import (
	"go.etcd.io/bbolt"
)

// maxGroup is the number of Txns after which the writer takes no further request into a group: a larger one would
// keep its first callers waiting without saving more.
const maxGroup = 2048

// write is the writer goroutine. It ends when the store is closing; the file is closed after that.
func (s *Store) write() {
	defer close(s.stopped)
	for {
		select {
		case <-s.closing:
			return
		case r := <-s.queue:
			s.apply(s.group(r))
		}
	}
}

// group returns the request with others that are queued already.
func (s *Store) group(r *request) []*request {
	group, n := []*request{r}, len(r.txns)
	for n < maxGroup {
		select {
		case r := <-s.queue:
			group, n = append(group, r), n+len(r.txns)
		default:
			return group
		}
	}
	return group
}

// apply executes a group of requests in one bbolt transaction and answers them after it was synced.
func (s *Store) apply(group []*request) {
	answers := make([][]error, len(group))
	err := s.db.Update(func(tx *bbolt.Tx) error {
		b := openBuckets(tx)
		for i, r := range group {
			answers[i] = make([]error, len(r.txns))
			for j, t := range r.txns {
				if answers[i][j] = b.admits(t); answers[i][j] != nil {
					continue
				}
				conflict, err := b.apply(t)
				if err != nil {
					return err // a damaged file or a bug: the whole group is rolled back
				}
				answers[i][j] = conflict
			}
		}
		return nil
	})
	for i, r := range group {
		if err != nil {
			answers[i] = r.all(unknown(err))
		}
		r.done <- answers[i]
	}
}
