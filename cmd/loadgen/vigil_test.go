package main

import (
	"strings"
	"testing"
)

func TestVigilRefusesWhatMakesNoSense(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"kill-agents --kill 0", "--kill"},
		{"kill-agents --agents 10 --kill 6", "--kill"},
		{"kill-agents --agents 2000", "--agents"},
		{"kill-agents --replicas 0", "--replicas"},
		{"kill-agents -o xml", "--output"},
		{"outage", "--target"},
		{"outage --target moon", "moon"},
		{"outage --target nats --how politely", "politely"},
		{"outage --target nats --for 10ms", "--for"},
		{"outage nats", "nats"},
	} {
		code, _, stderr := command(t, strings.Fields(c.args)...)
		if code != exitUsage || !strings.Contains(stderr, c.says) {
			t.Errorf("%s: exit code %d, %s", c.args, code, stderr)
		}
	}
}
