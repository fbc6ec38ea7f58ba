package boltstore_test

import (
	"path/filepath"
	"testing"

	"github.com/opspawn/opscore/storage/storagetest"
)

func BenchmarkCommit(b *testing.B) {
	store := openFile(b, filepath.Join(b.TempDir(), "opscore.db"))
	defer func() { _ = store.Close() }()
	storagetest.BenchmarkCommit(b, store)
}
