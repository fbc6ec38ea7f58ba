package storage_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/boltstore"
)

// copyOf stores something of each kind and returns its copy.
func copyOf(t *testing.T) (file []byte, items []storage.Item) {
	t.Helper()
	s, err := boltstore.Open(t.Context(), &url.URL{Scheme: "file", Path: filepath.Join(t.TempDir(), "x.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	noise := make([]byte, 1000) // what repeats itself can be packed in several ways
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	txn := storage.Txn{
		Rev: "r.1", If: []storage.Cond{{Key: "a"}, {Key: "\xff\x00"}}, Put: []storage.Put{{Key: "a", Data: noise}, {Key: "\xff\x00"}},
		IndexAdd:  []storage.IndexOp{{Index: "i", Member: "m", Score: storage.MaxScore}, {Index: "i", Member: "\xfe", Score: 0}, {Index: "j", Member: "m", Score: 7}},
		LogAppend: []storage.Append{{Log: "l", Data: []byte("one"), Cap: 5}, {Log: "l", Data: nil, Cap: 5}},
	}
	if err := s.Commit(t.Context(), txn)[0]; err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if n, err := storage.WriteCopy(t.Context(), s, &b); n != 5 || err != nil {
		t.Fatalf("%d items were written, %v", n, err)
	}
	if err := s.Snapshot(t.Context(), func(item storage.Item) error { items = append(items, item); return nil }); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), items
}

func TestACopyIsReadAsItWasWritten(t *testing.T) {
	file, want := copyOf(t)
	var got []storage.Item
	for item, err := range storage.ReadCopy(bytes.NewReader(file)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, item)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(bytes.Equal)); diff != "" {
		t.Errorf("(-written +read)\n%s", diff)
	}
}

// Wherever a copy is cut off, or a byte of it is another one, it is not taken for whole.
func TestADamagedCopyIsRefused(t *testing.T) {
	file, items := copyOf(t)
	check := func(what string, at int, broken []byte) {
		t.Helper()
		var got []storage.Item
		for item, err := range storage.ReadCopy(bytes.NewReader(broken)) {
			if errors.Is(err, storage.ErrDamaged) {
				return
			}
			got = append(got, item)
		}
		// The padding of gzip means nothing.
		if what != "changed" || !cmp.Equal(items, got, cmp.Comparer(bytes.Equal)) {
			t.Errorf("%s at %d of %d is taken for whole", what, at, len(file))
		}
	}
	for i := range file {
		check("cut off", i, file[:i])
		broken := bytes.Clone(file)
		broken[i] ^= 0x10
		check("changed", i, broken)
	}
	check("followed by more", len(file), repacked(t, file, func(b []byte) []byte { return append(b, 0) }))
	check("without its end", 0, repacked(t, file, func(b []byte) []byte { return b[:len(b)-35] }))
	check("of a newer format", 0, append([]byte("opscore-backup 2\n"), file[17:]...))
	if _, err := storage.CheckCopy(strings.NewReader("opscore-backup 2\n")); err == nil || !strings.Contains(err.Error(), "opscore-backup 2") {
		t.Errorf("a newer format: %v", err)
	}
}

// repacked changes the records of a copy.
func repacked(t *testing.T, file []byte, change func([]byte) []byte) []byte {
	t.Helper()
	in, err := gzip.NewReader(bytes.NewReader(file[17:]))
	if err != nil {
		t.Fatal(err)
	}
	records, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	out := bytes.NewBuffer(bytes.Clone(file[:17]))
	w := gzip.NewWriter(out)
	_, err = w.Write(change(records))
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
