package lifecycle

import (
	"context"
	"fmt"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
)

const (
	tidyPeriod  = time.Minute
	keepWork    = time.Hour // how far back a store that regressed can be healed from OPSCORE_WORK
	tidyAbove   = 70        // percent of a stream's MaxBytes
	tidySamples = int(keepWork/tidyPeriod) + 1
)

// janitor keeps the intake streams from filling up. It purges only what the store has taken in. OPSCORE_WORK keeps an hour behind that. OPSCORE_AGENT
// is bounded by its depth per subject, and keeps the last word of every agent, from which an empty store is healed; only above
// 70 percent of its size the oldest third goes, as in OPSCORE_WORK.
type janitor struct {
	at      time.Time
	samples []uint64 // positions of OPSCORE_WORK, one a minute, oldest first
}

func (j *janitor) tidy(ctx context.Context, conn *bus.Conn, views []*streamView, now time.Time) error {
	if now.Sub(j.at) < tidyPeriod {
		return nil
	}
	j.at = now
	for _, v := range views {
		below := j.keepFrom(v)
		if below <= v.state.FirstSeq {
			continue
		}
		if err := conn.Purge(ctx, v.name, below); err != nil {
			return fmt.Errorf("tidy stream: %w", err)
		}
	}
	return nil
}

// keepFrom returns the sequence below which a stream can go.
func (j *janitor) keepFrom(v *streamView) uint64 {
	below := uint64(0)
	if v.name == event.StreamWork {
		j.samples = append(j.samples, v.pos.Seq)
		if len(j.samples) > tidySamples {
			j.samples = j.samples[1:]
			below = j.samples[0] + 1
		}
	}
	if v.state.MaxBytes > 0 && v.state.Bytes > v.state.MaxBytes/100*tidyAbove {
		third := v.state.FirstSeq + (v.state.LastSeq-v.state.FirstSeq)/3
		below = max(below, third)
	}
	return min(below, v.pos.Seq+1)
}
