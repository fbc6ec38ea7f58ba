package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/cmd/opscore/doctor"
)

// envNATSMonitor names the monitoring address of the NATS server.
const envNATSMonitor = "NATS_MONITOR_URL"

// errUnhealthy says that something fails; the report says what.
var errUnhealthy = errors.New("something fails: see the lines that say so")

// newDoctorCommand makes "opscore doctor".
func newDoctorCommand(a *app) *cobra.Command {
	var natsURL, monitorURL, redisURL string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check the servers that Ops-Core runs on, and say what to do",
		Long: `doctor looks at a replica, at NATS and at Redis, changes nothing, and says of each setting whether it is ok, may be a problem one
day (warn), or is one (fail), and what to do. It ends with 1 when something fails.

It connects to NATS and Redis itself. A replica of "opscore dev" tells where its own NATS is, and that it needs no Redis. While a replica does not tell how
it is set up, for want of the key, only servers that were named are looked at: those on this machine may be of something else.`,
		Example: "  opscore doctor\n  opscore doctor -o json --nats-url nats://nats:4222 --redis-url redis://redis:6379/0",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client() // checks the URL
			if err != nil {
				return err
			}
			facts := doctor.Gather(cmd.Context(), doctor.Targets{
				Server: c.base, Key: c.key, NATS: a.orEnv(natsURL, envNATS, ""), NATSMonitor: a.orEnv(monitorURL, envNATSMonitor, ""),
				Redis: a.orEnv(redisURL, envRedis, ""),
			})
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			findings := doctor.Judge(facts)
			if err := a.print(report{OK: doctor.Healthy(findings), Checks: findings}, func(p *sheet) { showFindings(p, findings) }); err != nil {
				return err
			}
			if !doctor.Healthy(findings) {
				return errUnhealthy
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&natsURL, "nats-url", "", "`URL` of the NATS server (default: NATS_URL, or what the replica names)")
	cmd.Flags().StringVar(&monitorURL, "nats-monitor", "", "`URL` of its monitoring (default: NATS_MONITOR_URL, or port 8222 of its host)")
	cmd.Flags().StringVar(&redisURL, "redis-url", "", "`URL` of the Redis server (default: REDIS_URL, or "+defaultRedis+")")
	return cmd
}

// report is what doctor prints as JSON.
type report struct {
	OK     bool             `json:"ok"`
	Checks []doctor.Finding `json:"checks"`
}

func showFindings(p *sheet, findings []doctor.Finding) {
	colors := map[doctor.Level]color{doctor.OK: colorGood, doctor.Warn: colorWarn, doctor.Fail: colorBad}
	rows := make([][]cell, 0, len(findings))
	for _, f := range findings {
		rows = append(rows, []cell{text(string(f.Level)).in(colors[f.Level]), text(f.Check), text(f.Found)})
		if f.Advice != "" {
			rows = append(rows, []cell{{}, {}, text("→ " + f.Advice).in(colorFaint)})
		}
	}
	p.rows(newTable("", "CHECK", "FOUND"), rows, true)
}
