// Package bench measures Ops-Core on this machine and sets each figure beside a raw baseline of the same run. NATS, Redis with AOF everysec and the
// server run in processes of their own, anew for each benchmark; the agents and the clients are in this process.
package bench

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/cmd/loadgen/env"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/loadgen"
)

// Figure is one measured value and what it is to be compared with.
type Figure struct {
	Name     string  `json:"name"`
	Value    float64 `json:"value"`
	Unit     string  `json:"unit"`
	Ratio    float64 `json:"ratio,omitzero"`    // of the raw baseline of the same run
	Baseline string  `json:"baseline,omitzero"` // what the baseline is
	Goal     string  `json:"goal,omitzero"`
	Note     string  `json:"note,omitzero"`
}

// Report is what a run of benchmarks came to. Its JSON form is what `loadgen bench -o json` prints.
type Report struct {
	StartedAt time.Time       `json:"startedAt"`
	Machine   loadgen.Machine `json:"machine"`
	Commit    string          `json:"commit,omitzero"`
	Figures   []Figure        `json:"figures"`
}

// benchmarks in the order they run.
var benchmarks = []struct {
	name string
	run  func(context.Context, *lab) ([]Figure, error)
}{
	{"dev", benchDev},
	{"state", benchState},
	{"readable", benchReadable},
	{"runs", benchRuns},
	{"chain", benchChain},
	{"maps", benchMaps},
	{"timers", benchTimers},
	{"latency", benchLatency},
	{"http", benchHTTP},
	{"memory", benchMemory},
	{"beats", benchBeats},
	{"retention", benchRetention},
}

// Names lists the benchmarks in the order they run.
func Names() []string {
	names := make([]string, len(benchmarks))
	for i, b := range benchmarks {
		names[i] = b.name
	}
	return names
}

// Config says what to measure.
type Config struct {
	Only  []string // names of benchmarks; none means all
	Ended int      // runs that have ended, for the benchmark of their removal
}

// Run runs benchmarks one after the other, and says on progress which one runs. It stops at the first error, with the figures so far.
func Run(ctx context.Context, cfg Config, progress io.Writer) ([]Figure, error) {
	for _, name := range cfg.Only {
		if !slices.Contains(Names(), name) {
			return nil, fmt.Errorf("there is no benchmark %q, but %s", name, strings.Join(Names(), ", "))
		}
	}
	server.TuneMemory() // as the servers do
	env.ShareCores()
	var figures []Figure
	for _, b := range benchmarks {
		if len(cfg.Only) > 0 && !slices.Contains(cfg.Only, b.name) {
			continue
		}
		begin, machine := time.Now(), loadgen.WatchMachine()
		l := &lab{ended: cfg.Ended}
		got, err := b.run(ctx, l)
		l.close()
		line := fmt.Sprintf("%s: %.1f s", b.name, time.Since(begin).Seconds())
		if w := machine().StealWarning(); w != "" {
			line += "; " + w
		}
		_, _ = fmt.Fprintln(progress, line)
		if err != nil {
			return figures, fmt.Errorf("%s: %w", b.name, err)
		}
		figures = append(figures, got...)
	}
	return figures, nil
}

// Print writes figures as a table.
func Print(w io.Writer, figures []Figure) error {
	for _, f := range figures {
		line := fmt.Sprintf("%-50s %10s %-4s", f.Name, number(f.Value), f.Unit)
		if f.Ratio > 0 {
			line += fmt.Sprintf(" %5.1f %% of %s", 100*f.Ratio, f.Baseline)
		}
		if f.Goal != "" {
			line += "  goal: " + f.Goal
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " ")); err != nil {
			return err
		}
		if f.Note != "" {
			if _, err := fmt.Fprintf(w, "    %s\n", f.Note); err != nil {
				return err
			}
		}
	}
	return nil
}

// number shows three digits at least, and no more decimals than say something.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// lab is the servers of one benchmark. The zero lab has none.
type lab struct {
	env   *env.Env
	conn  *bus.Conn
	extra []*helper
	ended int // runs that have ended, of the benchmark that removes them
}

// start starts NATS, Redis and a server, and connects to the first.
func (l *lab) start(ctx context.Context) (err error) {
	if l.env, err = env.Start(ctx, env.Config{}); err != nil {
		return err
	}
	l.conn, err = l.dial(ctx)
	return err
}

func (l *lab) dial(ctx context.Context) (*bus.Conn, error) {
	return bus.Connect(ctx, bus.Config{URL: l.env.NATSURL, Name: "bench"})
}

func (l *lab) close() {
	if l.conn != nil {
		l.conn.Close()
	}
	for _, h := range l.extra {
		h.close()
	}
	if l.env != nil {
		_ = l.env.Close() // what is left is in a temporary folder
	}
}

// cpuTimes is the CPU time, in seconds, that processes have used, by name.
type cpuTimes map[string]float64

func (l *lab) cpu() cpuTimes {
	times := make(cpuTimes)
	for name, p := range l.env.Processes() {
		times[name] = p.CPUSeconds
	}
	return times
}

// since says what was used since an earlier look.
func (t cpuTimes) since(before cpuTimes) string {
	parts := make([]string, 0, len(t))
	for _, name := range []string{env.NATS, env.Redis, env.Replica(1), env.Self} {
		parts = append(parts, fmt.Sprintf("%s %.1f", name, t[name]-before[name]))
	}
	return strings.Join(parts, ", ")
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
