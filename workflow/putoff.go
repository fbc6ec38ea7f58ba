package workflow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opspawn/opscore/storage"
)

// putOffKey names the document that a Txn puts which moves timers of a newer version: a Txn must put something.
const putOffKey storage.Key = "put-off"

// putOffTime is for how long a timer that this version does not know is left to replicas of the newer one.
const putOffTime = 10 * time.Second

// unknownTimer deals with a due entry that this version does not know. If a newer version has written the store it is moved, so that it holds nobody
// up and is not read ten times a second; a timer says "look", so that one which comes back although it was done harms nobody. Otherwise it goes.
func (e *Engine) unknownTimer(ctx context.Context, op *storage.IndexOp) ([]*input, error) {
	if !e.cfg.Keeper.Newer() {
		e.cfg.Log.Error("unknown timer removed", "timer", op.Member)
		return []*input{{gate: &gateInput{kind: gateNothing}, timer: op}}, nil
	}
	docs, err := e.cfg.Store.Get(ctx, putOffKey)
	if err != nil {
		return nil, fmt.Errorf("put off a timer of a newer version: %w", err)
	}
	later := storage.IndexOp{Index: op.Index, Member: op.Member, Score: storage.Score(time.Now().Add(putOffTime).UnixMicro())}
	err = e.cfg.Store.Commit(ctx, storage.Txn{
		Rev: e.revs.Next(), If: []storage.Cond{{Key: putOffKey, Rev: docs[0].Rev}}, Put: []storage.Put{{Key: putOffKey, Data: []byte("{}")}},
		IndexAdd: []storage.IndexOp{later},
	})[0]
	if err != nil && !errors.Is(err, storage.ErrConflict) { // another replica puts timers off too
		return nil, fmt.Errorf("put off a timer of a newer version: %w", err)
	}
	return nil, nil
}
