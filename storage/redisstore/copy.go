package redisstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/opspawn/opscore/storage"
)

// What the fence says while nothing may be written. It goes on to say so after a Replace that failed.
const (
	held        = "!"
	beingCopied = held + "a backup is being made"
	notReplaced = held + "a backup is being restored, or its restore failed and must be repeated"
)

const (
	copyBatch = 1000 // keys looked at, or written, in one round trip
	// copyHold is how long the store stays held after the process that copies it has died.
	copyHold = 10 * time.Second
	// maxItemEntries bounds the entries of an index in one item.
	maxItemEntries = 10_000
)

var _ storage.Copied = (*Store)(nil)

// Snapshot calls visit with everything that is stored under the prefix. Meanwhile no Txn is executed, by whomever: a copy that mixes moments could hold
// an agent's slot for a task that has ended. It takes about a second for 100,000 documents, and visit should be as fast.
func (s *Store) Snapshot(ctx context.Context, visit func(storage.Item) error) (err error) {
	before, err := s.fence(ctx)
	if err != nil {
		return err
	}
	if reason, ok := heldBy(before); ok {
		return fmt.Errorf("copy redis: %w: %s", storage.ErrHeld, reason)
	}
	if err := s.hold(ctx, before); err != nil {
		return err
	}
	defer func() {
		// Also when ctx has ended. Should it fail the fence vanishes by itself.
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
		defer cancel()
		if err2 := s.release(release, before); err == nil {
			err = err2
		}
	}()
	renewed := time.Now()
	for cursor := uint64(0); ; {
		var keys []string
		if keys, cursor, err = s.client.Scan(ctx, cursor, s.keys.all(), copyBatch).Result(); err != nil {
			return fmt.Errorf("copy redis: list its keys: %w", err)
		}
		if err := s.copyKeys(ctx, keys, visit); err != nil {
			return err
		}
		if cursor == 0 {
			return nil
		}
		if time.Since(renewed) > copyHold/4 {
			if err := s.hold(ctx, beingCopied); err != nil {
				return err
			}
			renewed = time.Now()
		}
	}
}

// hold stops all writes for a while, or for a while longer. The fence must say what it said before: a restore may have begun, or another copy.
func (s *Store) hold(ctx context.Context, before string) error {
	if err := s.swapFence(ctx, before, beingCopied, copyHold); err != nil {
		return fmt.Errorf("copy redis: hold its writes: %w", err)
	}
	return nil
}

// release lets writes go on, if they are still held.
func (s *Store) release(ctx context.Context, before string) error {
	if err := s.swapFence(ctx, beingCopied, before, 0); err != nil {
		return fmt.Errorf("copy redis: let its writes go on: %w", err)
	}
	return nil
}

// errFenceMoved says that somebody else has held or released the store: a hold that ran out may have been followed by writes, and a copy would mix moments.
var errFenceMoved = errors.New("it took too long and writes went on, or another backup or restore has begun")

// heldBy says why a fence stops writes; ok is false if it does not. What follows in another line tells those apart that hold for the same reason.
func heldBy(fence string) (reason string, ok bool) {
	reason, ok = strings.CutPrefix(fence, held)
	reason, _, _ = strings.Cut(reason, "\n")
	return reason, ok
}

// swapFence changes what the fence says, if it says what it said before; for a while unless that is 0.
func (s *Store) swapFence(ctx context.Context, before, after string, hold time.Duration) error {
	return s.whileFence(ctx, before, func(pipe redis.Pipeliner) {
		if after == "" {
			pipe.Del(ctx, s.keys.fence)
		} else {
			pipe.Set(ctx, s.keys.fence, after, hold)
		}
	})
}

// whileFence executes commands in one step, if the fence says what it should, and otherwise none.
func (s *Store) whileFence(ctx context.Context, fence string, queue func(redis.Pipeliner)) error {
	err := s.client.Watch(ctx, func(tx *redis.Tx) error {
		now, err := tx.Get(ctx, s.keys.fence).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		if now != fence {
			return errFenceMoved
		}
		_, err = tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			queue(pipe)
			return nil
		})
		return err
	}, s.keys.fence)
	if errors.Is(err, redis.TxFailedErr) {
		return errFenceMoved
	}
	return err
}

// copyKeys visits what some keys hold.
func (s *Store) copyKeys(ctx context.Context, keys []string, visit func(storage.Item) error) error {
	pipe := s.client.Pipeline()
	docs, logs := make(map[string]*redis.SliceCmd), make(map[string]*redis.StringSliceCmd)
	for _, key := range keys {
		switch {
		case strings.HasPrefix(key, s.keys.docs):
			docs[key] = pipe.HMGet(ctx, key, fieldRev, fieldData)
		case strings.HasPrefix(key, s.keys.logs):
			logs[key] = pipe.LRange(ctx, key, 0, -1)
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("copy redis: read its keys: %w", err)
	}
	for _, key := range keys {
		item := storage.Item{}
		switch {
		case docs[key] != nil:
			rev, _ := docs[key].Val()[0].(string)
			data, _ := docs[key].Val()[1].(string)
			item.Doc = storage.Doc{Key: storage.Key(key[len(s.keys.docs):]), Rev: storage.Rev(rev), Data: []byte(data)}
		case logs[key] != nil:
			item.Log = storage.Log(key[len(s.keys.logs):])
			for _, line := range logs[key].Val() {
				item.Lines = append(item.Lines, []byte(line))
			}
		case strings.HasPrefix(key, s.keys.indexes):
			if err := s.copyIndex(ctx, storage.Index(key[len(s.keys.indexes):]), visit); err != nil {
				return err
			}
			continue
		default:
			continue
		}
		if err := visit(item); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) copyIndex(ctx context.Context, index storage.Index, visit func(storage.Item) error) error {
	var after storage.Cursor
	for {
		page, err := s.Range(ctx, index, after, storage.MaxScore, maxItemEntries)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := visit(storage.Item{Index: index, Entries: page}); err != nil {
			return err
		}
		after = storage.Cursor{Score: page[len(page)-1].Score, Member: page[len(page)-1].Member}
	}
}

// Replace puts the items in place of everything that is stored under the prefix. Of two at the same time the one that began first fails, and leaves
// alone what the other writes.
func (s *Store) Replace(ctx context.Context, items iter.Seq2[storage.Item, error]) error {
	revs := storage.NewRevisions()
	own := notReplaced + "\n" + string(revs.Next())
	if err := s.client.Set(ctx, s.keys.fence, own, 0).Err(); err != nil {
		return fmt.Errorf("replace redis: hold its writes: %w", err)
	}
	if err := s.wipe(ctx, own); err != nil {
		return err
	}
	var batch []storage.Item
	weight := 0
	flush := func() error {
		err := s.whileFence(ctx, own, func(pipe redis.Pipeliner) {
			for i := range batch {
				s.put(ctx, pipe, &batch[i])
			}
		})
		if err != nil {
			return fmt.Errorf("replace redis: write: %w", err)
		}
		batch, weight = batch[:0], 0
		return nil
	}
	for item, err := range items {
		if err != nil {
			return fmt.Errorf("replace redis: %w", err)
		}
		batch = append(batch, item)
		if weight += 1 + len(item.Lines) + len(item.Entries); weight >= copyBatch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	// No Txn that is under way may be taken for one of the new content: it names the incarnation before.
	if err := s.swapFence(ctx, own, "/"+string(revs.Next()), 0); err != nil {
		return fmt.Errorf("replace redis: let writes go on: %w", err)
	}
	return nil
}

// put queues the writes of an item. One that comes twice changes nothing.
func (s *Store) put(ctx context.Context, pipe redis.Pipeliner, item *storage.Item) {
	switch {
	case item.Doc.Key != "":
		pipe.HSet(ctx, s.keys.doc(item.Doc.Key), fieldRev, string(item.Doc.Rev), fieldData, item.Doc.Data)
	case item.Log != "":
		key, lines := s.keys.log(item.Log), make([]any, len(item.Lines))
		for i, line := range item.Lines {
			lines[i] = line
		}
		pipe.Del(ctx, key)
		if len(lines) > 0 {
			pipe.RPush(ctx, key, lines...)
		}
	case len(item.Entries) > 0:
		members := make([]redis.Z, len(item.Entries))
		for i, e := range item.Entries {
			members[i] = redis.Z{Score: float64(e.Score), Member: e.Member}
		}
		pipe.ZAdd(ctx, s.keys.index(item.Index), members...)
	}
}

// wipe deletes everything under the prefix but the fence, while that is our own.
func (s *Store) wipe(ctx context.Context, own string) error {
	for cursor := uint64(0); ; {
		keys, next, err := s.client.Scan(ctx, cursor, s.keys.all(), copyBatch).Result()
		if err != nil {
			return fmt.Errorf("replace redis: list its keys: %w", err)
		}
		err = s.whileFence(ctx, own, func(pipe redis.Pipeliner) {
			for _, key := range keys {
				if key != s.keys.fence {
					pipe.Unlink(ctx, key)
				}
			}
		})
		if err != nil {
			return fmt.Errorf("replace redis: delete what is there: %w", err)
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}
