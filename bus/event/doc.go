// Package event is the wire of Ops-Core: every subject, stream, header, body and answer that an agent, a client or
// another process of Ops-Core sees, as Go types. docs/wire.md describes the same page for readers in other languages, and
// the golden files under testdata freeze it.
//
// Bodies are JSON in UTF-8 with camelCase members. Decoding is strict on types and on required members, rejects duplicate
// members and invalid UTF-8, and ignores unknown members. The set of messages is closed: [Decode] turns a subject and a
// body into one of the types below, or an [*Error] with the code to answer and to write on the dead letter.
//
// Each type says what kind of event it is. Of a *level* event the last word wins, so an older one may be dropped. An
// *edge* event happened once and is applied once, keyed by its own ids, whatever its place in the stream.
//
// No other package formats a subject or spells a header.
package event
