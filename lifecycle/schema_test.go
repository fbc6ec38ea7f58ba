package lifecycle

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/storagetest"
)

// setSchema writes what a version has left behind.
func setSchema(t *testing.T, store storage.Store, s Schema) {
	t.Helper()
	docs, err := store.Get(t.Context(), schemaKey)
	if err == nil {
		err = store.Commit(t.Context(), storage.Txn{
			Rev: storage.NewRevisions().Next(), If: []storage.Cond{{Key: schemaKey, Rev: docs[0].Rev}},
			Put: []storage.Put{{Key: schemaKey, Data: event.MustMarshal(s)}},
		})[0]
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestEnsureSchema(t *testing.T) {
	for _, c := range []struct {
		have   Schema
		want   Schema
		refuse bool
	}{
		{Schema{}, Schema{schemaVersion, schemaReader}, false},
		{Schema{schemaVersion, schemaReader}, Schema{schemaVersion, schemaReader}, false},
		{Schema{schemaVersion + 5, schemaVersion}, Schema{schemaVersion + 5, schemaVersion}, false}, // an older version beside a newer one
		{Schema{schemaVersion + 5, schemaVersion + 1}, Schema{schemaVersion + 5, schemaVersion + 1}, true},
	} {
		t.Run(fmt.Sprint(c.have), func(t *testing.T) {
			store := openBolt(t)
			if c.have != (Schema{}) {
				setSchema(t, store, c.have)
			}
			err := EnsureSchema(t.Context(), store)
			if (err != nil) != c.refuse || err != nil && (!strings.Contains(err.Error(), "newer version") || strings.Contains(err.Error(), "\n")) {
				t.Errorf("refused: %v", err)
			}
			docs, err := store.Get(t.Context(), schemaKey)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := decodeSchema(docs[0]); got != c.want || err != nil {
				t.Errorf("the store says %+v, %v", got, err)
			}
		})
	}
}

// A replica notices a newer version that comes beside it, and stops when that has made the store unfit for it.
func TestAKeeperNoticesANewerVersion(t *testing.T) {
	store := openBolt(t)
	k := started(t, store, bustest.Conn(t))
	if k.Newer() || k.Dispatching() != nil {
		t.Fatal("alone")
	}
	setSchema(t, store, Schema{schemaVersion + 1, schemaVersion})
	if err := k.tick(t.Context()); err != nil || !k.Newer() || k.Dispatching() != nil {
		t.Errorf("beside a newer version: newer %v, %v, %v", k.Newer(), err, k.Dispatching())
	}
	setSchema(t, store, Schema{schemaVersion + 1, schemaVersion + 1})
	if err := k.tick(t.Context()); err == nil || k.Dispatching() == nil {
		t.Errorf("after the migration: %v, %v", err, k.Dispatching())
	}
}

// A store that came back empty says its version again.
func TestTheSchemaComesBack(t *testing.T) {
	server := storagetest.StartRedis(t)
	store := openRedis(t, server)
	k := started(t, store, bustest.Conn(t))
	server.Do("FLUSHALL")
	for range 3 {
		_ = k.tick(t.Context()) // the first one heals
	}
	docs, err := store.Get(t.Context(), schemaKey)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := decodeSchema(docs[0]); s.Version != schemaVersion || err != nil {
		t.Errorf("the store says %+v, %v", s, err)
	}
}

// What had been said before the stream begins is named when a store is healed without it.
func TestWhatCannotComeBackIsNamed(t *testing.T) {
	server := storagetest.StartRedis(t)
	store, conn := openRedis(t, server), bustest.Conn(t)
	for range 20 {
		if _, err := conn.Publish(t.Context(), nats.NewMsg(event.CommandSubject(event.KindRunCancel, "r"))); err != nil {
			t.Fatal(err)
		}
	}
	k := started(t, store, conn)
	if k.Lost() != "" {
		t.Errorf("nothing is missing yet: %s", k.Lost())
	}
	if err := conn.Purge(t.Context(), event.StreamWork, 16); err != nil {
		t.Fatal(err)
	}
	server.Do("FLUSHALL")
	if err := k.tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := k.Lost(); !strings.Contains(got, "without 15 messages that OPSCORE_WORK had") {
		t.Errorf("what is missing: %q", got)
	}
	other := started(t, store, conn) // a replica that starts later knows it too
	if got := other.Lost(); got != k.Lost() {
		t.Errorf("another replica says %q", got)
	}
}

// A stream that was recreated and a database that was replaced may be found at the same time.
func TestStreamAndDatabaseReplacedAtOnce(t *testing.T) {
	server := storagetest.StartRedis(t)
	store, conn := openRedis(t, server), bustest.Conn(t)
	say(t, conn, 5)
	k := started(t, store, conn)
	takeIn(t, conn, 5)
	if err := k.tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := conn.JS().DeleteStream(t.Context(), event.StreamAgent); err != nil {
		t.Fatal(err)
	}
	if err := conn.EnsureStreams(t.Context(), bus.StreamConfig{}); err != nil {
		t.Fatal(err)
	}
	server.Restart()
	bustest.Eventually(t, "dispatch is on again", func() bool { return k.tick(t.Context()) == nil && k.Dispatching() == nil })
}
