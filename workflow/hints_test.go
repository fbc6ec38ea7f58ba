package workflow

import (
	"slices"
	"strconv"
	"testing"

	"github.com/opspawn/opscore/bus/event"
)

// What several turns have to tell is told once, by whoever was first, and of one kind no more than there is room for.
func TestHintsAreGathered(t *testing.T) {
	t.Parallel()
	var h hints
	h.init()
	if !h.gather(event.Wake{Agents: []string{"a", "a"}}) {
		t.Error("the first does not tell")
	}
	many := make([]string, 2*maxTold)
	for i := range many {
		many[i] = strconv.Itoa(i)
	}
	if h.gather(event.Wake{Agents: []string{"b"}, Classes: many}) {
		t.Error("the second tells too")
	}
	w := h.take("me")
	slices.Sort(w.Agents)
	if w.From != "me" || !slices.Equal(w.Agents, []string{"a", "b"}) || len(w.Classes) != maxTold {
		t.Errorf("from %q: agents %v, %d classes", w.From, w.Agents, len(w.Classes))
	}
	if !h.gather(event.Wake{Classes: []string{"c"}}) {
		t.Error("after it was told, the next does not tell")
	}
}
