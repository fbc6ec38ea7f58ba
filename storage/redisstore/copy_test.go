package redisstore_test

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/redisstore"
	"github.com/opspawn/opscore/storage/storagetest"
)

// A copy that another replica begins at the same moment must not take the hold away from a restore: Txns would be executed in the middle of it.
func TestACopyLeavesTheHoldOfARestore(t *testing.T) {
	server := storagetest.StartRedis(t)
	open := func() *redisstore.Store {
		s, err := openURL(t, "redis://"+server.Addr()+"?prefix=p")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	one, other := open(), open()
	admin := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { _, _, _ = one.Close(), other.Close(), admin.Close() }()
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
