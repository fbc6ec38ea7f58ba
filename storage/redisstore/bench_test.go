package redisstore_test

import (
	"testing"

	"github.com/opspawn/opscore/storage/storagetest"
)

func BenchmarkCommit(b *testing.B) {
	server := storagetest.StartRedis(b)
	store := openAt(b, server.URL())
	defer func() { _ = store.Close() }()
	storagetest.BenchmarkCommit(b, store)
}
