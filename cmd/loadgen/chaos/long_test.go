//go:build long

package chaos

import (
	"fmt"
	"testing"
	"time"

	"github.com/opspawn/opscore/cmd/loadgen/env"
	"github.com/opspawn/opscore/loadgen"
)

func TestThirtyFaults(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			breakIt(t, Config{Time: time.Minute, Replicas: 3, Seed: seed, Rate: 50, Wishes: []loadgen.Wish{
				{Kind: loadgen.FaultKill, Target: "engine", Count: 12},
				{Kind: loadgen.FaultKill, Target: env.NATS, Count: 4},
				{Kind: loadgen.FaultKill, Target: env.Redis, Count: 4},
				{Kind: loadgen.FaultFreeze, Target: "engine", Count: 3},
				{Kind: loadgen.FaultCut, Target: env.NATS, Count: 2},
				{Kind: loadgen.FaultCut, Target: env.Redis, Count: 2},
				{Kind: loadgen.FaultDropReplies, Target: env.Redis, Count: 1},
				{Kind: loadgen.FaultCrashPoint, Target: "engine", Count: 2},
			}})
		})
	}
}
