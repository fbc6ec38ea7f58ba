package redisstore_test

import (
	"fmt"
	"iter"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/redisstore"
	"github.com/opspawn/opscore/storage/storagetest"
)

// openOne opens one and the same store each time.
func openOne(t *testing.T, server *storagetest.RedisServer) *redisstore.Store {
	t.Helper()
	s, err := openURL(t, "redis://"+server.Addr()+"?prefix=p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// A copy that another replica begins at the same moment must not take the hold away from a restore: Txns would be executed in the middle of it.
func TestACopyLeavesTheHoldOfARestore(t *testing.T) {
	server := storagetest.StartRedis(t)
	one, other := openOne(t, server), openOne(t, server)
	admin := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { _ = admin.Close() }()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = other.Snapshot(t.Context(), func(storage.Item) error { return nil }) // which the restore may end
			}
		}
	}()
	for range 300 {
		err := one.Replace(t.Context(), func(func(storage.Item, error) bool) {
			for range 5 {
				if fence := admin.Get(t.Context(), "{p}:fence").Val(); !strings.HasPrefix(fence, "!a backup is being restored") {
					t.Errorf("in the middle of a restore the fence says %q", fence)
				}
			}
		})
		if err != nil {
			t.Error(err)
		}
		if t.Failed() {
			break
		}
	}
	close(stop)
	<-stopped
}

// Two replicas may be told to restore at the same time, as when a client has given up and asks another one: what stays is one backup, whole.
func TestOfTwoRestoresOneIsWhole(t *testing.T) {
	server := storagetest.StartRedis(t)
	one, other := openOne(t, server), openOne(t, server)
	items := func(of string, n int, between func()) iter.Seq2[storage.Item, error] {
		return func(yield func(storage.Item, error) bool) {
			for i := range n {
				if i == n/2 {
					between()
				}
				key := storage.Key(fmt.Sprint(of, i))
				if !yield(storage.Item{Doc: storage.Doc{Key: key, Rev: "r", Data: []byte(of)}}, nil) {
					return
				}
			}
		}
	}
	const many = 5000
	second := make(chan error, 1)
	first := one.Replace(t.Context(), items("first", many, func() { second <- other.Replace(t.Context(), items("second", many, func() {})) }))
	if err := <-second; err != nil || first == nil {
		t.Errorf("the first ends with %v, the second with %v", first, err)
	}
	count := make(map[string]int)
	err := other.Snapshot(t.Context(), func(item storage.Item) error {
		count[string(item.Doc.Data)]++
		return nil
	})
	if err != nil || len(count) != 1 || count["second"] != many {
		t.Errorf("the store has %v, %v", count, err)
	}
}
