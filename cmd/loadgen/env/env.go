// Package env starts what a load test is run against: nats-server and replicas of Ops-Core, which are this program itself under another
// task, and redis-server from PATH. All are real processes that can be killed, frozen and cut off, on free ports and in a folder of
// their own; they are proven to be empty and ready before anybody sends a request.
package env

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/storage/storagetest/netproxy"
)

// DefaultKey is the API key unless Config says otherwise: the one that the old load tests were run with.
const DefaultKey = "test-api-key"

// Config says what to start.
type Config struct {
	Dir      string // for data and logs; empty: a temporary folder that Close removes
	Replicas int    // of Ops-Core; 0 means 1
	Key      string // API key; empty means DefaultKey
	// LegacyRunTimeout is when runs started over the old API fail; 0 is the server's default.
	LegacyRunTimeout time.Duration
	Proxied          bool // replicas reach NATS and Redis through proxies, see [Env.Proxy]

	keep  bool              // the processes survive this one
	addrs map[string]string // by name; those that are missing are free ones
}

// The names of the processes, beside "opscore-1" and so on.
const (
	NATS  = "nats"
	Redis = "redis"
	Self  = "loadgen"
)

// Replica names the nth replica, counted from 1.
func Replica(n int) string { return "opscore-" + strconv.Itoa(n) }

// Env is a running environment. All methods are safe for concurrent use, except Reset and Close.
type Env struct {
	Dir      string   // data and logs
	Key      string   // API key of all replicas
	NATSURL  string   // of the server itself, not of a proxy
	StoreURL string   // of the Redis server itself
	URLs     []string // of the replicas' HTTP APIs

	cfg      Config
	guard    *guard
	procs    []*process // in the order of their start
	proxies  map[string]*netproxy.Proxy
	conn     *bus.Conn // for queue depths
	sampling sampler
	closed   sync.Once
}

// Start starts an environment and returns when its stores have been found empty and every replica says it is ready.
func Start(ctx context.Context, cfg Config) (*Env, error) {
	if cfg.Replicas == 0 {
		cfg.Replicas = 1
	}
	if cfg.Key == "" {
		cfg.Key = DefaultKey
	}
	e := &Env{Dir: cfg.Dir, Key: cfg.Key, cfg: cfg, proxies: make(map[string]*netproxy.Proxy)}
	err := e.start(ctx)
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (e *Env) start(ctx context.Context) (err error) {
	if e.Dir == "" {
		if e.Dir, err = os.MkdirTemp("", "opscore-loadgen-"); err != nil {
			return fmt.Errorf("make a temporary folder: %w", err)
		}
	}
	if err := e.makeDirs(); err != nil {
		return err
	}
	if !e.cfg.keep {
		if e.guard, err = startGuard(); err != nil {
			return err
		}
	}
	redis, err := e.redisProcess()
	if err != nil {
		return err
	}
	nats := e.natsProcess()
	e.procs = []*process{redis, nats}
	if err := startAll(ctx, e.procs); err != nil {
		return err
	}
	e.NATSURL, e.StoreURL = "nats://"+nats.addr, "redis://"+redis.addr+"/0"
	if err := e.proveEmpty(ctx); err != nil {
		return err
	}
	return e.startReplicas(ctx)
}

// makeDirs makes the folders of the servers' files and logs.
func (e *Env) makeDirs() error {
	for _, name := range []string{e.dataDir(NATS), e.dataDir(Redis), filepath.Join(e.Dir, "logs")} {
		if err := os.MkdirAll(name, 0o750); err != nil {
			return fmt.Errorf("make a folder for the servers: %w", err)
		}
	}
	return nil
}

func (e *Env) dataDir(server string) string { return filepath.Join(e.Dir, server) }

// LogFile is where the output of a process goes.
func (e *Env) LogFile(name string) string { return filepath.Join(e.Dir, "logs", name+".log") }

func (e *Env) startReplicas(ctx context.Context) error {
	natsAddr, storeAddr := e.process(NATS).addr, e.process(Redis).addr
	if e.cfg.Proxied {
		for _, p := range []struct {
			name string
			addr *string
		}{{NATS, &natsAddr}, {Redis, &storeAddr}} {
			proxy, err := newProxy(*p.addr)
			if err != nil {
				return err
			}
			e.proxies[p.name] = proxy
			*p.addr = proxy.Addr()
		}
	}
	var replicas []*process
	for n := range e.cfg.Replicas {
		replicas = append(replicas, e.replicaProcess(Replica(n+1), "nats://"+natsAddr, "redis://"+storeAddr+"/0"))
	}
	e.procs = append(e.procs, replicas...)
	if err := startAll(ctx, replicas); err != nil {
		return err
	}
	for _, p := range replicas {
		e.URLs = append(e.URLs, "http://"+p.addr)
	}
	var err error
	if e.conn, err = bus.Connect(ctx, bus.Config{URL: e.NATSURL, Name: "loadgen environment"}); err != nil {
		return fmt.Errorf("connect to nats: %w", err)
	}
	return nil
}

func startAll(ctx context.Context, procs []*process) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range procs {
		g.Go(func() error { return p.start(ctx) })
	}
	return g.Wait()
}

// process returns the process of a name, or nil.
func (e *Env) process(name string) *process {
	for _, p := range e.procs {
		if p.name == name {
			return p
		}
	}
	return nil
}

// Names lists the servers in the order of their start.
func (e *Env) Names() []string {
	names := make([]string, len(e.procs))
	for i, p := range e.procs {
		names[i] = p.name
	}
	return names
}

// Reset stops everything, removes all data and starts it again on the same addresses. The stores have been found empty and the
// replicas ready when it returns. Logs are kept.
func (e *Env) Reset(ctx context.Context) error {
	e.stopAll()
	for _, server := range []string{NATS, Redis} {
		if err := os.RemoveAll(e.dataDir(server)); err != nil {
			return fmt.Errorf("remove the data of %s: %w", server, err)
		}
	}
	if err := e.makeDirs(); err != nil {
		return err
	}
	if err := startAll(ctx, e.procs[:2]); err != nil {
		return err
	}
	if err := e.proveEmpty(ctx); err != nil {
		return err
	}
	return startAll(ctx, e.procs[2:])
}

// stopAll stops the processes, those that were started last first.
func (e *Env) stopAll() {
	var replicas sync.WaitGroup
	for _, p := range e.procs[min(2, len(e.procs)):] {
		replicas.Go(p.stop)
	}
	replicas.Wait()
	for _, p := range e.procs[:min(2, len(e.procs))] {
		p.stop()
	}
}

// Close stops everything and removes the folder if it was a temporary one. It may be called more than once.
func (e *Env) Close() (err error) {
	e.closed.Do(func() {
		if e.conn != nil {
			e.conn.Close()
		}
		e.stopAll()
		for _, p := range e.proxies {
			p.Close()
		}
		err = e.guard.close()
		if e.cfg.Dir == "" && e.Dir != "" {
			err = errors.Join(err, os.RemoveAll(e.Dir))
		}
	})
	return err
}

// waitFor calls try every so often until it returns nil or ctx ends, and returns the last error then.
func waitFor(ctx context.Context, try func() error) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}
