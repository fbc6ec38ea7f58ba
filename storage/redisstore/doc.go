// Package redisstore keeps the documents, indexes and logs of Ops-Core in Redis 7.0 or newer, or in Valkey.
//
// # Keys
//
// All keys share one configured prefix as hash tag, so a Txn always lies in one slot. keys.go makes them:
//
//	key              type    holds
//	{prefix}:d:KEY   hash    a document: r = revision, d = data
//	{prefix}:i:INDEX zset    an ordered index: member → score
//	{prefix}:l:LOG   list    a capped log, newest entry last
//	{prefix}:fence   string  absent until the content was replaced; "!…" while it is being copied or replaced
//
// # Functions
//
// Atomicity comes from one server-side function, and paging from another. Both live in opscore.lua, whose header
// comments list KEYS, ARGV and answers. The library is loaded when a store opens and again whenever the server turns
// out not to have it (FUNCTION FLUSH, fail-over to an empty replica). Its name and the names of its functions carry a
// version, because a function name is global to the server: two releases of Ops-Core can then share one Redis while
// one replaces the other.
//
// # Repeats
//
// The client library sends a command or a whole pipeline again when its connection breaks before the answer. That is
// wanted here: a Txn carries its own revision, so a repeat that finds it is answered with success and writes nothing,
// and a repeat that finds something newer is answered with a conflict. Retries hide short interruptions, but are
// bounded: a dead server is reported within the timeout, [DefaultTimeout] unless the URL names another.
//
// # Durability
//
// A Txn that was answered survives the death of the process when the server runs with appendonly yes; with
// appendfsync everysec a power failure can cost the last one or two seconds.
package redisstore
