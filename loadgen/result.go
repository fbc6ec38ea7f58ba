package loadgen

import "time"

// Result is all that one run of a scenario has to say. Its JSON form is what `loadgen run -o json` prints and `loadgen compare` reads.
type Result struct {
	Scenario  string            `json:"scenario"`
	Seed      uint64            `json:"seed"`
	StartedAt time.Time         `json:"startedAt"`
	Seconds   float64           `json:"seconds"`   // from the first user's start to the last answer
	Transport string            `json:"transport"` // "http" or "nats"
	PeakUsers int               `json:"peakUsers"`
	Args      []string          `json:"args"` // of the command that ran it
	Machine   Machine           `json:"machine"`
	Versions  map[string]string `json:"versions"` // "opscore", "go", "nats-server", "redis-server"
	Commit    string            `json:"commit,omitzero"`

	Requests   int64                `json:"requests"`
	Failures   int64                `json:"failures"`
	RPS        float64              `json:"rps"`
	P50Ms      float64              `json:"p50Ms"` // over all operations, from the intended time of sending
	P99Ms      float64              `json:"p99Ms"`
	Total      Operation            `json:"total"`              // of all operations together
	Operations map[string]Operation `json:"operations"`         // by name, as "POST state"
	Errors     []ErrorClass         `json:"errors"`             // most frequent first
	Spans      map[string]Quantiles `json:"spans,omitzero"`     // times that are not a request's, as "start → agent"
	Unsent     int64                `json:"unsent,omitzero"`    // tasks of an open model that were due and for which no user was free in the end
	StopCause  string               `json:"stopCause,omitzero"` // why the scenario ended itself before its time
	Ledger     *Ledger              `json:"ledger"`             // nil if the ledger was not audited
	Processes  map[string]Process   `json:"processes"`          // by name, as "opscore-1", "nats", "redis", "loadgen"
	Series     []Point              `json:"series"`             // one a second
	Thresholds []Threshold          `json:"thresholds,omitzero"`
	Faults     []Fault              `json:"faults,omitzero"` // as carried out
	Verdict    Verdict              `json:"verdict"`
}

// Machine is what a run ran on.
type Machine struct {
	OS     string  `json:"os"` // as "linux/amd64"
	Cores  int     `json:"cores"`
	CPU    string  `json:"cpu,omitzero"` // model name
	RAMGiB float64 `json:"ramGiB"`
	Kernel string  `json:"kernel,omitzero"`

	StealPercent float64 `json:"stealPercent,omitzero"` // of the CPU time that was wanted during the run: what the host of a virtual machine gave to others
}

// Operation is what was measured of one kind of request. Times count from the intended time of sending, so that a server that stands
// still is charged for all the requests that could not be sent meanwhile; Uncorrected counts from the real one.
type Operation struct {
	Requests    int64     `json:"requests"`
	Failures    int64     `json:"failures"`
	RPS         float64   `json:"rps"`
	MeanBytes   float64   `json:"meanBytes"` // of the answers
	Latency     Quantiles `json:"latency"`
	Uncorrected Quantiles `json:"uncorrected"`
}

// Quantiles sums up a latency histogram, in milliseconds.
type Quantiles struct {
	Min  float64 `json:"minMs"`
	Mean float64 `json:"meanMs"`
	P50  float64 `json:"p50Ms"`
	P66  float64 `json:"p66Ms"`
	P75  float64 `json:"p75Ms"`
	P80  float64 `json:"p80Ms"`
	P90  float64 `json:"p90Ms"`
	P95  float64 `json:"p95Ms"`
	P98  float64 `json:"p98Ms"`
	P99  float64 `json:"p99Ms"`
	P999 float64 `json:"p999Ms"`
	Max  float64 `json:"maxMs"`

	P9999 float64 `json:"p9999Ms"`
}

// The classes of errors, beside HTTP statuses, which are classes of their own ("401", "503").
const (
	ClassRefused    = "refused"     // nobody listens there
	ClassReset      = "reset"       // the connection was reset
	ClassNoResponse = "no_response" // the connection was closed without an answer
	ClassTimeout    = "timeout"
	ClassResolve    = "resolve" // the host name has no address
	ClassContent    = "content" // an answer with the right status and the wrong body
	ClassOther      = "other"
)

// ErrorClass counts failures of one kind of one operation.
type ErrorClass struct {
	Operation  string    `json:"operation"`
	Class      string    `json:"class"` // a Class constant or an HTTP status
	Count      int64     `json:"count"`
	FirstAt    time.Time `json:"firstAt"`
	Detail     string    `json:"detail,omitzero"`     // what one of them said
	RequestIDs []string  `json:"requestIds,omitzero"` // of the first few
}

// Ledger is what came of comparing everything that was acknowledged with what a separate reader found. All but Acked and Stored
// must be 0.
type Ledger struct {
	Acked       int64     `json:"acked"`      // events, commands and results that were acknowledged
	Stored      int64     `json:"stored"`     // of these, found with their effect
	Lost        int64     `json:"lost"`       // of these, not found
	Doubled     int64     `json:"doubled"`    // effects that happened twice
	OutOfOrder  int64     `json:"outOfOrder"` // an older word that overwrote a newer one, or stands behind it
	Stuck       int64     `json:"stuck"`      // runs that have not ended and for which nothing is due
	OverSlot    int64     `json:"overSlot"`   // tasks begun on an agent that had no slot left
	Unended     int64     `json:"unended"`    // runs that should have ended by then; see Scenario.RunsEnd
	Runs        EndedRuns `json:"runs,omitzero"`
	Registered  int64     `json:"registered,omitzero"`  // agents whose last confirmed word was a registration
	AgentsFound int64     `json:"agentsFound,omitzero"` // of these, registered at the end
	Unconfirmed []string  `json:"unconfirmed,omitzero"`
	Findings    []Finding `json:"findings,omitzero"` // the first of each kind, in words
}

// EndedRuns counts the runs that were found by how they ended.
type EndedRuns struct {
	Completed int64 `json:"completed"`
	Failed    int64 `json:"failed"`
	Cancelled int64 `json:"cancelled"`
	GoingOn   int64 `json:"goingOn"`
}

// Wrong is how many things the ledger holds against the server.
func (l *Ledger) Wrong() int64 {
	return l.Lost + l.Doubled + l.OutOfOrder + l.Stuck + l.OverSlot + l.Unended
}

// Clean reports whether nothing was lost, doubled, out of order, stuck, over its slots or going on for too long.
func (l *Ledger) Clean() bool { return l.Wrong() == 0 }

// Finding is one thing that the ledger holds against the server.
type Finding struct {
	Kind string `json:"kind"` // "lost", "doubled", "outOfOrder", "stuck", "overSlot", "unended"
	Text string `json:"text"`
}

// Process is what one process has used over the run.
type Process struct {
	PID        int     `json:"pid"`
	CPUSeconds float64 `json:"cpuSeconds"`
	OwnMiB     float64 `json:"ownMiB"` // peak of RssAnon + RssShmem
	RSSMiB     float64 `json:"rssMiB"` // peak of VmRSS
	ReadMiB    float64 `json:"readMiB"`
	WrittenMiB float64 `json:"writtenMiB"` // with ReadMiB: files and connections, as the kernel counts them (rchar, wchar)
	Restarts   int     `json:"restarts,omitzero"`
}

// Point is one second of a run.
type Point struct {
	Second    float64                 `json:"second"` // since the start, at its end
	Users     int                     `json:"users"`
	RPS       float64                 `json:"rps"`
	Failures  float64                 `json:"failures"` // a second
	P50Ms     float64                 `json:"p50Ms"`
	P95Ms     float64                 `json:"p95Ms"`
	P99Ms     float64                 `json:"p99Ms"`
	Queue     map[string]int64        `json:"queue,omitzero"`     // messages that consumers have not taken in, by stream
	Processes map[string]ProcessPoint `json:"processes,omitzero"` // by name
}

// ProcessPoint is what a process used in one second.
type ProcessPoint struct {
	CPU    float64 `json:"cpu"` // cores
	RSSMiB float64 `json:"rssMiB"`
	IOMiB  float64 `json:"ioMiB"` // read and written
}

// Threshold is a limit that a run was given, as "p(99)<20", and whether it held.
type Threshold struct {
	Text string  `json:"text"`
	Seen float64 `json:"seen"`
	Held bool    `json:"held"`
}

// Fault is one thing that was broken on purpose.
type Fault struct {
	Second float64 `json:"second"` // since the start
	Kind   string  `json:"kind"`   // "kill", "freeze", "cut", "drop-replies", "older-aof", "crash-point"
	Target string  `json:"target"` // "engine-1", "nats", "redis"
	Text   string  `json:"text,omitzero"`
	Error  string  `json:"error,omitzero"` // why it could not be done

	StallMs float64 `json:"stallMs,omitzero"` // of the kill of a replica: see [Journal.Stalls]
}

// Verdict says in words whether a run was good and, if not, why.
type Verdict struct {
	OK    bool     `json:"ok"`
	Lines []string `json:"lines"`          // what happened, most important first
	Cause string   `json:"cause,omitzero"` // the likely cause, in a sentence
	Do    string   `json:"do,omitzero"`    // what to do about it
	Code  string   `json:"code,omitzero"`  // of the cause, for machines: a Cause constant
	Logs  []string `json:"logs,omitzero"`  // the server's own lines about it
}
