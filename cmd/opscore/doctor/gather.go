package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/storage/redisstore"
)

// Targets are the servers to look at.
type Targets struct {
	Server      string // URL of a replica
	Key         string // bearer key for it
	NATS        string // URL; empty: what the replica names, or the default if it tells, or does not answer
	NATSMonitor string // URL of the monitoring of NATS; empty: port 8222 of its host
	Redis       string // URL; empty: the default if the replica tells, or does not answer
}

const (
	defaultNATS  = "nats://127.0.0.1:4222"
	defaultRedis = "redis://127.0.0.1:6379/0"
	monitorPort  = "8222"
	askTimeout   = 3 * time.Second // for each server
	maxAnswer    = 4 << 20
)

// Gather looks at all servers. One that does not answer is a fact, not an error.
func Gather(ctx context.Context, t Targets) *Facts {
	f := &Facts{Server: askServer(ctx, t)}
	var wg sync.WaitGroup
	// The servers on this machine may be of another deployment than a replica that does not tell.
	if why := untold(&f.Server); why != "" && t.NATS == "" {
		f.NATS.Unasked = why
	} else {
		wg.Go(func() { f.NATS = askNATS(ctx, t, f.Server.Setup) })
	}
	switch why := untold(&f.Server); {
	case f.Server.Setup.Store == "file":
		f.Redis.Unused = true
	case why != "" && t.Redis == "":
		f.Redis.Unasked = why
	default:
		wg.Go(func() { f.Redis = askRedis(ctx, cmp.Or(t.Redis, defaultRedis)) })
	}
	wg.Wait()
	return f
}

// untold is why it is not known from a replica that answers which servers it uses; empty if it may be.
func untold(s *Server) string {
	switch {
	case s.Refused == "":
		return ""
	case s.Status == http.StatusUnauthorized || s.Status == http.StatusForbidden:
		return fmt.Sprintf("the server does not tell (%d): set OPSCORE_API_KEY", s.Status)
	}
	return "the server does not tell (" + s.Refused + "): name NATS and Redis with --nats-url and --redis-url"
}

// readyz is the answer of /readyz.
type readyz struct {
	Status string `json:"status"`
	Checks []struct {
		Name  string `json:"name"`
		OK    bool   `json:"ok"`
		Error string `json:"error"`
	} `json:"checks"`
}

func askServer(ctx context.Context, t Targets) Server {
	s := Server{URL: t.Server}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var ready readyz
	asked := time.Now()
	answer, err := get(ctx, t.Server+"/readyz", "", &ready)
	if err == nil && ready.Status == "" {
		err = errors.New("it does not answer like Ops-Core")
	}
	if err != nil {
		s.Err = reason(err)
		return s
	}
	if date, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
		s.Ahead = bus.Ahead(date.Add(dateError/2), asked, time.Now())
	}
	s.Ready = answer.StatusCode == http.StatusOK
	for _, c := range ready.Checks {
		if !c.OK {
			s.Failing = append(s.Failing, Failing{c.Name, c.Error})
		}
	}
	var system struct {
		Version string `json:"version"`
		Setup   Setup  `json:"setup"`
	}
	answer, err = get(ctx, t.Server+"/api/v1/system", t.Key, &system)
	switch {
	case err != nil:
		s.Refused = reason(err)
	case answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden:
		s.Refused, s.Status = "it wants a valid key", answer.StatusCode
	case answer.StatusCode != http.StatusOK:
		s.Refused, s.Status = answer.Status, answer.StatusCode
	}
	s.Version, s.Setup = system.Version, system.Setup
	return s
}

// get reads an answer, whatever its status, that should be JSON.
func get(ctx context.Context, url, key string, into any) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	client := &http.Client{
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
		// A redirect could carry the key to another server.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return nil, fmt.Errorf("it answers something else than JSON (%s)", resp.Status)
	}
	return resp, nil
}

// reason is an error in one line for people.
func reason(err error) string {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // without the method and the address, which the line has already
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "it took too long"
	}
	return strings.ReplaceAll(err.Error(), "\n", " ")
}

func askNATS(ctx context.Context, t Targets, setup Setup) NATS {
	target := cmp.Or(t.NATS, setup.NATSURL, defaultNATS)
	n := NATS{URL: bus.Redact(target)}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	nc, err := nats.Connect(target, nats.Name("opscore doctor"), nats.Timeout(askTimeout/2), nats.NoReconnect())
	if err != nil {
		n.Err = reason(err)
		return n
	}
	defer nc.Close()
	n.Version, n.Cluster = nc.ConnectedServerVersion(), nc.ConnectedClusterName()
	if err := n.askJetStream(ctx, nc); err != nil {
		n.JetStream = reason(err)
		return n
	}
	if setup.NATS == "embedded" && setup.NATSURL == target {
		n.Sync = Sync{Known: true, Interval: bus.EmbeddedSync}
		return n
	}
	n.Sync = askSync(ctx, cmp.Or(t.NATSMonitor, monitorOf(nc.ConnectedUrl())))
	return n
}

func (n *NATS) askJetStream(ctx context.Context, nc *nats.Conn) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	account, err := js.AccountInfo(ctx)
	if err != nil {
		return err
	}
	n.Used, n.Max = int64(account.Store), account.Limits.MaxStore
	n.Streams, n.Ahead, err = bus.Inspect(ctx, js)
	return err
}

// monitorOf is where the monitoring of a server usually is.
func monitorOf(server string) string {
	u, err := url.Parse(server)
	if err != nil || u.Hostname() == "" {
		return "http://127.0.0.1:" + monitorPort
	}
	return "http://" + u.Hostname() + ":" + monitorPort
}

// askSync asks the monitoring of a NATS server, the only place where an ordinary user can read it.
func askSync(ctx context.Context, monitor string) Sync {
	var varz struct {
		ServerID  string `json:"server_id"`
		JetStream struct {
			Config struct {
				SyncInterval time.Duration `json:"sync_interval"`
				SyncAlways   bool          `json:"sync_always"`
			} `json:"config"`
		} `json:"jetstream"`
	}
	if _, err := get(ctx, strings.TrimRight(monitor, "/")+"/varz", "", &varz); err != nil {
		return Sync{Err: "the monitoring at " + monitor + " does not answer: " + reason(err)}
	}
	config := varz.JetStream.Config
	if config.SyncInterval == 0 && !config.SyncAlways {
		return Sync{Err: "the monitoring at " + monitor + " does not tell"}
	}
	return Sync{Known: true, Always: config.SyncAlways, Interval: config.SyncInterval}
}

func askRedis(ctx context.Context, target string) Redis {
	u, err := url.Parse(target)
	if err != nil {
		return Redis{URL: "the URL", Err: "it is not a URL"} // which may hold a password
	}
	r := Redis{URL: u.Redacted()}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	report, err := redisstore.Inspect(ctx, u)
	if err != nil {
		r.Err = reason(err)
		return r
	}
	r.Ahead, r.RoundTrip, r.Library, r.Fsync, r.RewriteFrom = report.Ahead, report.RoundTrip, report.HasLibrary, report.Fsync, report.RewriteFrom
	if report.InfoErr != nil {
		r.InfoErr = reason(report.InfoErr)
		return r
	}
	info := report.Info
	r.Version, r.Valkey = info["redis_version"], info["valkey_version"]
	r.AOF, r.AOFFailed = info["aof_enabled"] == "1", info["aof_last_write_status"] == "err"
	r.Policy, r.Role = info["maxmemory_policy"], info["role"]
	r.Used, r.Max, r.Total = report.Number("used_memory"), report.Number("maxmemory"), report.Number("total_system_memory")
	r.Replicas = report.Number("connected_slaves")
	return r
}
