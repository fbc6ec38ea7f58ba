package redisstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/opspawn/opscore/storage"
)

// A pipeline is cut after this many commands or bytes: longer ones are not faster, and while one is being written
// its answers pile up.
const (
	maxPipeline      = 512
	maxPipelineBytes = 1 << 20
)

// Commit applies Txns in order, in pipelines of one server-side call each. A Txn that got no answer, or one that is
// neither success nor conflict, has an error wrapping [storage.ErrUnknown]. So have the Txns behind a broken
// pipeline: they are not sent, as they could overtake those still under way.
func (s *Store) Commit(ctx context.Context, txns ...storage.Txn) []error {
	errs := make([]error, len(txns))
	p := newPipeline(len(txns))
	var broken error
	for i := range txns {
		if errs[i] = txns[i].Check(); errs[i] != nil {
			continue
		}
		if broken != nil {
			errs[i] = unknown(broken)
			continue
		}
		p.add(i, redis.NewIntCmd(ctx, s.encode(&txns[i])...), size(&txns[i]))
		if p.full() {
			broken = s.send(ctx, p, errs)
			p.clear()
		}
	}
	if broken == nil && len(p.cmds) > 0 {
		_ = s.send(ctx, p, errs) // nothing follows
	}
	return errs
}

// send executes a pipeline, loading the library if the server lacks it, and stores the outcome of each Txn in errs.
// It returns the error that makes it unwise to send more, if any.
func (s *Store) send(ctx context.Context, p *pipeline, errs []error) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	missing, broken := p.exec(ctx, s.client, errs)
	if !missing || broken != nil {
		return broken
	}
	// All but the successes go again, in order: one that was refused may be what a later one builds upon.
	p.dropDone(errs)
	if err := s.load(ctx); err != nil {
		for _, i := range p.txns {
			errs[i] = unknown(err)
		}
		return err
	}
	_, broken = p.exec(ctx, s.client, errs)
	return broken
}

// errOtherServer says that the server was started again, or another one has taken over, and nobody has accepted that.
var errOtherServer = errors.New("it is another incarnation of the store than the accepted one")

// unknown returns the error of a Txn whose outcome is unknown because of err.
func unknown(err error) error {
	return fmt.Errorf("commit to redis: %w: %w", storage.ErrUnknown, err)
}

// pipeline is a run of calls of the commit function.
type pipeline struct {
	cmds  []redis.Cmder // each an *redis.IntCmd
	txns  []int         // where the Txn of each command stands in the Commit
	bytes int
}

func newPipeline(n int) *pipeline {
	n = min(n, maxPipeline)
	return &pipeline{cmds: make([]redis.Cmder, 0, n), txns: make([]int, 0, n)}
}

func (p *pipeline) add(txn int, cmd *redis.IntCmd, bytes int) {
	p.cmds, p.txns, p.bytes = append(p.cmds, cmd), append(p.txns, txn), p.bytes+bytes
}

func (p *pipeline) full() bool { return len(p.cmds) == maxPipeline || p.bytes >= maxPipelineBytes }

func (p *pipeline) clear() { p.cmds, p.txns, p.bytes = p.cmds[:0], p.txns[:0], 0 }

// dropDone leaves only the commands whose Txn has an error.
func (p *pipeline) dropDone(errs []error) {
	cmds, txns := p.cmds, p.txns
	p.clear()
	for n, i := range txns {
		if errs[i] != nil {
			p.cmds, p.txns = append(p.cmds, cmds[n]), append(p.txns, i)
		}
	}
}

// exec sends the commands and stores the outcome of each Txn in errs. It reports whether the server lacks the
// library, and the error of the first command that got no answer at all.
func (p *pipeline) exec(ctx context.Context, client *redis.Client, errs []error) (missing bool, broken error) {
	pipe := client.Pipeline()
	_ = pipe.BatchProcess(ctx, p.cmds...) // only queues
	_, _ = pipe.Exec(ctx)                 // the error is that of the first failed command
	for n, cmd := range p.cmds {
		applied, err := cmd.(*redis.IntCmd).Result()
		i := p.txns[n]
		switch {
		case err == nil && applied == 1:
			errs[i] = nil
		case err == nil && applied == -2:
			errs[i] = unknown(storage.ErrHeld)
		case err == nil && applied < 0:
			errs[i] = unknown(errOtherServer)
		case err == nil:
			errs[i] = storage.ErrConflict
		default:
			errs[i] = unknown(err)
			missing = missing || isMissing(err)
			if broken == nil && !isAnswer(err) {
				broken = err
			}
		}
	}
	return missing, broken
}
