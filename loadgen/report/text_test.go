package report

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/opspawn/opscore/loadgen"
)

func asText(t *testing.T, r *loadgen.Result, colour bool) string {
	t.Helper()
	var b bytes.Buffer
	if err := Text(&b, r, colour); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTextFitsATerminal(t *testing.T) {
	r := fixture(300)
	r.Verdict.Logs = nil // they are shown as they are
	r.Operations["POST "+strings.Repeat("very/", 30)] = operation(9_999_999, 9_999_999, 12_345)
	r.Verdict.Cause = strings.Repeat("long", 60) + " and words"
	text := asText(t, r, false)
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > textWidth {
			t.Errorf("%d columns, want at most %d: %s", n, textWidth, line)
		}
	}
	for _, want := range []string{
		"FAILED: 67 of 28,412 requests failed", "Likely cause:", "POST state", "503", "the store does not answer", "not clean", "opscore-1", "start → agent",
		"crossed  failed<0.1%", "never confirmed a cancel: agent-0184", "scenario-3 over http, seed 42, 5:00, 300 users at most",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("nothing says %q in\n%s", want, text)
		}
	}
	t.Log("\n" + text)
}

func TestTextHasColoursOnlyIfAsked(t *testing.T) {
	r := fixture(60)
	r.Errors[0].Detail = "\x1b[2Jcleared\u202e"
	plain, coloured := asText(t, r, false), asText(t, r, true)
	if strings.ContainsAny(plain, "\x1b\u202e") {
		t.Errorf("a plain report holds escape sequences:\n%q", plain)
	}
	if !strings.Contains(coloured, "\x1b[1;31mFAILED: ") || strings.Contains(coloured, "\x1b[2J") {
		t.Errorf("the verdict has no colour, or a server's answer has one:\n%q", coloured)
	}
}

func TestTextOfAQuietRunIsShort(t *testing.T) {
	text := asText(t, quiet(), false)
	for _, part := range []string{"Errors", "Ledger", "Processes", "Thresholds", "Faults", "Likely cause"} {
		if strings.Contains(text, part) {
			t.Errorf("%s are shown, and there is nothing to show:\n%s", part, text)
		}
	}
}

// full is a disk without room.
type full struct{}

var errFull = errors.New("no space left on device")

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestReportsSayThatTheyCouldNotBeWritten(t *testing.T) {
	r := quiet()
	for name, err := range map[string]error{"HTML": HTML(full{}, r), "text": Text(full{}, r, false)} {
		if !errors.Is(err, errFull) {
			t.Errorf("%s: %v, want %v", name, err, errFull)
		}
	}
}
