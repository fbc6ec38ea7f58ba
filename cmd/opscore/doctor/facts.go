// Package doctor looks at the servers that Ops-Core runs on and says what of it may lose data, or stop work, and what to do about it.
//
// [Gather] asks, and collects what was answered into plain [Facts]; [Judge] is a pure function of them.
package doctor

import (
	"time"

	"github.com/opspawn/opscore/bus"
)

// Facts is what was found. Durations are by how much a clock is ahead of this machine's.
type Facts struct {
	Server Server
	NATS   NATS
	Redis  Redis
}

// Server is what the HTTP API of a replica says.
type Server struct {
	URL     string
	Err     string // it does not answer
	Refused string // why it does not tell how it is set up
	Status  int    // of that answer, 0 for none
	Version string
	Ready   bool
	Failing []Failing // what keeps it from being ready
	Setup   Setup
	Ahead   time.Duration // to the second, as HTTP tells it
}

// Failing is a check of /readyz that fails.
type Failing struct{ Name, Err string }

// Setup is how a replica says it was started. It is empty if that is not known.
type Setup struct {
	Store string `json:"store"` // redis or file
	NATS  string `json:"nats"`  // embedded or external
	// NATSURL is where an embedded server listens, empty for an external one.
	NATSURL string `json:"natsUrl,omitzero"`
}

// NATS is what the NATS server says.
type NATS struct {
	Unasked   string // why it was not looked at
	URL       string
	Err       string // it does not answer
	Version   string
	Cluster   string // name of its cluster, empty for a single server
	JetStream string // why JetStream cannot be used, empty if it can
	Used, Max int64  // bytes of file storage of the account; Max is -1 when the account has no limit
	Streams   []bus.StreamReport
	Ahead     time.Duration
	Sync      Sync
}

// Sync is when the NATS server writes to its disk what it has acknowledged.
type Sync struct {
	Known    bool
	Always   bool
	Interval time.Duration
	Err      string // why it is not known
}

// Redis is what the Redis server says.
type Redis struct {
	Unasked string // why it was not looked at
	Unused  bool   // the replica keeps its documents in a file
	URL     string // without a password
	Err     string // it does not answer
	InfoErr string // it refuses INFO

	Version, Valkey string
	Library         bool // the functions of Ops-Core are loaded
	AOF             bool
	AOFFailed       bool   // its last write to the append-only file failed
	Fsync           string // empty when it does not tell
	RewriteFrom     int64  // bytes of its append-only file from which on it is rewritten, 0 when it does not tell
	Policy          string
	Used, Max       int64 // bytes; Max is 0 for no limit
	Total           int64 // bytes of memory of its machine, 0 if it does not tell
	Role            string
	Replicas        int64
	Ahead           time.Duration
	RoundTrip       time.Duration
}
