// Package audit is the separate reader of the ledger: it opens the store and the streams anew, waits until everything that was acknowledged has been
// taken in, and reads what has become of it.
package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/loadgen"
	"github.com/opspawn/opscore/storage"
)

// Patience is how long the reader waits for consumers and runs to finish what they have, unless its target says otherwise.
const Patience = 15 * time.Second

const (
	lookEvery = 200 * time.Millisecond // while it waits
	quiet     = 2 * time.Second        // without any change, when nothing is due, that prove that nothing more will happen
)

// Target says what to read.
type Target struct {
	NATSURL  string
	StoreURL string
	Patience time.Duration  // 0 means Patience
	Broken   loadgen.Broken // on purpose, while the load ran
	RunsEnd  time.Duration  // from now on, when every run must have ended; 0: they need not
}

// Run reads what has become of everything in the journal, and audits it. It fails if the store or the streams cannot be read.
func Run(ctx context.Context, target Target, journal *loadgen.Journal) (*loadgen.Ledger, error) {
	found, err := Read(ctx, target, journal)
	if err != nil {
		return nil, err
	}
	return loadgen.Audit(journal, found), nil
}

// Read waits until the consumers have taken everything in and the runs have ended or nothing changes any more, at most for the target's
// patience, and reads what is there then.
func Read(ctx context.Context, target Target, journal *loadgen.Journal) (loadgen.Found, error) {
	none := loadgen.Found{}
	store, err := storage.Open(ctx, target.StoreURL, server.Drivers...)
	if err != nil {
		return none, fmt.Errorf("open the store for reading: %w", err)
	}
	defer func() { _ = store.Close() }() // it was only read
	conn, err := bus.Connect(ctx, bus.Config{URL: target.NATSURL, Name: "loadgen audit"})
	if err != nil {
		return none, err
	}
	defer conn.Close()
	if target.Patience == 0 {
		target.Patience = Patience
	}
	agents, runs := journal.Keys()
	r := &reader{store: store, conn: conn, runs: make(map[string]*seenRun), due: make(map[string]storage.Score), floors: make(map[string]uint64)}
	for _, id := range runs {
		r.runs[id] = new(seenRun)
	}
	pending, err := r.settle(ctx, target)
	if err != nil {
		return none, err
	}
	found := loadgen.Found{Broken: target.Broken, Pending: pending, Floors: r.floors, MustEnd: target.RunsEnd > 0}
	if found.Agents, err = r.agents(ctx, agents); err != nil {
		return none, err
	}
	if found.Runs, err = r.found(ctx); err != nil {
		return none, err
	}
	found.Dead, err = r.dead(ctx)
	return found, err
}

// settle waits until there is nothing more to wait for, and returns how many messages are not taken in even then.
func (r *reader) settle(ctx context.Context, target Target) (pending uint64, err error) {
	deadline := time.Now().Add(target.Patience + target.RunsEnd)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var last view
	since := time.Now()
	for {
		now, err := r.look(ctx)
		if err != nil {
			return 0, err
		}
		if now != last {
			last, since = now, time.Now()
		}
		quietly := time.Since(since) >= quiet && !r.dueBefore(deadline) && target.RunsEnd == 0
		if now.pending == 0 && (now.unfinished == 0 || quietly) || time.Now().After(deadline) {
			return now.pending, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("wait until everything has been taken in: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// view is what is compared to see whether anything changes.
type view struct {
	pending    uint64 // messages that consumers have not taken in
	unfinished int    // runs that have not ended
	versions   uint64 // sum of their change counts
}
