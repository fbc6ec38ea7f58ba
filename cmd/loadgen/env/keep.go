package env

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Kept is an environment that survives the command that started it: what [Up] has written down of it.
type Kept struct {
	Dir       string        `json:"dir"`
	Key       string        `json:"key"`
	NATSURL   string        `json:"natsUrl"`
	StoreURL  string        `json:"redisUrl"`
	URLs      []string      `json:"urls"`
	Replicas  int           `json:"replicas"`
	Processes []KeptProcess `json:"processes"` // in the order of their start
}

// KeptProcess is one server of a [Kept].
type KeptProcess struct {
	Name string `json:"name"`
	Addr string `json:"addr"`
	Log  string `json:"log"`
	identity
}

// ErrNone says that there is no environment to reset or to end.
var ErrNone = errors.New("there is no environment; start one with loadgen env up")

// DefaultDir is where the kept environment lives unless it is given a folder: the user's cache folder.
func DefaultDir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the user's cache folder (use --dir): %w", err)
	}
	return filepath.Join(cache, "opscore-loadgen"), nil
}

func stateFile(dir string) string { return filepath.Join(dir, "env.json") }

// Up starts an environment in a folder whose processes survive this one. It fails if one runs there already.
func Up(ctx context.Context, cfg Config) (*Kept, error) {
	old, err := Look(cfg.Dir)
	switch {
	case err == nil && old.running() > 0:
		return nil, fmt.Errorf("an environment runs in %s already; reset it, or end it with loadgen env down", cfg.Dir)
	case err != nil && !errors.Is(err, ErrNone):
		return nil, err
	}
	if err := wipe(cfg.Dir); err != nil {
		return nil, err
	}
	return up(ctx, cfg, nil)
}

// up starts the processes, on the addresses of an earlier environment if there was one, and writes down which they are.
func up(ctx context.Context, cfg Config, addrs map[string]string) (*Kept, error) {
	cfg.keep = true
	cfg.addrs = addrs
	e, err := Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	k := &Kept{Dir: e.Dir, Key: e.Key, NATSURL: e.NATSURL, StoreURL: e.StoreURL, URLs: e.URLs, Replicas: e.cfg.Replicas}
	for _, p := range e.procs {
		k.Processes = append(k.Processes, KeptProcess{Name: p.name, Addr: p.addr, Log: p.logFile, identity: p.run.id})
	}
	text, err := json.MarshalIndent(k, "", "  ")
	if err == nil {
		err = os.WriteFile(stateFile(k.Dir), append(text, '\n'), 0o600) // it holds the key
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write down what was started: %w", err), e.Close())
	}
	e.conn.Close()
	return k, nil
}

// Look reads what was written down of the environment in a folder. It fails with [ErrNone] if there is none.
func Look(dir string) (*Kept, error) {
	text, err := os.ReadFile(stateFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("read what was started: %w", err)
	}
	k := new(Kept)
	if err := json.Unmarshal(text, k); err != nil {
		return nil, fmt.Errorf("read what was started: %s: %w", stateFile(dir), err)
	}
	return k, nil
}

// running counts the processes that still run.
func (k *Kept) running() (n int) {
	for _, p := range k.Processes {
		if p.alive() {
			n++
		}
	}
	return n
}

// Down ends the environment in a folder and removes its data; the logs stay. It ends exactly the processes that were started for it, and returns
// how many of them still ran.
func Down(ctx context.Context, dir string) (ended int, err error) {
	k, err := Look(dir)
	if err != nil {
		return 0, err
	}
	if ended, err = k.end(ctx); err != nil {
		return ended, err
	}
	return ended, wipe(dir)
}

// Reset ends the environment in a folder, removes its data and starts it again on the same addresses.
func Reset(ctx context.Context, dir string) (*Kept, error) {
	k, err := Look(dir)
	if err != nil {
		return nil, err
	}
	if _, err := k.end(ctx); err != nil {
		return nil, err
	}
	if err := wipe(dir); err != nil {
		return nil, err
	}
	addrs := make(map[string]string)
	for _, p := range k.Processes {
		addrs[p.Name] = p.Addr
	}
	return up(ctx, Config{Dir: dir, Key: k.Key, Replicas: k.Replicas}, addrs)
}

// wipe removes what an environment has left in its folder, and nothing else.
func wipe(dir string) error {
	var errs []error
	for _, path := range []string{stateFile(dir), filepath.Join(dir, NATS), filepath.Join(dir, Redis)} {
		errs = append(errs, os.RemoveAll(path))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the environment's data: %w", err)
	}
	return nil
}

// end ends the processes, those that were started last first, with SIGKILL if they take too long.
func (k *Kept) end(ctx context.Context) (ended int, err error) {
	for i := len(k.Processes) - 1; i >= 0; i-- {
		p := k.Processes[i]
		if !p.alive() {
			continue // it has ended, and its number may be somebody else's
		}
		ended++
		for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGCONT} {
			if err := syscall.Kill(p.PID, s); err != nil && !errors.Is(err, syscall.ESRCH) {
				return ended, fmt.Errorf("end %s (process %d): %w", p.Name, p.PID, err)
			}
		}
		if p.awaitEnd(ctx) != nil {
			_ = syscall.Kill(p.PID, syscall.SIGKILL)
			if err := p.awaitEnd(ctx); err != nil {
				return ended, fmt.Errorf("%s (process %d) does not end: %w", p.Name, p.PID, err)
			}
		}
	}
	return ended, nil
}

var errRuns = errors.New("it still runs")

// awaitEnd waits until the process is gone.
func (p KeptProcess) awaitEnd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	return waitFor(ctx, func() error {
		if p.alive() {
			return errRuns
		}
		return nil
	})
}
