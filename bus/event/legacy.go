package event

import (
	"strconv"
	"strings"
)

// LegacyID returns the name by which an agent that knows no attempts is told of one: the `opscore_task_id` that it repeats in the details
// of its states. It is the tokens of run and task and the number of the attempt, joined by dots: "run.task.1". It leaves the token
// of the attempt out, because such agents write the id to logs and pass it on. LegacyID panics if run or task have no token ([Token]);
// those of an attempt that was assigned have.
func (r AttemptRef) LegacyID() string {
	return MustToken(r.RunID) + "." + MustToken(r.TaskID) + "." + strconv.Itoa(r.Attempt)
}

// ParseLegacyID returns the attempt, without its token, that a [AttemptRef.LegacyID] names. It fails with CodeInvalid for any other text.
func ParseLegacyID(s string) (AttemptRef, error) {
	parts := strings.SplitN(s, ".", 4)
	if len(parts) != 3 {
		return AttemptRef{}, Errorf(CodeInvalid, "the task id %q is not <run>.<task>.<attempt>", s)
	}
	run, err := ParseToken(parts[0])
	if err != nil {
		return AttemptRef{}, err
	}
	task, err := ParseToken(parts[1])
	if err != nil {
		return AttemptRef{}, err
	}
	attempt, err := strconv.Atoi(parts[2])
	if err != nil || attempt < 1 || strconv.Itoa(attempt) != parts[2] {
		return AttemptRef{}, Errorf(CodeInvalid, "the attempt %q of task id %q is not a whole number from 1", parts[2], s)
	}
	return AttemptRef{RunID: run, TaskID: task, Attempt: attempt}, nil
}
