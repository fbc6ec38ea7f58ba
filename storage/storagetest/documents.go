package storagetest

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/opspawn/opscore/storage"
)

var documentCases = []testCase{
	{"AbsentHasNoRevision", func(f *fixture) {
		same(f, "documents", f.get("a", "b"), []storage.Doc{{Key: "a"}, {Key: "b"}})
		same(f, "documents", f.get(), nil)
	}},
	{"PutThenGet", func(f *fixture) {
		first := f.write(f.txn("a", "", "one"))
		f.wantDoc("a", first, "one")
		second := f.write(f.txn("a", first, "two"))
		f.wantDoc("a", second, "two")
	}},
	{"OrderOfKeysIsKept", func(f *fixture) {
		a, c := f.write(f.txn("a", "", "1")), f.write(f.txn("c", "", "3"))
		same(f, "documents", f.get("c", "b", "a", "c"), []storage.Doc{
			{Key: "c", Rev: c, Data: []byte("3")},
			{Key: "b"},
			{Key: "a", Rev: a, Data: []byte("1")},
			{Key: "c", Rev: c, Data: []byte("3")},
		})
	}},
	{"ManyAtOnce", func(f *fixture) {
		var txns []storage.Txn
		var keys []storage.Key
		var want []storage.Doc
		for i := range 1500 {
			key := storage.Key(fmt.Sprintf("doc/%d", i))
			txns = append(txns, f.txn(key, "", string(key)))
			keys = append(keys, key)
			want = append(want, storage.Doc{Key: key, Rev: txns[i].Rev, Data: []byte(key)})
		}
		f.write(txns...)
		same(f, "documents", f.get(keys...), want)
	}},
	{"AnyBytesAreKept", func(f *fixture) {
		for name, data := range map[storage.Key]string{
			"empty":  "",
			"binary": "\x00\xff\r\n$-1\r\n\x80",
			"large":  strings.Repeat("0123456789", 20_000),
		} {
			f.wantDoc(name, f.write(f.txn(name, "", data)), data)
		}
		rev := f.revs.Next()
		f.write(storage.Txn{Rev: rev, If: []storage.Cond{{Key: "nil"}}, Put: []storage.Put{{Key: "nil"}}})
		f.wantDoc("nil", rev, "")
	}},
	{"LargerThanAPipeline", func(f *fixture) {
		big := strings.Repeat("x", 300_000)
		var txns []storage.Txn
		from := storage.Rev("")
		for range 10 {
			txns = append(txns, f.txn("big", from, big))
			from = txns[len(txns)-1].Rev
		}
		f.wantDoc("big", f.write(txns...), big)
	}},
	{"KeysAreOpaque", func(f *fixture) {
		keys := []storage.Key{"a", "a/", "a/b", "a*", "[a]", "{a}", "A", "ä", "a\x00", "a\x00b", " ", ":", "\xff"}
		var want []storage.Doc
		for _, key := range keys {
			rev := f.write(f.txn(key, "", "of "+string(key)))
			want = append(want, storage.Doc{Key: key, Rev: rev, Data: []byte("of " + key)})
		}
		same(f, "documents", f.get(keys...), want)
	}},
	{"NoAliasing", func(f *fixture) {
		original := bytes.Repeat([]byte("data"), 1000) // large enough to be no copy made in passing
		data := bytes.Clone(original)
		rev := f.revs.Next()
		f.write(storage.Txn{
			Rev:       rev,
			If:        []storage.Cond{{Key: "a"}},
			Put:       []storage.Put{{Key: "a", Data: data}},
			LogAppend: []storage.Append{{Log: "l", Data: data, Cap: 2}},
		})
		copy(data, "XXXX")
		for range 2 { // the second round sees what the first one spoilt
			doc := f.get("a")[0]
			tail, err := f.store.Tail(f.ctx, "l", 1)
			if err != nil {
				f.Fatal(err)
			}
			if !bytes.Equal(doc.Data, original) || !bytes.Equal(tail[0], original) {
				f.Fatalf("document %.9q… and entry %.9q… share memory with the caller", doc.Data, tail[0])
			}
			copy(doc.Data, "YYYY")
			copy(tail[0], "YYYY")
		}
	}},
}
