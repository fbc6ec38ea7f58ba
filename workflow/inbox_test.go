package workflow

import (
	"fmt"
	"testing"
	"time"
)

// A tree of runs ends faster than its ends are decided: what tells of them must not fill the memory, nor one turn.
func TestTheInboxIsBounded(t *testing.T) {
	t.Parallel()
	var b inbox
	b.init()
	at := time.Unix(1, 0)
	for range 3 {
		b.fire(dueOp(kinIndex, "p|a", at))
		b.fire(dueOp(kinIndex, "p|b", at))
	}
	b.fire(dueOp(kinIndex, "p|a", at.Add(time.Second))) // armed anew
	if inputs, _, _ := b.take(); len(inputs) != 3 {
		t.Fatalf("%d inputs of three entries", len(inputs))
	}
	b.fire(dueOp(kinIndex, "p|a", at))
	if inputs, _, _ := b.take(); len(inputs) != 1 {
		t.Fatalf("an entry that was taken makes %d inputs when it is fired again", len(inputs))
	}
	for range 2 {
		b.more("run", "each")
	}
	if inputs, _, _ := b.take(); len(inputs) != 1 || len(b.mores) != 0 {
		t.Fatalf("a task that may start children makes %d inputs, %d are left", len(inputs), len(b.mores))
	}
	for i := range 2 * maxFired {
		b.more("run", fmt.Sprintf("each-%d", i))
	}
	for n, turns := 0, 0; n < maxFired; turns++ {
		inputs, _, _ := b.take()
		if n += len(inputs); turns > maxFired/batchSize || n > maxFired {
			t.Fatalf("%d tasks in %d turns", n, turns)
		}
	}
	<-b.signal
	for i := range 2 * maxFired {
		b.fire(dueOp(kinIndex, fmt.Sprintf("p|%d", i), at))
	}
	b.add(&input{run: "last"})
	taken, turns := []*input(nil), 0
	for {
		select {
		case <-b.signal:
		default:
			t.Fatalf("nothing makes the next turn follow: %d inputs taken", len(taken))
		}
		inputs, _, _ := b.take()
		if turns++; len(inputs) > batchSize {
			t.Fatalf("%d inputs in one turn", len(inputs))
		}
		if taken = append(taken, inputs...); len(taken) > maxFired {
			break
		}
	}
	if len(taken) != maxFired+1 || taken[0].timer.Member != "p|0" || taken[maxFired].run != "last" {
		t.Errorf("%d inputs in %d turns, not in their order", len(taken), turns)
	}
	if inputs, _, _ := b.take(); len(inputs) > 0 || len(b.fired) > 0 {
		t.Errorf("%d inputs and %d entries are left", len(inputs), len(b.fired))
	}
}
