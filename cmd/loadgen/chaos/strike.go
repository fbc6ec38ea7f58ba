package chaos

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/opspawn/opscore/loadgen"
	"github.com/opspawn/opscore/storage/storagetest/netproxy"
)

// strikeAll carries out the plan and returns when every fault is over.
func (c *chaos) strikeAll(ctx context.Context) {
	var all sync.WaitGroup
	for i, s := range c.plan {
		all.Go(func() {
			at := s.At
			if s.Kind == loadgen.FaultOlderAOF {
				at -= s.For // the copy is made first
			}
			if !c.until(ctx, at) {
				return
			}
			f := loadgen.Fault{Second: time.Since(c.began).Seconds(), Kind: s.Kind, Target: s.Target, Text: s.String()}
			if err := c.strike(ctx, i, s); err != nil {
				f.Error = err.Error()
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.faults = append(c.faults, f)
			if c.cfg.Struck != nil {
				c.cfg.Struck(f)
			}
		})
	}
	all.Wait()
}

// until waits for a moment since the beginning, and reports false if ctx ended before.
func (c *chaos) until(ctx context.Context, at time.Duration) bool {
	return pause(ctx, time.Until(c.began.Add(at)))
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// strike carries out one fault and returns when it is over.
func (c *chaos) strike(ctx context.Context, i int, s loadgen.Strike) error {
	switch s.Kind {
	case loadgen.FaultKill:
		return c.whenRunning(ctx, func() error { return c.env.Kill(s.Target) })
	case loadgen.FaultCrashPoint:
		return c.whenRunning(ctx, func() error { return c.env.CrashAt(s.Target, s.Point, s.Count) })
	case loadgen.FaultFreeze:
		if err := c.whenRunning(ctx, func() error { return c.env.Freeze(s.Target) }); err != nil {
			return err
		}
		pause(ctx, s.For)
		_ = c.env.Thaw(s.Target) // unless it was killed meanwhile
		return nil
	case loadgen.FaultCut:
		return c.cut(ctx, c.env.Proxy(s.Target), s.For)
	case loadgen.FaultDropReplies:
		c.env.Proxy(s.Target).LoseReplies(s.Count)
		return nil
	case loadgen.FaultOlderAOF:
		copied := filepath.Join(c.env.Dir, fmt.Sprintf("older-%d", i))
		if err := c.env.CopyRedis(copied); err != nil {
			return err
		}
		pause(ctx, s.For)
		return c.env.RestoreRedis(ctx, copied)
	}
	return fmt.Errorf("there is no fault %q", s.Kind)
}

func (c *chaos) cut(ctx context.Context, p *netproxy.Proxy, halfOpen time.Duration) error {
	if halfOpen == 0 {
		p.Cut()
		return nil
	}
	p.HalfOpen()
	pause(ctx, halfOpen)
	p.Flow()
	return nil
}

// whenRunning strikes a server that may just be starting again, for a while.
func (c *chaos) whenRunning(ctx context.Context, strike func() error) error {
	const tries, between = 40, 50 * time.Millisecond
	var err error
	for range tries {
		if err = strike(); err == nil || !pause(ctx, between) {
			return err
		}
	}
	return err
}
