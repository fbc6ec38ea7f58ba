package bus

import (
	"context"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// deadState is what is compared to see whether dead letters were dropped.
type deadState struct {
	letters, last   uint64
	bytes, maxBytes int64
	deleted         int64 // by this process, or about to be, so far
}

// evictions returns how many letters were dropped between two looks to make room, and how many of those that this process deletes were not missing
// yet, which is owed then the next time. Those that others have deleted count as dropped, but only while the stream is about full.
func evictions(before, now deadState, owed int64) (dropped uint64, stillOwed int64) {
	owed += now.deleted - before.deleted
	if now.last < before.last || now.letters > before.letters+(now.last-before.last) {
		return 0, 0 // the stream is another one
	}
	gone := int64(before.letters + (now.last - before.last) - now.letters)
	ours := max(min(gone, owed), 0)
	gone, owed = gone-ours, owed-ours
	if now.maxBytes <= 0 || now.bytes+2*event.MaxBody < now.maxBytes-now.maxBytes/20 {
		return 0, owed
	}
	return uint64(gone), owed
}

// WatchDead counts the dead letters that are dropped because their stream is full, and says so in the log, until ctx ends. It looks every so often.
func (c *Conn) WatchDead(ctx context.Context, every time.Duration) error {
	t := time.NewTicker(every)
	defer t.Stop()
	var before *deadState
	var owed int64
	for {
		if now, err := c.deadState(ctx); err == nil {
			if before != nil {
				var n uint64
				if n, owed = evictions(*before, now, owed); n > 0 {
					c.log.Warn("dead letters dropped, the oldest first: their stream is full", "count", n, "max_bytes", now.maxBytes, "total", c.dead.evicted.Add(n))
				}
			}
			before = &now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (c *Conn) deadState(ctx context.Context) (deadState, error) {
	ctx, cancel := withDefaultTimeout(ctx)
	defer cancel()
	s, err := c.js.Stream(ctx, event.StreamDead)
	if err != nil {
		return deadState{}, err
	}
	info := s.CachedInfo()
	return deadState{
		letters: info.State.Msgs, last: info.State.LastSeq, bytes: int64(info.State.Bytes), maxBytes: info.Config.MaxBytes,
		deleted: c.dead.deleted.Load(), // read last: a letter that is missing for that was counted before it was deleted
	}, nil
}
