package storagetest

import (
	"fmt"
	"strings"

	"github.com/opspawn/opscore/storage"
)

// logTxn returns a Txn that appends to a log.
func (f *fixture) logTxn(log storage.Log, data string, cap int) storage.Txn {
	rev := f.revs.Next()
	key := storage.Key("log of " + rev)
	return storage.Txn{
		Rev: rev, If: []storage.Cond{{Key: key}}, Put: []storage.Put{{Key: key}},
		LogAppend: []storage.Append{{Log: log, Data: []byte(data), Cap: cap}},
	}
}

var logCases = []testCase{
	{"AbsentIsEmpty", func(f *fixture) { same(f, "log", f.tail("none", 5), nil) }},
	{"TailIsOldestFirst", func(f *fixture) {
		for i := range 5 {
			f.write(f.logTxn("l", fmt.Sprint(i), 10))
		}
		same(f, "tail 3", f.tail("l", 3), []string{"2", "3", "4"})
		same(f, "tail 5", f.tail("l", 5), []string{"0", "1", "2", "3", "4"})
		same(f, "tail 99", f.tail("l", 99), []string{"0", "1", "2", "3", "4"})
		same(f, "tail 0", f.tail("l", 0), nil)
		same(f, "tail -1", f.tail("l", -1), nil)
	}},
	{"CapKeepsTheNewest", func(f *fixture) {
		for i := range 10 {
			f.write(f.logTxn("l", fmt.Sprint(i), 3))
			var want []string
			for n := max(0, i-2); n <= i; n++ {
				want = append(want, fmt.Sprint(n))
			}
			same(f, "log", f.tail("l", 99), want)
		}
	}},
	{"CapCanChange", func(f *fixture) {
		for i := range 6 {
			f.write(f.logTxn("l", fmt.Sprint(i), 6))
		}
		f.write(f.logTxn("l", "small", 2))
		same(f, "log", f.tail("l", 99), []string{"5", "small"})
		f.write(f.logTxn("l", "one", 1))
		same(f, "log", f.tail("l", 99), []string{"one"})
		f.write(f.logTxn("l", "more", 6))
		same(f, "log", f.tail("l", 99), []string{"one", "more"})
	}},
	{"SeveralAppendsInOneTransaction", func(f *fixture) {
		t := f.logTxn("l", "1", 3)
		for _, data := range []string{"2", "3", "4"} {
			t.LogAppend = append(t.LogAppend, storage.Append{Log: "l", Data: []byte(data), Cap: 3})
		}
		t.LogAppend = append(t.LogAppend, storage.Append{Log: "other", Data: []byte("o"), Cap: 3})
		f.write(t)
		same(f, "log", f.tail("l", 99), []string{"2", "3", "4"})
		same(f, "log", f.tail("other", 99), []string{"o"})
	}},
	{"OrderOfTransactionsIsKept", func(f *fixture) {
		var txns []storage.Txn
		var want []string
		for i := range 1200 {
			txns = append(txns, f.logTxn("l", fmt.Sprint(i), 2000))
			want = append(want, fmt.Sprint(i))
		}
		f.write(txns...)
		same(f, "log", f.tail("l", 2000), want)
	}},
	{"DeletedLogIsEmptyAndBeginsAnew", func(f *fixture) {
		for i := range 5 {
			f.write(f.logTxn("l", fmt.Sprint(i), 4), f.logTxn("other", fmt.Sprint(i), 4))
		}
		drop := f.logTxn("third", "3", 4)
		drop.LogDelete = []storage.Log{"l", "absent"}
		f.write(drop)
		same(f, "log", f.tail("l", 99), nil)
		same(f, "log", f.tail("other", 99), []string{"1", "2", "3", "4"})
		same(f, "log", f.tail("third", 99), []string{"3"})
		f.write(f.logTxn("l", "new", 4))
		same(f, "log", f.tail("l", 99), []string{"new"})
		f.write(drop) // a late repeat of what was applied
		same(f, "log", f.tail("l", 99), []string{"new"})
	}},
	{"AnyBytesAreKept", func(f *fixture) {
		want := []string{"", "\x00\xff\r\n", strings.Repeat("long", 50_000)}
		for _, data := range want {
			f.write(f.logTxn("l", data, 3))
		}
		same(f, "log", f.tail("l", 3), want)
	}},
	{"NamesAreOpaque", func(f *fixture) {
		names := []storage.Log{"a", "a/", "a/b", "a\x00", "aa", "{a}", "b", "\xff"}
		for round := range 2 {
			for _, name := range names {
				f.write(f.logTxn(name, fmt.Sprintf("%d in %s", round, name), 5))
			}
		}
		for _, name := range names {
			same(f, "log", f.tail(name, 5), []string{fmt.Sprintf("0 in %s", name), fmt.Sprintf("1 in %s", name)})
		}
	}},
}
