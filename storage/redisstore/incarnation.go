package redisstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/opspawn/opscore/storage"
)

// Incarnation returns the run id of the server, followed by a mark if the content was replaced: another one after a restart, a fail-over or a Replace, by
// which a caller knows that the last writes may be missing. It fails when the server does not answer, and while the store is held.
func (s *Store) Incarnation(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	info, err := s.client.Info(ctx, "server").Result()
	if err != nil {
		return "", fmt.Errorf("redis: info: %w", err)
	}
	fence, err := s.fence(ctx)
	if err != nil {
		return "", err
	}
	if reason, ok := heldBy(fence); ok {
		return "", fmt.Errorf("%w: %s", storage.ErrHeld, reason)
	}
	if id := fieldsOf(info)["run_id"]; id != "" {
		return id + fence, nil
	}
	return "", nil
}

func (s *Store) fence(ctx context.Context) (string, error) {
	fence, err := s.client.Get(ctx, s.keys.fence).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", fmt.Errorf("redis: read the fence: %w", err)
	}
	return fence, nil
}

// Accept lets Txns reach no other incarnation than this one. The server itself compares, so that one which was sent again over a new connection, to a
// server that was started again, is not executed there.
func (s *Store) Accept(incarnation string) { s.accepted.Store(&incarnation) }
