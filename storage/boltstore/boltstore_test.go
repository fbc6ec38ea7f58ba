package boltstore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/boltstore"
	"github.com/opspawn/opscore/storage/storagetest"
)

// childFile names the file the test binary shall write to, when it runs as the child of a test.
const childFile = "OPSCORE_TEST_BOLT_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childFile); path != "" {
		writeForEver(path)
		return
	}
	goleak.VerifyTestMain(m)
}

// open opens a fresh store.
func open(t *testing.T) storage.Store {
	t.Helper()
	return openFile(t, filepath.Join(t.TempDir(), "opscore.db"))
}

func openFile(t testing.TB, path string) *boltstore.Store {
	t.Helper()
	s, err := boltstore.Open(t.Context(), &url.URL{Scheme: "file", Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// put returns a Txn that creates a document.
func put(key storage.Key, rev storage.Rev) storage.Txn {
	return storage.Txn{Rev: rev, If: []storage.Cond{{Key: key}}, Put: []storage.Put{{Key: key, Data: []byte(key)}}}
}

func TestContract(t *testing.T) { storagetest.Run(t, open) }

func TestContentSurvivesClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "opscore.db")
	s := openFile(t, path)
	txn := put("a", "r.1")
	txn.IndexAdd = []storage.IndexOp{{Index: "i", Member: "m", Score: 7}}
	txn.LogAppend = []storage.Append{{Log: "l", Data: []byte("entry"), Cap: 2}}
	if err := errors.Join(s.Commit(t.Context(), txn)[0], s.Close()); err != nil {
		t.Fatal(err)
	}
	s = openFile(t, path)
	defer func() { _ = s.Close() }()
	if docs, err := s.Get(t.Context(), "a"); err != nil || docs[0].Rev != "r.1" || string(docs[0].Data) != "a" {
		t.Errorf("document: %+v, %v", docs, err)
	}
	if page, err := s.Range(t.Context(), "i", storage.Cursor{}, 9, 9); err != nil || len(page) != 1 || page[0].Score != 7 {
		t.Errorf("index: %+v, %v", page, err)
	}
	if tail, err := s.Tail(t.Context(), "l", 9); err != nil || len(tail) != 1 || string(tail[0]) != "entry" {
		t.Errorf("log: %q, %v", tail, err)
	}
	if errs := s.Commit(t.Context(), txn); errs[0] != nil {
		t.Errorf("repeat: %v", errs[0])
	}
}

// TestAnsweredSurvivesKill kills a process that commits, and looks for all it was answered.
func TestAnsweredSurvivesKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "opscore.db")
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childFile+"="+path)
	child.Stderr = t.Output()
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var answered []storage.Key
	for lines := bufio.NewScanner(out); len(answered) < 200 && lines.Scan(); {
		answered = append(answered, storage.Key(lines.Text()))
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
	if len(answered) < 200 {
		t.Fatalf("the child wrote only %d documents", len(answered))
	}
	s := openFile(t, path)
	defer func() { _ = s.Close() }()
	docs, err := s.Get(t.Context(), answered...)
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range docs {
		if doc.Rev == "" {
			t.Errorf("%q was answered and is lost", doc.Key)
		}
	}
}

// writeForEver is the child process: it creates documents and prints the key of each after its answer.
func writeForEver(path string) {
	s, err := boltstore.Open(context.Background(), &url.URL{Scheme: "file", Path: path})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	revs := storage.NewRevisions()
	for {
		rev := revs.Next()
		if err := s.Commit(context.Background(), put(storage.Key(rev), rev))[0]; err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(rev)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "opscore.db")
	s := openFile(t, path)
	defer func() { _ = s.Close() }()
	_, err := boltstore.Open(t.Context(), &url.URL{Scheme: "file", Path: path})
	if !errors.Is(err, boltstore.ErrLocked) || !strings.Contains(err.Error(), "in use by another process") || !strings.Contains(err.Error(), path) {
		t.Fatalf("got %v", err)
	}
}

func TestURLs(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for rawURL, file := range map[string]string{
		"file:a.db":                      "a.db",
		"file:new/folder/b.db":           "new/folder/b.db",
		"file:with%20space.db":           "with space.db",
		"file://" + dir + "/c.db":        "c.db",
		"file:" + dir + "/deep/er/d.db":  "deep/er/d.db",
		"file://" + dir + "/sp%20ace.db": "sp ace.db",
	} {
		s, err := storage.Open(t.Context(), rawURL, boltstore.Driver)
		if err != nil {
			t.Errorf("%s: %v", rawURL, err)
			continue
		}
		_ = s.Close()
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			t.Errorf("%s: %v", rawURL, err)
		}
	}
	if err := os.WriteFile("text.db", []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, rawURL := range []string{
		"file:", "file://host/a.db", "file:a.db?sync=off", "file:text.db", "file:.", "file:text.db/a.db",
	} {
		if _, err := storage.Open(t.Context(), rawURL, boltstore.Driver); err == nil {
			t.Errorf("%s was opened", rawURL)
		}
	}
}

func TestTooLongNamesAreInvalid(t *testing.T) {
	s := open(t)
	defer func() { _ = s.Close() }()
	long := strings.Repeat("x", 40_000)
	key := put(storage.Key(long), "r.1")
	member, log := put("b", "r.2"), put("c", "r.3")
	member.IndexAdd = []storage.IndexOp{{Index: "i", Member: long}}
	log.LogAppend = []storage.Append{{Log: storage.Log(long), Cap: 1}}
	errs := s.Commit(t.Context(), put("a", "r.4"), key, member, log)
	if errs[0] != nil {
		t.Errorf("the valid one: %v", errs[0])
	}
	for _, err := range errs[1:] {
		if !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("got %v, want %v", err, storage.ErrInvalid)
		}
	}
	// They may be asked for, though.
	if docs, err := s.Get(t.Context(), storage.Key(long)); err != nil || docs[0].Rev != "" {
		t.Errorf("%v, %v", docs, err)
	}
}
