//go:build long

package bridge_test

import (
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/bridge"
)

// The original lost 10 % of these requests.
func TestPausesOfFiveSecondsLoseNoRequest(t *testing.T) {
	b := &bundle{t: t}
	core := setup(t, nil)
	core.register("a1")
	br, err := bridge.New(core.config)
	if err != nil {
		t.Fatal(err)
	}
	b.listen(br)
	if answered, lost := b.pauses(200, 13, 5*time.Second); lost > 0 || answered != 200*13 {
		t.Errorf("%d answered, %d lost", answered, lost)
	}
}
