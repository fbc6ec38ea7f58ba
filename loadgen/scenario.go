package loadgen

import (
	"fmt"
	"slices"
	"time"
)

// Scenario is a load as data: how many users there are when, what each does, and which agents of ours work. It is what a YAML file
// holds and what [Parse] returns; nothing in it depends on a server.
type Scenario struct {
	Name        string `yaml:"name"`
	Description string `yaml:"description,omitempty"`

	// Users, started SpawnRate a second, run for RunTime. Stages say the same of ramps with several steps; only one of the two is given.
	Users     int           `yaml:"users,omitempty"`
	SpawnRate float64       `yaml:"spawnRate,omitempty"` // users a second; 0 starts all at once
	RunTime   time.Duration `yaml:"runTime,omitempty"`   // from the first user's start; may cut Stages short
	Stages    []Stage       `yaml:"stages,omitempty"`

	// Rate makes the load an open one: so many tasks a second, whatever becomes of them, spread over the users. Pause must be absent.
	Rate float64 `yaml:"rate,omitempty"`

	Pause        Span           `yaml:"pause,omitempty"` // between two tasks of a user; absent: none
	IDs          IDs            `yaml:"ids,omitempty"`
	Capabilities []string       `yaml:"capabilities,omitempty,flow"` // of the users, which are agents that only talk
	Metadata     map[string]any `yaml:"metadata,omitempty"`          // of their registrations, beside load_test_user

	OnStart []Step `yaml:"onStart,omitempty"` // what a user does before its first task
	Tasks   []Step `yaml:"tasks"`             // one is chosen by weight after each pause

	Definition map[string]any `yaml:"definition,omitempty"` // of a workflow: stored before the load unless steps carry it inline
	Agents     *Agents        `yaml:"agents,omitempty"`     // of ours, which take tasks
	Reconnect  *Reconnect     `yaml:"reconnect,omitempty"`
	Stop       *Stop          `yaml:"stop,omitempty"`

	// RunsEnd is when each run must have ended, counted from the end of the load. Runs of the old API that nobody works on end by the server's limit for
	// them, which servers of our own are given: the same time.
	RunsEnd time.Duration `yaml:"runsEnd,omitempty"`
}

// Stage changes the number of users, evenly over a time, and keeps it for another.
type Stage struct {
	Users int           `yaml:"users,omitempty"` // to come to
	Add   int           `yaml:"add,omitempty"`   // instead of Users: so many more than before
	Over  time.Duration `yaml:"over,omitempty"`  // 0: all at once
	Hold  time.Duration `yaml:"hold,omitempty"`
	Times int           `yaml:"times,omitempty"` // repeats the stage; 0 is once
}

// Span is a time between Min and Max, evenly distributed. The same value twice is a constant.
type Span struct {
	Min time.Duration `yaml:"min"`
	Max time.Duration `yaml:"max"`
}

// IsZero reports whether there is no time at all.
func (s Span) IsZero() bool { return s == Span{} }

// Mean returns the expected time.
func (s Span) Mean() time.Duration { return (s.Min + s.Max) / 2 }

// IDs says what users are called: Prefix and a random number between From and To, a random UUID, or else the number of the user.
// Random numbers may collide, as those of the original scripts do: two users are then one agent.
type IDs struct {
	Prefix string `yaml:"prefix,omitempty"`
	From   int    `yaml:"from,omitempty"`
	To     int    `yaml:"to,omitempty"`
	UUID   bool   `yaml:"uuid,omitempty"`
}

// Op is what a step does.
type Op string

// The operations.
const (
	OpRegister   Op = "register"
	OpDeregister Op = "deregister"
	OpPostState  Op = "post-state"  // one of idle, active, error and finished, at random
	OpGetState   Op = "get-state"   // of itself
	OpTrigger    Op = "trigger"     // a run whose first task goes to the user itself, by the old route
	OpStartRun   Op = "start-run"   // a run whose tasks go to whichever agent can do them
	OpAwaitState Op = "await-state" // get-state until it is there
	OpWait       Op = "wait"
)

var ops = []Op{OpRegister, OpDeregister, OpPostState, OpGetState, OpTrigger, OpStartRun, OpAwaitState, OpWait}

// Step is one thing a user does.
type Step struct {
	Op     Op  `yaml:"op"`
	Weight int `yaml:"weight,omitempty"` // of a task: how often it is chosen, against the others; 0 is 1

	NoKey    bool           `yaml:"noKey,omitempty"`    // no Authorization header
	Workflow string         `yaml:"workflow,omitempty"` // of trigger and start-run: the id of a stored definition
	Inline   bool           `yaml:"inline,omitempty"`   // of trigger and start-run: sends the scenario's definition along instead
	Context  map[string]any `yaml:"context,omitempty"`  // of trigger: a member that the server does not know, beside load_test and user

	For          time.Duration `yaml:"for,omitempty"`          // of wait
	Every        time.Duration `yaml:"every,omitempty"`        // of await-state: between two tries
	Within       time.Duration `yaml:"within,omitempty"`       // of await-state: later is a failure
	AllowMissing bool          `yaml:"allowMissing,omitempty"` // of await-state: 404 is no failure until then
}

// Agents are agents of the load generator itself, with the SDK over NATS: they take tasks and complete them.
type Agents struct {
	Count      int           `yaml:"count"`
	Slots      int           `yaml:"slots,omitempty"` // of each; 0 is 1
	Work       time.Duration `yaml:"work,omitempty"`  // that a task takes
	Capability string        `yaml:"capability"`

	// Life, if given, ends each agent after such a time; it comes back after Away under the same id. The share Vanish of them
	// (0 to 1) goes without a word, the others drain and deregister.
	Life   Span    `yaml:"life,omitempty"`
	Away   Span    `yaml:"away,omitempty"`
	Vanish float64 `yaml:"vanish,omitempty"`
}

// Reconnect makes all users drop their connections and do OnStart again, all at the same moment.
type Reconnect struct {
	Every time.Duration `yaml:"every"`
	Times int           `yaml:"times"`
}

// Stop ends a run before its time when it has become too slow or failed too often over the last half minute.
type Stop struct {
	MeanMs   float64 `yaml:"meanMs,omitempty"`   // of any operation, from the intended time
	P99Ms    float64 `yaml:"p99Ms,omitempty"`    // of any operation, from the intended time
	Failures float64 `yaml:"failures,omitempty"` // share of all requests, as 0.05
}

// definitionID returns the id of the scenario's own definition, empty if it has none.
func (s *Scenario) definitionID() string {
	id, _ := s.Definition["id"].(string)
	return id
}

// storesDefinition reports whether a step names the scenario's definition by its id, so that it must be stored before.
func (s *Scenario) storesDefinition() bool {
	id := s.definitionID()
	named := func(t Step) bool { return t.Workflow != "" && t.Workflow == id }
	return slices.ContainsFunc(s.Tasks, named) || slices.ContainsFunc(s.OnStart, named)
}

// fault is what is wrong with a scenario, and where: path is that of a YAML document, as "$.tasks[1].weight".
type fault struct {
	path string
	text string
}

func (f *fault) Error() string { return fmt.Sprintf("%s: %s", f.path[min(2, len(f.path)):], f.text) }

func faultf(path, format string, args ...any) error {
	return &fault{path: path, text: fmt.Sprintf(format, args...)}
}

// Check says what is wrong with a scenario and what to do about it; the first fault only.
func (s *Scenario) Check() error {
	for _, check := range []func() error{s.checkUsers, s.checkLoad, s.checkSteps, s.checkAgents} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Scenario) checkUsers() error {
	switch {
	case s.Name == "":
		return faultf("$", "a scenario needs a name")
	case len(s.Stages) > 0 && (s.Users != 0 || s.SpawnRate != 0):
		return faultf("$.stages", "give either stages, or users and spawnRate")
	case len(s.Stages) == 0 && s.Users < 1:
		return faultf("$", "give users (at least 1), or stages")
	case len(s.Stages) == 0 && s.RunTime <= 0:
		return faultf("$", "give a runTime, for example 5m")
	case s.Users < 0 || s.SpawnRate < 0 || s.RunTime < 0:
		return faultf("$", "users, spawnRate and runTime must not be negative")
	}
	users := 0
	for i, stage := range s.Stages {
		path := fmt.Sprintf("$.stages[%d]", i)
		switch {
		case stage.Users != 0 && stage.Add != 0:
			return faultf(path, "give either users or add")
		case stage.Users == 0 && stage.Add == 0 && stage.Hold == 0:
			return faultf(path, "give users, add or hold")
		case stage.Over < 0 || stage.Hold < 0 || stage.Times < 0 || stage.Add < 0:
			return faultf(path, "nothing of a stage may be negative")
		case stage.Users != 0 && stage.Users < users:
			return faultf(path+".users", "there are %d users already, and stages only add to them", users)
		}
		users = stage.after(users)
	}
	if users == 0 && len(s.Stages) > 0 {
		return faultf("$.stages", "the stages come to no user at all")
	}
	if peak := s.Peak(); peak > maxUsers {
		return faultf("$", "%d users are more than the %d that one process carries", peak, maxUsers)
	}
	return nil
}

// maxUsers keeps a slip of the finger from taking all memory.
const maxUsers = 100_000

func (s *Scenario) checkLoad() error {
	if err := checkSpan("$.pause", s.Pause); err != nil {
		return err
	}
	switch {
	case s.RunsEnd < 0:
		return faultf("$.runsEnd", "the time must not be negative")
	case s.Rate < 0:
		return faultf("$.rate", "the rate must not be negative")
	case s.Rate > 0 && !s.Pause.IsZero():
		return faultf("$.pause", "with a rate the tasks come at their times; leave pause out")
	case s.IDs.From < 0 || s.IDs.To < s.IDs.From:
		return faultf("$.ids", "from must not be negative, and to not less than from")
	case s.IDs.UUID && s.IDs.To != 0:
		return faultf("$.ids", "give either uuid, or from and to")
	case s.Reconnect != nil && (s.Reconnect.Every <= 0 || s.Reconnect.Times < 1):
		return faultf("$.reconnect", "give every (a time) and times (at least 1)")
	case s.Stop != nil && (s.Stop.MeanMs < 0 || s.Stop.P99Ms < 0 || s.Stop.Failures < 0 || s.Stop.Failures > 1):
		return faultf("$.stop", "meanMs and p99Ms must not be negative, failures lies between 0 and 1")
	}
	return nil
}

func checkSpan(path string, s Span) error {
	if s.Min < 0 || s.Max < s.Min {
		return faultf(path, "min must not be negative, and max not less than min")
	}
	return nil
}

func (s *Scenario) checkSteps() error {
	if len(s.Tasks) == 0 {
		return faultf("$", "give tasks: what the users do")
	}
	for i := range s.OnStart {
		if err := s.checkStep(fmt.Sprintf("$.onStart[%d]", i), &s.OnStart[i]); err != nil {
			return err
		}
	}
	for i := range s.Tasks {
		if err := s.checkStep(fmt.Sprintf("$.tasks[%d]", i), &s.Tasks[i]); err != nil {
			return err
		}
	}
	if len(s.Definition) > 0 && s.definitionID() == "" {
		return faultf("$.definition", "a definition needs an id")
	}
	return nil
}

func (s *Scenario) checkStep(path string, t *Step) error {
	starts := t.Op == OpTrigger || t.Op == OpStartRun
	switch {
	case !slices.Contains(ops, t.Op):
		return faultf(path+".op", "there is no op %q; use one of %v", t.Op, ops)
	case t.Weight < 0:
		return faultf(path+".weight", "a weight must not be negative")
	case t.Op == OpWait && t.For <= 0:
		return faultf(path, "wait needs for, a time")
	case t.Op == OpAwaitState && (t.Every <= 0 || t.Within <= 0):
		return faultf(path, "await-state needs every and within, two times")
	case starts && (t.Workflow == "") == !t.Inline:
		return faultf(path, "%s needs either workflow, an id, or inline: true", t.Op)
	case t.Inline && len(s.Definition) == 0:
		return faultf(path+".inline", "the scenario has no definition to send along")
	case !starts && (t.Workflow != "" || t.Inline):
		return faultf(path, "workflow and inline are for %s and %s", OpTrigger, OpStartRun)
	}
	return nil
}

func (s *Scenario) checkAgents() error {
	a := s.Agents
	if a == nil {
		return nil
	}
	for path, span := range map[string]Span{"$.agents.life": a.Life, "$.agents.away": a.Away} {
		if err := checkSpan(path, span); err != nil {
			return err
		}
	}
	switch {
	case a.Count < 1 || a.Count > maxUsers:
		return faultf("$.agents.count", "give between 1 and %d agents", maxUsers)
	case a.Slots < 0 || a.Work < 0:
		return faultf("$.agents", "slots and work must not be negative")
	case a.Capability == "":
		return faultf("$.agents", "agents need a capability")
	case a.Vanish < 0 || a.Vanish > 1:
		return faultf("$.agents.vanish", "vanish is a share between 0 and 1")
	}
	return nil
}
