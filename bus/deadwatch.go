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
	deleted         uint64 // by this process, so far
}

// evictions returns how many letters were dropped between two looks to make room. Those that others have deleted count as dropped, but only while the
// stream is about full.
func evictions(before, now deadState) uint64 {
	gone := before.letters + (now.last - before.last) - now.letters
	deleted := now.deleted - before.deleted
	if now.last < before.last || now.letters > before.letters+(now.last-before.last) || gone <= deleted || now.maxBytes <= 0 {
		return 0 // the stream is another one, or nothing is missing
	}
	if now.bytes+2*event.MaxBody < now.maxBytes-now.maxBytes/20 {
		return 0
	}
	return gone - deleted
}

// WatchDead counts the dead letters that are dropped because their stream is full, and says so in the log, until ctx ends. It looks every so often.
func (c *Conn) WatchDead(ctx context.Context, every time.Duration) error {
	t := time.NewTicker(every)
	defer t.Stop()
	var before *deadState
	for {
		if now, err := c.deadState(ctx); err == nil {
			if before != nil {
				if n := evictions(*before, now); n > 0 {
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
	deleted := c.dead.deleted.Load()
	s, err := c.js.Stream(ctx, event.StreamDead)
	if err != nil {
		return deadState{}, err
	}
	info := s.CachedInfo()
	return deadState{
		letters: info.State.Msgs, last: info.State.LastSeq, bytes: int64(info.State.Bytes), maxBytes: info.Config.MaxBytes, deleted: deleted,
	}, nil
}
