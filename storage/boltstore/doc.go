// Package boltstore keeps the documents, indexes and logs of Ops-Core in one local file, with bbolt. It is the store
// of a single process that wants no database server.
//
// # Buckets
//
// A name in a bucket key is preceded by its length as a uvarint, so that no name is the beginning of another's keys;
// numbers are 8 bytes, big-endian. layout.go makes all of them:
//
//	bucket   key                         value
//	docs     document key                revision, preceded by its length, then the data
//	members  index name, member          score
//	order    index name, score, member   –
//	logs     log name                    number of the oldest entry, number the next one will get
//	entries  log name, number            entry
//	meta     "fence"                     absent until the content was replaced; "!…" while it is being replaced
//
// They are shared by all indexes and logs: a bucket per index would cost a page each, and there are many
// small ones.
//
// # Goroutines
//
// One writer goroutine per store executes all Txns. It takes whatever is queued, without waiting for more, runs it in
// one bbolt transaction, and answers after the file was synced: the more callers, the more share a sync. Reads run in
// the goroutines of their callers and see a snapshot. [Store.Close] ends the writer.
package boltstore
