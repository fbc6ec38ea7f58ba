package bustest

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/nats-io/nats-server/v2/server/ats"
)

// envBubble names the one test that a process runs in a bubble.
const envBubble = "OPSCORE_TEST_BUBBLE"

// Bubble runs f in a bubble of [testing/synctest]: its clock stands while anybody in it works, and jumps to the next timer when all wait. A server that [Server]
// starts in it, and whatever connects to that with [Dial], live by this clock; so does an embedded store. What listens on a socket does not, and whoever waits for
// a mutex does not let the clock go on.
//
// The bubble has a process of its own, since the NATS client keeps timers of all its connections in one pool. There the test, or subtest, runs
// again from its beginning; what stands before and behind Bubble should be cheap.
func Bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if os.Getenv(envBubble) == t.Name() {
		// All NATS servers of a process share one goroutine, which no clock but the real one may drive.
		ats.Register()
		defer ats.Unregister()
		synctest.Test(t, f)
		return
	}
	parts := strings.Split(t.Name(), "/")
	for i := range parts {
		parts[i] = "^" + regexp.QuoteMeta(parts[i]) + "$"
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+strings.Join(parts, "/"), "-test.v")
	cmd.Env = append(os.Environ(), envBubble+"="+t.Name())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("in its bubble: %v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("in its bubble:\n%s", out)
	}
}
