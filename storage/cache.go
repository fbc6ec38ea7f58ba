package storage

import "sync"

// Cache remembers decoded documents and the revisions they were read or written at, so that a writer need not read before
// each write. It only hints: a Txn that conditions on a remembered revision fails with [ErrConflict] when the document was
// changed elsewhere, and the writer then calls Forget and reads.
//
// It keeps two generations of at most size documents each; the older one is dropped when the younger is full. It is safe for
// concurrent use; the remembered values are not copied, so one goroutine at a time may own the value of a key.
type Cache[T any] struct {
	mu         sync.Mutex
	size       int
	young, old map[Key]Cached[T]
}

// Cached is a remembered document.
type Cached[T any] struct {
	Rev   Rev
	Value T
}

// NewCache makes a cache that holds at least the size documents used last, and at most twice as many.
func NewCache[T any](size int) *Cache[T] {
	return &Cache[T]{size: size, young: make(map[Key]Cached[T])}
}

// Load returns what is remembered of a document.
func (c *Cache[T]) Load(k Key) (Cached[T], bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.young[k]; ok {
		return v, true
	}
	v, ok := c.old[k]
	if ok {
		c.store(k, v)
	}
	return v, ok
}

// Has reports whether a document is remembered.
func (c *Cache[T]) Has(k Key) bool {
	_, ok := c.Load(k)
	return ok
}

// Store remembers a document.
func (c *Cache[T]) Store(k Key, rev Rev, v T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.store(k, Cached[T]{Rev: rev, Value: v})
}

func (c *Cache[T]) store(k Key, v Cached[T]) {
	if len(c.young) >= c.size {
		c.old, c.young = c.young, make(map[Key]Cached[T])
	}
	c.young[k] = v
}

// Forget drops what is remembered of these documents.
func (c *Cache[T]) Forget(keys ...Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range keys {
		delete(c.young, k)
		delete(c.old, k)
	}
}

// ForgetAt drops a document if it is remembered at this revision.
func (c *Cache[T]) ForgetAt(k Key, rev Rev) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.young[k]
	if !ok {
		v = c.old[k]
	}
	if v.Rev == rev {
		delete(c.young, k)
		delete(c.old, k) // what stands behind it is older
	}
}

// Clear drops everything.
func (c *Cache[T]) Clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.young, c.old = make(map[Key]Cached[T]), nil
}
