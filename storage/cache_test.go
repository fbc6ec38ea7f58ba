package storage_test

import (
	"testing"

	"github.com/opspawn/opscore/storage"
)

// A document is dropped at the revision that is meant, and not at one that came after it.
func TestCacheForgetsAtARevision(t *testing.T) {
	t.Parallel()
	c := storage.NewCache[int](2)
	c.Store("a", "r1", 1)
	c.Store("b", "r2", 2)
	c.Store("c", "r3", 3) // a new generation: a and b are of the old one
	c.Store("b", "r4", 4)
	c.ForgetAt("a", "r1")
	c.ForgetAt("b", "r2")
	c.ForgetAt("c", "r0")
	if c.Has("a") {
		t.Error("a is remembered")
	}
	// b is remembered twice, and the older one is hidden.
	for key, want := range map[storage.Key]int{"b": 4, "c": 3} {
		if got, ok := c.Load(key); !ok || got.Value != want {
			t.Errorf("%s: %v, %v; want %d", key, got, ok, want)
		}
	}
	c.ForgetAt("b", "r4")
	if c.Has("b") {
		t.Error("b is remembered, maybe as it was before")
	}
}
