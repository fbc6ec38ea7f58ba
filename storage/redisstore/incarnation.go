package redisstore

import (
	"context"
	"fmt"
	"strings"
)

// Incarnation returns the run id of the server: another one after a restart or a fail-over, by which a caller knows that the last writes may be
// missing. It fails when the server does not answer.
func (s *Store) Incarnation(ctx context.Context) (string, error) {
	info, err := s.client.Info(ctx, "server").Result()
	if err != nil {
		return "", fmt.Errorf("redis: info: %w", err)
	}
	for line := range strings.Lines(info) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), ":"); name == "run_id" {
			return value, nil
		}
	}
	return "", nil
}

// Accept lets Txns reach no other server than the one of this run id. The server itself compares, so that one which was sent again over a new
// connection, to a server that was started again, is not executed there.
func (s *Store) Accept(incarnation string) { s.accepted.Store(&incarnation) }
