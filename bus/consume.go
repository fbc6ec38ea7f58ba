package bus

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Defaults of ConsumerConfig.
const (
	DefaultMaxBatch = 256
	DefaultMaxBytes = 1 << 20
	DefaultMaxHeld  = 1024
)

const (
	// maxHeldBytes bounds the bodies in memory, besides DefaultMaxHeld.
	maxHeldBytes = 32 << 20
	// stopGrace is how long a handler may go on after Run's context ended: a commit that has begun shall not be torn off.
	stopGrace = 2 * time.Second
	// handBackDelay is put on messages that are given back when Run ends. A bare Nak would be delivered at once, maybe to a process
	// that stops too.
	handBackDelay = 100 * time.Millisecond
)

// Handler decides about a batch of at least one message. It gives every message a verdict, or returns an error when it cannot decide
// now, because the store does not answer: the same batch is then offered again, with all verdicts taken back. A message left without a
// verdict is offered again too. Messages of one key are in one batch or in batches one after another, in stream order.
//
// Handlers run in several goroutines at the same time. The context outlives that of Run by 2 seconds. The handler must not keep the
// slice; it may keep bodies.
type Handler func(ctx context.Context, batch []*Msg) error

// ConsumerConfig says what to consume and how. Stream, Durable and Handler are required.
type ConsumerConfig struct {
	Stream, Durable string
	Handler         Handler
	// Workers is how many batches are handled at the same time; 0 means one per CPU.
	Workers int
	// Key names what a message is about; messages of one key go to one worker. Nil means [Msg.Key].
	Key func(*Msg) string
	// MaxBatch bounds the messages of a batch, MaxBytes their bytes unless a single message is larger; 0 means 256 and 1 MiB.
	MaxBatch, MaxBytes int
	// MaxHeld bounds the messages that were pulled and not settled yet, over all workers; 0 means 1024.
	MaxHeld int
	// Newer, when set, reports whether a newer version of Ops-Core handles the same stream. What has an unknown subject is then put off, for up to
	// putOffLimit, so that one of its replicas gets it; it is buried otherwise.
	Newer func() bool
	// Log gets one line per outcome. Nil logs nothing.
	Log *slog.Logger
	// Crash is called at named points, for fault tests that end the process there: "after-fetch" when a worker has taken a
	// batch, "before-reply" after the handler, "before-ack" when replies are sent and dead letters stored. Nil does nothing.
	Crash func(point string)
}

// Consumer pulls the messages of a durable and gives them to a handler; see the package comment for its promises.
type Consumer struct {
	conn    *Conn
	cfg     ConsumerConfig
	log     *slog.Logger
	seed    maphash.Seed
	workers []*worker
	kick    chan struct{} // something changed that may let the puller go on, or stop it

	mu        sync.Mutex
	changed   sync.Cond     // held, paused or pulling changed
	held      int           // pulled and not settled
	heldBytes int           // bytes of those
	paused    bool          // by Pause
	pulling   bool          // more may arrive
	failing   int           // workers whose handler cannot decide
	failedAt  time.Time     // when the first of them began
	ackWait   time.Duration // of the durable; 0 before the first bind
}

// NewConsumer makes a consumer; Run starts it.
func (c *Conn) NewConsumer(cfg ConsumerConfig) (*Consumer, error) {
	if cfg.Stream == "" || cfg.Durable == "" || cfg.Handler == nil {
		return nil, errors.New("bus: a consumer needs a stream, a durable and a handler")
	}
	if cfg.Workers <= 0 {
		cfg.Workers = runtime.GOMAXPROCS(0)
	}
	if cfg.MaxBatch <= 0 {
		cfg.MaxBatch = DefaultMaxBatch
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	if cfg.MaxHeld <= 0 {
		cfg.MaxHeld = DefaultMaxHeld
	}
	if cfg.Key == nil {
		cfg.Key = (*Msg).Key
	}
	if cfg.Crash == nil {
		cfg.Crash = func(string) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	consumer := &Consumer{
		conn: c,
		cfg:  cfg,
		log:  cfg.Log.With("stream", cfg.Stream, "consumer", cfg.Durable),
		seed: maphash.MakeSeed(),
		kick: make(chan struct{}, 1),
	}
	consumer.changed.L = &consumer.mu
	for range cfg.Workers {
		consumer.workers = append(consumer.workers, newWorker(consumer))
	}
	return consumer, nil
}

// Run consumes until ctx ends, and returns when all its goroutines have, with nil; at the latest 2 seconds after the last
// handler returned. Messages it holds then and has no verdict for are given back, to be delivered elsewhere at once. It survives
// lost connections, restarts of the server, and a durable that is deleted and made again. It must not be called twice at
// the same time.
func (c *Consumer) Run(ctx context.Context) error {
	handling, stopHandling := context.WithCancel(context.WithoutCancel(ctx))
	defer stopHandling()
	var workers, renewer sync.WaitGroup
	stopWorkers := make(chan struct{})
	for _, w := range c.workers {
		workers.Go(func() { w.run(handling, stopWorkers) })
	}
	stopRenewer := make(chan struct{})
	renewer.Go(func() { c.renew(stopRenewer) })

	c.pull(ctx)
	close(stopWorkers)
	grace := time.AfterFunc(stopGrace, stopHandling)
	defer grace.Stop()
	workers.Wait()
	close(stopRenewer)
	renewer.Wait()
	for _, w := range c.workers {
		w.handBack()
	}
	// Acknowledgements are only gathered or buffered so far, and the process may end now.
	c.conn.soon.flush()
	if c.conn.Connected() {
		_ = c.conn.nc.FlushTimeout(time.Second)
	}
	return nil
}

// pull binds to the durable and pulls from it, again and again, until ctx ends.
func (c *Consumer) pull(ctx context.Context) {
	wait := newBackoff(50*time.Millisecond, time.Second)
	var trouble string // what was logged last
	working := func() {
		wait.reset()
		if trouble != "" {
			c.log.Info("consuming again")
			trouble = ""
		}
	}
	for ctx.Err() == nil {
		err := c.pullOnce(ctx, working)
		if err == nil || ctx.Err() != nil {
			continue
		}
		// A lost connection is the connection's to report.
		if trouble != err.Error() && !errors.Is(err, nats.ErrDisconnected) {
			trouble = err.Error()
			c.log.Warn("cannot consume, will try again", "err", err)
		}
		wait.sleep(ctx)
	}
}

// pullOnce pulls until the consumer is paused or ctx ends, with nil, or until there is trouble.
func (c *Consumer) pullOnce(ctx context.Context, working func()) error {
	if err := c.beginPulling(ctx); err != nil {
		return err
	}
	defer c.endPulling()
	if err := c.bind(ctx); err != nil {
		return err
	}
	return newPuller(c).run(ctx, working)
}

// bind reads what has to be known of the durable.
func (c *Consumer) bind(ctx context.Context) error {
	if !c.conn.Connected() {
		return nats.ErrDisconnected
	}
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	durable, err := c.conn.js.Consumer(ctx, c.cfg.Stream, c.cfg.Durable)
	if err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	config := durable.CachedInfo().Config
	if config.AckPolicy != jetstream.AckExplicitPolicy || config.DeliverSubject != "" {
		return errors.New("bind: the durable is not a pull consumer with explicit acknowledgement")
	}
	c.mu.Lock()
	c.ackWait = config.AckWait
	c.mu.Unlock()
	return nil
}

// Pause stops pulling and waits until no message is held any more, or ctx ends; pulling stays stopped either way. What was
// pulled before is handled and acknowledged. Use it before resetting the durable.
func (c *Consumer) Pause(ctx context.Context) error {
	c.mu.Lock()
	c.paused = true
	c.wakePuller()
	err := c.waitLocked(ctx, func() bool { return c.held == 0 && !c.pulling })
	held := c.held
	c.mu.Unlock()
	c.conn.soon.flush() // the acknowledgements
	if err != nil {
		return fmt.Errorf("bus: pause consumer %s: %d messages are still held: %w", c.cfg.Durable, held, err)
	}
	return nil
}

// Resume pulls again after Pause.
func (c *Consumer) Resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = false
	c.changed.Broadcast()
}

// beginPulling waits until the consumer is not paused. It returns nil or ctx's error.
func (c *Consumer) beginPulling(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.waitLocked(ctx, func() bool { return !c.paused })
	c.pulling = err == nil
	return err
}

func (c *Consumer) endPulling() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pulling = false
	c.changed.Broadcast()
}

// waitLocked waits, with c.mu held, until ready or until ctx ends.
func (c *Consumer) waitLocked(ctx context.Context, ready func() bool) error {
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.changed.Broadcast()
	})
	defer stop()
	for !ready() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.changed.Wait()
	}
	return nil
}

func (c *Consumer) wakePuller() { wake(c.kick) }

// release counts messages as settled.
func (c *Consumer) release(n, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held -= n
	c.heldBytes -= bytes
	if c.held == 0 {
		c.changed.Broadcast()
	}
	c.wakePuller()
}

// handlerFails counts a worker whose handler cannot decide. While there is any, nothing more is pulled.
func (c *Consumer) handlerFails(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failing++
	if c.failing == 1 {
		c.failedAt = time.Now()
		c.log.Warn("handler cannot decide, messages are kept", "held", c.held, "err", err)
	}
}

func (c *Consumer) handlerRecovered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failing--
	if c.failing == 0 {
		c.log.Info("handler decides again", "after", time.Since(c.failedAt).Round(time.Millisecond))
	}
	c.wakePuller()
}

// renew keeps the ownership of everything that is held, queued messages too: each is renewed before a third of AckWait has passed.
func (c *Consumer) renew(stop <-chan struct{}) {
	const beforeBind = 50 * time.Millisecond
	t := time.NewTimer(beforeBind)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			c.mu.Lock()
			ackWait := c.ackWait
			c.mu.Unlock()
			if ackWait == 0 {
				t.Reset(beforeBind)
				continue
			}
			for _, w := range c.workers {
				w.renew(now.Add(-ackWait / 4))
			}
			t.Reset(ackWait / 12)
		case <-stop:
			return
		}
	}
}

// wake puts a token into a channel of capacity one, unless there is one.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
