package redisstore

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	// DefaultPrefix is the prefix of a URL that names none.
	DefaultPrefix = "opscore"
	// DefaultTimeout is the timeout of a URL that names none. It bounds every round trip, its retries included: a dead
	// server is reported after it at the latest.
	DefaultTimeout = 2 * time.Second
	// minTimeout leaves room for one retry over a network.
	minTimeout = 100 * time.Millisecond
	// schemeTLS is the URL scheme of connections over TLS.
	schemeTLS = "rediss"
)

// config is what a URL says.
type config struct {
	addr    string
	db      int
	user    *url.Userinfo
	tls     *tls.Config // nil without TLS
	prefix  string
	timeout time.Duration
}

// parse reads a URL.
func parse(u *url.URL) (*config, error) {
	if u.Hostname() == "" {
		return nil, errors.New("it names no host")
	}
	port := u.Port()
	if port == "" {
		port = "6379"
	}
	c := &config{
		addr: net.JoinHostPort(u.Hostname(), port), user: u.User, prefix: DefaultPrefix, timeout: DefaultTimeout,
	}
	if u.Scheme == schemeTLS {
		c.tls = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	}
	if path := strings.Trim(u.Path, "/"); path != "" {
		db, err := strconv.Atoi(path)
		if err != nil || db < 0 {
			return nil, fmt.Errorf("database %q is not a number", path)
		}
		c.db = db
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, err
	}
	for name, values := range query {
		if len(values) != 1 {
			return nil, fmt.Errorf("parameter %q stands there %d times", name, len(values))
		}
		if err := c.parameter(name, values[0]); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// parameter reads one parameter of a URL.
func (c *config) parameter(name, value string) error {
	switch name {
	case "prefix":
		if value == "" || strings.ContainsAny(value, "{}") {
			return fmt.Errorf("prefix %q is empty or holds a brace", value)
		}
		c.prefix = value
	case "timeout":
		timeout, err := time.ParseDuration(value)
		if err != nil || timeout < minTimeout {
			return fmt.Errorf("timeout %q is not a duration of at least %v", value, minTimeout)
		}
		c.timeout = timeout
	default:
		return fmt.Errorf("unknown parameter %q, use prefix or timeout", name)
	}
	return nil
}

// options returns the options of the client. A few retries stay on, as all we send may be executed twice; the context
// of each round trip bounds them together.
func (c *config) options() *redis.Options {
	o := &redis.Options{
		Addr:      c.addr,
		DB:        c.db,
		TLSConfig: c.tls,
		Protocol:  2, // with 3, the client looks for pushed messages before each answer, and nothing here asks for any

		ContextTimeoutEnabled: true, // off by default: deadlines would not reach the socket
		DialTimeout:           min(time.Second, c.timeout),
		DialerRetries:         1, // the retries of commands dial again
		ReadTimeout:           c.timeout,
		WriteTimeout:          c.timeout,
		PoolTimeout:           c.timeout,
		MaxRetries:            2,
		MinRetryBackoff:       10 * time.Millisecond,
		MaxRetryBackoff:       200 * time.Millisecond,
		PoolSize:              8,
		PipelinePoolSize:      8,
		// Redis 7.0 and Valkey do not know the handshake; it would fail on every new connection.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if c.user != nil {
		o.Username = c.user.Username()
		o.Password, _ = c.user.Password()
	}
	return o
}
