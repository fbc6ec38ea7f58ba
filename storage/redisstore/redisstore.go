package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/opspawn/opscore/storage"
)

// Timeout bounds every round trip, its retries included: a dead server is reported after it at the latest.
const Timeout = 2 * time.Second

// DefaultPrefix is the prefix of a URL that names none.
const DefaultPrefix = "opscore"

// schemeTLS is the URL scheme of connections over TLS.
const schemeTLS = "rediss"

var (
	// Driver opens "redis://[user:password@]host[:port][/db][?prefix=opscore]".
	Driver = storage.Driver{Scheme: "redis", Open: open}
	// DriverTLS opens the same with scheme "rediss", over TLS.
	DriverTLS = storage.Driver{Scheme: schemeTLS, Open: open}
)

// Store is a [storage.Store] in Redis.
type Store struct {
	client *redis.Client
	keys   keys
}

var _ storage.Store = (*Store)(nil)

func open(ctx context.Context, u *url.URL) (storage.Store, error) { return Open(ctx, u) }

// Open connects to the Redis a URL names (see [Driver]) and loads the function library. It returns an error if the
// URL has a mistake, if the server does not answer within [Timeout], or if it is older than Redis 7.0.
func Open(ctx context.Context, u *url.URL) (*Store, error) {
	options, prefix, err := parse(u)
	if err != nil {
		return nil, fmt.Errorf("storage URL %q: %w", u.Redacted(), err)
	}
	routeLog()
	s := &Store{client: redis.NewClient(options), keys: newKeys(prefix)}
	if err := s.prepare(ctx); err != nil {
		_ = s.client.Close()
		return nil, fmt.Errorf("open redis at %s: %w", options.Addr, err)
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
	ctx, cancel := context.WithTimeout(ctx, Timeout)
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

// parse returns the client options and the key prefix of a URL.
func parse(u *url.URL) (*redis.Options, string, error) {
	if u.Hostname() == "" {
		return nil, "", errors.New("it names no host")
	}
	query, prefix := u.Query(), DefaultPrefix
	for name, values := range query {
		if name != "prefix" || len(values) != 1 {
			return nil, "", fmt.Errorf("parameter %q: the only one is prefix, once", name)
		}
		prefix = values[0]
	}
	if prefix == "" || strings.ContainsAny(prefix, "{}") {
		return nil, "", fmt.Errorf("prefix %q is empty or holds a brace", prefix)
	}
	db := 0
	if path := strings.Trim(u.Path, "/"); path != "" {
		n, err := strconv.Atoi(path)
		if err != nil || n < 0 {
			return nil, "", fmt.Errorf("database %q is not a number", path)
		}
		db = n
	}
	port := u.Port()
	if port == "" {
		port = "6379"
	}
	o := clientOptions()
	o.Addr = net.JoinHostPort(u.Hostname(), port)
	o.DB = db
	if u.User != nil {
		o.Username = u.User.Username()
		o.Password, _ = u.User.Password()
	}
	if u.Scheme == schemeTLS {
		o.TLSConfig = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	}
	return o, prefix, nil
}

// clientOptions returns the options that do not depend on the URL. A few retries stay on, as all we send may be
// executed twice, but the single steps are short enough to fit more than one into [Timeout].
func clientOptions() *redis.Options {
	return &redis.Options{
		ContextTimeoutEnabled: true, // off by default: deadlines would not reach the socket
		DialTimeout:           time.Second,
		DialerRetries:         1, // the retries of commands dial again
		ReadTimeout:           Timeout,
		WriteTimeout:          Timeout,
		PoolTimeout:           Timeout,
		MaxRetries:            2,
		MinRetryBackoff:       10 * time.Millisecond,
		MaxRetryBackoff:       200 * time.Millisecond,
		PoolSize:              8,
		PipelinePoolSize:      8,
		// Redis 7.0 and Valkey do not know the handshake; it would fail on every new connection.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
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
