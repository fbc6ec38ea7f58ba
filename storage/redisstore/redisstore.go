package redisstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/opspawn/opscore/storage"
)

var (
	// Driver opens "redis://[user:password@]host[:port][/db][?prefix=opscore&timeout=2s]".
	Driver = storage.Driver{Scheme: "redis", Open: open}
	// DriverTLS opens the same with scheme "rediss", over TLS.
	DriverTLS = storage.Driver{Scheme: schemeTLS, Open: open}
)

// Store is a [storage.Store] in Redis.
type Store struct {
	client  *redis.Client
	keys    keys
	timeout time.Duration // of a round trip, with retries

	accepted atomic.Pointer[string] // the incarnation that writes are for, "" for any; never nil
}

var (
	_ storage.Store      = (*Store)(nil)
	_ storage.Incarnated = (*Store)(nil)
)

// open is Open without the trap of a nil pointer in an interface.
func open(ctx context.Context, u *url.URL) (storage.Store, error) {
	s, err := Open(ctx, u)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Open connects to the Redis a URL names (see [Driver]) and loads the function library. It returns an error if the
// URL has a mistake, if the server does not answer within its timeout, or if it is older than Redis 7.0.
func Open(ctx context.Context, u *url.URL) (*Store, error) {
	c, err := parse(u)
	if err != nil {
		return nil, fmt.Errorf("storage URL %q: %w", u.Redacted(), err)
	}
	routeLog()
	s := &Store{client: redis.NewClient(c.options()), keys: newKeys(c.prefix), timeout: c.timeout}
	s.Accept("")
	if err := s.prepare(ctx); err != nil {
		_ = s.client.Close()
		return nil, fmt.Errorf("open redis at %s: %w", c.addr, err)
	}
	return s, nil
}

// Close closes the connections. Calls after Close fail.
func (s *Store) Close() error {
	if err := s.client.Close(); err != nil {
		return fmt.Errorf("close redis: %w", err)
	}
	return nil
}

// prepare checks the server and loads the library. It asks for the version rather than for a PING: a server that
// cannot write its disk refuses PING with an answer that says nothing of what it can do.
func (s *Store) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	info, err := s.client.Info(ctx, "server").Result()
	if err != nil {
		return fmt.Errorf("ask for its version: %w", err)
	}
	if err := checkVersion(info); err != nil {
		return err
	}
	return s.load(ctx)
}

// checkVersion reads the answer of INFO. Valkey names the Redis version it is compatible with in the same field.
func checkVersion(info string) error {
	for line := range strings.Lines(info) {
		version, found := strings.CutPrefix(strings.TrimSpace(line), "redis_version:")
		if !found {
			continue
		}
		major, _, _ := strings.Cut(version, ".")
		if n, err := strconv.Atoi(major); err != nil || n < 7 {
			return fmt.Errorf("it is version %s, use Redis 7.0 or newer, or Valkey", version)
		}
		return nil
	}
	return errors.New("it does not tell its version")
}

// isAnswer reports whether err is what the server answered, rather than a failure to get an answer.
func isAnswer(err error) bool {
	var answer redis.Error
	return errors.As(err, &answer)
}

// routeLog sends what the client library logs, which is global to the process, to slog at level debug: all that
// matters reaches the caller as an error too.
var routeLog = sync.OnceFunc(func() { redis.SetLogger(debugLog{}) })

type debugLog struct{}

// Printf implements the logger of go-redis.
func (debugLog) Printf(ctx context.Context, format string, args ...any) {
	if log := slog.Default(); log.Enabled(ctx, slog.LevelDebug) {
		log.DebugContext(ctx, fmt.Sprintf(format, args...), "component", "go-redis")
	}
}
