package boltstore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/opspawn/opscore/storage"
)

// The buckets; doc.go describes their keys and values.
var (
	bucketDocs    = []byte("docs")
	bucketMembers = []byte("members")
	bucketOrder   = []byte("order")
	bucketLogs    = []byte("logs")
	bucketEntries = []byte("entries")
	bucketMeta    = []byte("meta")
)

// contentBuckets hold what is stored.
var contentBuckets = [][]byte{bucketDocs, bucketMembers, bucketOrder, bucketLogs, bucketEntries}

// numberLen is the length of a number in a key.
const numberLen = 8

// errDamaged says that a value in the file is not what this package writes.
var errDamaged = errors.New("damaged value in the database file")

// namePrefix returns the beginning of all keys of an index or log, with room for more.
func namePrefix(name string, room int) []byte {
	b := make([]byte, 0, binary.MaxVarintLen32+len(name)+room)
	b = binary.AppendUvarint(b, uint64(len(name)))
	return append(b, name...)
}

// memberKey is the key of an index member in bucket members.
func memberKey(index storage.Index, member string) []byte {
	return append(namePrefix(string(index), len(member)), member...)
}

// orderKey is the key of an index entry in bucket order. Keys sort like (score, member).
func orderKey(index storage.Index, score storage.Score, member string) []byte {
	b := namePrefix(string(index), numberLen+len(member))
	return append(binary.BigEndian.AppendUint64(b, uint64(score)), member...)
}

// parseOrder reads an index entry from a key of bucket order without its index name.
func parseOrder(rest []byte) storage.Entry {
	return storage.Entry{
		Score:  storage.Score(binary.BigEndian.Uint64(rest)),
		Member: string(rest[numberLen:]),
	}
}

// entryKey is the key of entry n of a log.
func entryKey(log storage.Log, n uint64) []byte {
	return binary.BigEndian.AppendUint64(namePrefix(string(log), numberLen), n)
}

// appendScore appends a score as it stands in bucket members.
func appendScore(b []byte, score storage.Score) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(score))
}

// parseScore reads a value of bucket members.
func parseScore(value []byte) (storage.Score, error) {
	if len(value) != numberLen {
		return 0, errDamaged
	}
	return storage.Score(binary.BigEndian.Uint64(value)), nil
}

// docValue is a value of bucket docs.
func docValue(rev storage.Rev, data []byte) []byte {
	b := namePrefix(string(rev), len(data))
	return append(b, data...)
}

// parseDoc splits a value of bucket docs. Both parts point into it and must be copied to be kept. A missing value is
// an absent document.
func parseDoc(value []byte) (rev, data []byte, err error) {
	if value == nil {
		return nil, nil, nil
	}
	n, used := binary.Uvarint(value)
	if used <= 0 || n > uint64(len(value)-used) {
		return nil, nil, errDamaged
	}
	end := used + int(n)
	return value[used:end], value[end:], nil
}

// bounds says which entries of a log are there: those from oldest up to, not including, next.
type bounds struct{ oldest, next uint64 }

// value is the bounds as they stand in bucket logs.
func (b bounds) value() []byte {
	value := binary.BigEndian.AppendUint64(make([]byte, 0, 2*numberLen), b.oldest)
	return binary.BigEndian.AppendUint64(value, b.next)
}

// readBounds returns the bounds of a log; those of an absent one are zero.
func readBounds(logs *bbolt.Bucket, log storage.Log) (bounds, error) {
	value := logs.Get([]byte(log))
	if value == nil {
		return bounds{}, nil
	}
	if len(value) != 2*numberLen {
		return bounds{}, fmt.Errorf("log %q: %w", log, errDamaged)
	}
	return bounds{binary.BigEndian.Uint64(value), binary.BigEndian.Uint64(value[numberLen:])}, nil
}
