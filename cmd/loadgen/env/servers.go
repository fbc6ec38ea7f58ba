package env

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
)

// ErrNoRedis says that there is no redis-server to start.
var ErrNoRedis = errors.New("redis-server is not on PATH: install it, for example with apt-get install redis-server or brew install redis")

// redisProcess runs redis-server as docs/operations.md says: append-only file, synced each second, and rewritten when it is long.
func (e *Env) redisProcess() (*process, error) {
	exe, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, ErrNoRedis
	}
	return &process{
		name: Redis, logFile: e.LogFile(Redis), addr: e.cfg.addrs[Redis], guard: e.guard, ready: redisReady,
		command: func(p *process) (*exec.Cmd, error) {
			host, port, err := net.SplitHostPort(p.addr)
			return exec.Command(exe, "--bind", host, "--port", port, "--dir", e.dataDir(Redis), "--daemonize", "no",
				"--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
				"--auto-aof-rewrite-min-size", "512mb"), err // see docs/operations.md: from 64 MB on, an empty store would rewrite its file every few seconds
		},
	}, nil
}

func redisReady(ctx context.Context, addr string) error {
	c := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialTimeout: time.Second, ContextTimeoutEnabled: true})
	defer func() { _ = c.Close() }()
	return c.Ping(ctx).Err()
}

func (e *Env) natsProcess() *process {
	return &process{
		name: NATS, logFile: e.LogFile(NATS), addr: e.cfg.addrs[NATS], guard: e.guard, ready: natsReady,
		command: func(p *process) (*exec.Cmd, error) {
			return childSpec{Run: "nats", Dir: e.dataDir(NATS), Addr: p.addr}.command()
		},
	}
}

// natsReady asks JetStream, which begins to answer a moment after connections are taken.
func natsReady(ctx context.Context, addr string) error {
	nc, err := nats.Connect("nats://"+addr, nats.NoReconnect(), nats.Timeout(time.Second))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err = js.AccountInfo(ctx)
	return err
}

func (e *Env) replicaProcess(name, natsURL, storeURL string) *process {
	return &process{
		name: name, logFile: e.LogFile(name), addr: e.cfg.addrs[name], guard: e.guard, ready: replicaReady,
		command: func(p *process) (*exec.Cmd, error) {
			p.mu.Lock()
			crash := p.crash
			p.mu.Unlock()
			return childSpec{Run: "opscore", Addr: p.addr, NATS: natsURL, Store: storeURL, Key: e.Key, Crash: crash, LegacyRunTimeout: e.cfg.LegacyRunTimeout}.command()
		},
	}
}

// replicaReady wants a green /readyz: an open port proves nothing.
func replicaReady(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := probeClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz answers %s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// probeClient keeps no connection: what it asks may be killed next.
var probeClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// proveEmpty fails unless the stores hold nothing: what an earlier run left would be taken for this one's.
func (e *Env) proveEmpty(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	c := redis.NewClient(&redis.Options{Addr: e.process(Redis).addr})
	defer func() { _ = c.Close() }()
	size, err := c.DBSize(ctx).Result()
	if err != nil {
		return fmt.Errorf("ask redis for its size: %w", err)
	}
	if size > 0 {
		return fmt.Errorf("redis is not empty: it has %d keys from before in %s; name another folder, or reset the environment", size, e.dataDir(Redis))
	}
	nc, err := nats.Connect(e.NATSURL, nats.NoReconnect())
	if err != nil {
		return fmt.Errorf("connect to nats: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	streams := js.ListStreams(ctx)
	for s := range streams.Info() {
		if s.State.Msgs > 0 {
			return fmt.Errorf("stream %s is not empty: it has %d messages from before in %s; name another folder, or reset the environment",
				s.Config.Name, s.State.Msgs, e.dataDir(NATS))
		}
	}
	if err := streams.Err(); err != nil {
		return fmt.Errorf("list the streams: %w", err)
	}
	return nil
}

// lastLines returns the last n lines of what a log file holds behind a place.
func lastLines(file string, from int64, n int) string {
	f, err := os.Open(file)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	const most = 16 << 10
	if info, err := f.Stat(); err == nil {
		_, _ = f.Seek(max(from, info.Size()-most), io.SeekStart)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
