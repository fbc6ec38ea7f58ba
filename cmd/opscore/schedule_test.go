package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A member that nobody knows, such as a time zone of another spelling, would make a schedule tick at other times than is meant.
func TestAScheduleIsCheckedBeforeItIsSent(t *testing.T) {
	t.Parallel()
	p := newProgram(t, answers(t, map[string]string{
		"PUT /api/v1/schedules/nightly": `{"scheduleId":"nightly","workflowId":"w","cron":"0 3 * * *","paused":false,"started":0,"skipped":0,"missed":0}`,
	}))
	for _, c := range []struct {
		text   string
		code   int
		stderr string
	}{
		{"workflowId: w\ncron: 0 3 * * *\ntimezone: Europe/Paris\n", exitOK, `:3: warning: nobody knows "timezone", so it does nothing (did you mean "timeZone"?)`},
		{"workflowId: w\ncron: 0 3 * * *\ntimeZone: Europe/Paris\n", exitOK, ""},
		{"workflowId: w\ncron: 0 3 * * *\ntimeZone: Europe/Pari\n", exitFailure, `was not applied`},
		{"workflowId: w\ncron: [\n", exitFailure, `was not applied`},
	} {
		file := filepath.Join(t.TempDir(), "s.yaml")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got := p.run("schedule", "apply", "nightly", "-f", file)
		if got.code != c.code || !strings.Contains(got.stderr, c.stderr) || c.stderr == "" && got.stderr != "" {
			t.Errorf("%q: %+v", c.text, got)
		}
	}
}

// What was gone before is not said to be deleted now.
func TestAScheduleThatIsGoneIsSaidToBeGone(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		`{"scheduleId":"nightly","deleted":true}`:                "Deleted  nightly\n",
		`{"scheduleId":"nightly","deleted":true,"already":true}`: "Already gone  nightly\n",
	} {
		p := newProgram(t, answers(t, map[string]string{"DELETE /api/v1/schedules/nightly": answer}))
		if got := p.run("schedule", "delete", "nightly"); got.code != exitOK || got.stdout != want {
			t.Errorf("%s: %+v", answer, got)
		}
	}
}
