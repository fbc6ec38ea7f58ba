package bridge

import (
	"context"
	"net/http"
	"time"
)

// The paths of the probes.
const (
	pathLive  = "/livez"
	pathReady = "/readyz"
)

// readyTimeout bounds the checks of one readiness probe.
const readyTimeout = 3 * time.Second

// readiness is the body of /readyz.
type readiness struct {
	Status string       `json:"status"` // "ready" or "unavailable"
	Checks []checkShown `json:"checks"`
}

// checkShown is a Check as probes show it.
type checkShown struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitzero"`
	Note  string `json:"note,omitzero"`
}

func (b *Bridge) serveProbe(w http.ResponseWriter, r *http.Request) {
	exchangeOf(r.Context()).route = r.URL.Path
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		writeOld(w, http.StatusMethodNotAllowed, oldDetail{"Method Not Allowed"})
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	if r.URL.Path == pathLive {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n")) // the client is gone otherwise
		return
	}
	shown := b.readiness(r.Context())
	status := http.StatusOK
	if shown.Status != "ready" {
		status = http.StatusServiceUnavailable
	}
	writeOld(w, status, shown)
}

func (b *Bridge) readiness(ctx context.Context) readiness {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	shown := readiness{Status: "ready", Checks: []checkShown{}}
	checks := b.cfg.Ready(ctx)
	if b.isDraining() {
		checks = append(checks, Check{Name: "listener", Err: errDraining})
	}
	for _, c := range checks {
		s := checkShown{Name: c.Name, OK: c.Err == nil, Note: c.Note}
		if c.Err != nil {
			s.Error, shown.Status = c.Err.Error(), "unavailable"
		}
		shown.Checks = append(shown.Checks, s)
	}
	return shown
}
