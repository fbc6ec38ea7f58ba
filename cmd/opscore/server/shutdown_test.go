package server_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/cmd/opscore/server"
)

// A server that is told to stop answers what was sent to it: its services go on until its last request is answered.
func TestShutdownUnderLoadAnswersEveryRequest(t *testing.T) {
	dir := bustest.Dir(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	ready, done := make(chan server.Addresses, 1), make(chan error, 1)
	go func() {
		done <- server.Run(ctx, server.Config{
			StoreURL: "file:" + filepath.Join(dir, "opscore.db"), HTTPAddr: "127.0.0.1:0", OldKey: "k", Log: log,
			Embedded: &bus.EmbeddedConfig{Dir: filepath.Join(dir, "nats"), Addr: "127.0.0.1:0", Log: log, MaxStore: 1 << 30},
			Ready:    func(a server.Addresses) { ready <- a },
		})
	}()
	var at server.Addresses
	select {
	case at = <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	const clients, enough = 20, 2000
	var answered atomic.Int64
	var running sync.WaitGroup
	for n := range clients {
		running.Go(func() {
			if err := postUntilClosed(at.HTTP, fmt.Sprint("agent-", n), func() {
				if answered.Add(1) == enough {
					cancel()
				}
			}); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if answered.Load() < enough {
		t.Errorf("only %d requests were answered", answered.Load())
	}
}

// postUntilClosed registers an agent and reports its state on one connection, without a pause, until the server says that it closes it.
func postUntilClosed(addr, id string, each func()) error {
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	post := func(path, body string) (closes bool, err error) {
		req, err := http.NewRequest(http.MethodPost, "http://"+addr+path, strings.NewReader(body))
		if err != nil {
			return false, err
		}
		req.Header.Set("Authorization", "Bearer k")
		resp, err := client.Do(req)
		if err != nil {
			return false, err
		}
		defer func() { _ = resp.Body.Close() }()
		text, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode >= 300 {
			err = fmt.Errorf("%s is answered %s: %s", path, resp.Status, text)
		}
		return resp.Close, err
	}
	register := fmt.Sprintf(`{"event_type":"REGISTER","agent_details":{"agentId":%q,"agentName":"n","version":"1","contactEndpoint":"http://h.local/"}}`, id)
	state := fmt.Sprintf(`{"agentId":%q,"timestamp":"2026-01-01T00:00:00Z","state":"idle"}`, id)
	closes, err := post("/v1/opscore/internal/agent/notify", register)
	for err == nil && !closes {
		if closes, err = post("/v1/opscore/agent/"+id+"/state", state); err == nil {
			each()
		}
	}
	return err
}
