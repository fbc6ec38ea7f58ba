package redisstore

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Report is what a look at a Redis server has found. What the server does not tell, as hosted ones may refuse to, is left empty.
type Report struct {
	Info        map[string]string // fields of INFO; nil when it is refused
	InfoErr     error
	Fsync       string // appendfsync; empty when CONFIG GET is refused
	RewriteFrom int64  // auto-aof-rewrite-min-size, bytes; likewise 0
	Ahead       time.Duration
	RoundTrip   time.Duration
	HasLibrary  bool // the function library of Ops-Core is loaded
}

// Inspect looks at the server that a URL names (see [Driver]) without changing anything. It fails if the URL has a mistake or the server does not answer; a
// server that answers but refuses some of the questions is no failure.
func Inspect(ctx context.Context, u *url.URL) (*Report, error) {
	c, err := parse(u)
	if err != nil {
		return nil, fmt.Errorf("storage URL %q: %w", u.Redacted(), err)
	}
	routeLog()
	client := redis.NewClient(c.options())
	defer func() { _ = client.Close() }() // nothing was written
	keys := newKeys(c.prefix)
	var r Report
	if err := client.Ping(ctx).Err(); err != nil && !isAnswer(err) {
		return nil, fmt.Errorf("redis at %s: %w", c.addr, err)
	}
	asked := time.Now()
	now, err := client.Time(ctx).Result()
	if err != nil {
		return nil, fmt.Errorf("redis at %s: ask for the time: %w", c.addr, err)
	}
	r.RoundTrip = time.Since(asked)
	r.Ahead = now.Sub(asked.Add(r.RoundTrip / 2))
	info, err := client.Info(ctx).Result()
	if err == nil {
		r.Info = fieldsOf(info)
	}
	r.InfoErr = err
	r.Fsync = setting(ctx, client, "appendfsync")
	r.RewriteFrom = number(setting(ctx, client, "auto-aof-rewrite-min-size"))
	r.HasLibrary = client.FCallRO(ctx, functionRange, []string{keys.index("doctor")}, 0, "", 0, 1).Err() == nil
	return &r, nil
}

// setting asks for one setting. It is empty when the server refuses to tell.
func setting(ctx context.Context, client *redis.Client, name string) string {
	settings, err := client.ConfigGet(ctx, name).Result()
	if err != nil {
		return ""
	}
	return settings[name]
}

// Number reads a field of INFO that is a number, 0 if it is none.
func (r *Report) Number(field string) int64 { return number(r.Info[field]) }

func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// fieldsOf reads the answer of INFO.
func fieldsOf(info string) map[string]string {
	fields := make(map[string]string)
	for line := range strings.Lines(info) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields
}
