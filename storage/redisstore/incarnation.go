package redisstore

import (
	"context"
	"fmt"
	"strings"
)

// Incarnation names the running server: another name after a restart or a fail-over, by which a caller knows that the last writes may be
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
