package redisstore

import (
	"strings"

	"github.com/opspawn/opscore/storage"
)

// keys makes every Redis key of one store. The parts before the name are built once.
type keys struct {
	docs, indexes, logs string
	fence               string
}

// newKeys returns the keys of a prefix, which stands in braces and so decides the Redis Cluster slot of all of them.
func newKeys(prefix string) keys {
	tag := "{" + prefix + "}"
	return keys{docs: tag + ":d:", indexes: tag + ":i:", logs: tag + ":l:", fence: tag + ":fence"}
}

// doc is the key of a document's hash.
func (k *keys) doc(key storage.Key) string { return k.docs + string(key) }

// index is the key of an index's sorted set.
func (k *keys) index(index storage.Index) string { return k.indexes + string(index) }

// log is the key of a log's list.
func (k *keys) log(log storage.Log) string { return k.logs + string(log) }

// The fields of a document's hash. opscore.lua knows them too.
const (
	fieldRev  = "r"
	fieldData = "d"
)

// all is a pattern that all keys of the store match, and no other one. Prefixes may hold what patterns give a meaning.
func (k *keys) all() string {
	return strings.NewReplacer("\\", "\\\\", "*", "\\*", "?", "\\?", "[", "\\[", "]", "\\]").Replace(strings.TrimSuffix(k.fence, "fence")) + "*"
}
