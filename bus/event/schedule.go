package event

import "time"

// ScheduleApply stores a schedule under the id of its subject. Level.
type ScheduleApply struct {
	ID string `json:"-"`
	ScheduleSpec
}

// ScheduleCommand deletes, pauses, resumes or triggers a schedule. Trigger is an edge, the others are levels.
type ScheduleCommand struct {
	Kind   CommandKind `json:"-"`
	ID     string      `json:"-"`
	Reason string      `json:"reason,omitzero"`
}

// Overlap says what happens at a tick of a schedule while its last run goes on.
type Overlap string

// The policies for runs that would overlap.
const (
	OverlapSkip    Overlap = "skip"    // the tick is passed over; the default
	OverlapQueue   Overlap = "queue"   // the run is started when the last one has ended; at most one tick waits
	OverlapAllow   Overlap = "allow"   // both run
	OverlapReplace Overlap = "replace" // the last run is cancelled
)

// ScheduleSpec says which run is started, and when: by Cron, or every EverySeconds.
type ScheduleSpec struct {
	WorkflowID     string            `json:"workflowId"`
	Version        string            `json:"version,omitzero"` // empty: the latest at each start
	Input          Raw               `json:"input,omitzero"`   // an object
	AgentID        string            `json:"agentId,omitzero"` // the first task goes to it
	Labels         map[string]string `json:"labels,omitzero"`
	Priority       int               `json:"priority,omitzero"`
	Cron           string            `json:"cron,omitzero"`         // five fields, or six with seconds first, or a word such as @daily
	TimeZone       string            `json:"timeZone,omitzero"`     // of Cron, an IANA name; empty means UTC
	EverySeconds   float64           `json:"everySeconds,omitzero"` // at least 1, counted from StartAt, or from when the schedule was applied
	StartAt        time.Time         `json:"startAt,omitzero"`      // no tick before
	EndAt          time.Time         `json:"endAt,omitzero"`        // no tick from then on
	Overlap        Overlap           `json:"overlap,omitzero"`
	CatchUpSeconds *float64          `json:"catchUpSeconds,omitzero"` // ticks that could not be kept are made up for if they are not older; absent: 600
}

// Schedule is a schedule as shown by queries, the CLI and the HTTP API.
type Schedule struct {
	ScheduleID string `json:"scheduleId"`
	ScheduleSpec
	Paused    bool        `json:"paused"`
	NextAt    *time.Time  `json:"nextAt,omitzero"`
	LastAt    *time.Time  `json:"lastAt,omitzero"` // tick of the last run
	LastRunID string      `json:"lastRunId,omitzero"`
	WaitingAt *time.Time  `json:"waitingAt,omitzero"` // tick that waits for the last run to end
	Started   uint64      `json:"started"`            // ticks that started a run
	Skipped   uint64      `json:"skipped"`            // ticks passed over for a run that went on
	Missed    uint64      `json:"missed"`             // ticks that were too old to be made up for
	Upcoming  []time.Time `json:"upcoming,omitzero"`  // the next ticks, when one schedule is asked for
	Seq       uint64      `json:"seq,omitzero"`       // last stream sequence of StreamWork taken in
	Version   uint64      `json:"docVersion,omitzero"`
}

// maxEvery is the longest time between two ticks: ten years.
const maxEvery = 10 * 365 * 24 * time.Hour

func (e *ScheduleApply) check([]byte) *Error {
	if e.Input.Kind() == 'n' {
		e.Input = nil
	}
	switch {
	case e.WorkflowID == "":
		return missing("workflowId", "the workflow to run")
	case (e.Cron == "") == (e.EverySeconds == 0):
		return Errorf(CodeInvalid, "give either cron or everySeconds")
	case e.EverySeconds != 0 && (e.EverySeconds < 1 || e.EverySeconds > maxEvery.Seconds()):
		return Errorf(CodeInvalid, "everySeconds must be 1 to %.0f", maxEvery.Seconds())
	case e.CatchUpSeconds != nil && (*e.CatchUpSeconds < 0 || *e.CatchUpSeconds > maxEvery.Seconds()):
		return Errorf(CodeInvalid, "catchUpSeconds must be 0 to %.0f", maxEvery.Seconds())
	case e.TimeZone != "" && e.Cron == "":
		return Errorf(CodeInvalid, "timeZone is for cron; everySeconds knows none")
	case e.Priority < 0 || e.Priority > 9:
		return Errorf(CodeInvalid, "priority must be 0 to 9")
	case !e.EndAt.IsZero() && !e.StartAt.Before(e.EndAt):
		return Errorf(CodeInvalid, "endAt must be after startAt")
	}
	switch e.Overlap {
	case "", OverlapSkip, OverlapQueue, OverlapAllow, OverlapReplace:
	default:
		return Errorf(CodeInvalid, "overlap must be skip, queue, allow or replace, not %q", e.Overlap)
	}
	if e.AgentID != "" {
		if _, err := Token(e.AgentID); err != nil {
			return Errorf(CodeTooLarge, "agentId: its escaped form is over %d bytes", MaxToken)
		}
	}
	if err := checkLabels(e.Labels); err != nil {
		return err
	}
	return wantObject("input", e.Input)
}

func (e *ScheduleCommand) check([]byte) *Error { return nil }
