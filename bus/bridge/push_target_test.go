package bridge

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// Servers that answered a moment ago, and now all hang, must not keep every place from one that still answers.
func TestServersThatHangLeavePlacesForTheOthers(t *testing.T) {
	targets := newTargets()
	defer targets.close()
	ctx, cancel := context.WithCancel(t.Context())
	var posts sync.WaitGroup
	post := func(u string) error {
		_, err := targets.post(ctx, posting{url: u, header: http.Header{}, body: []byte("{}"), once: true})
		return err
	}
	healthy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer healthy.Close()
	if err := post(healthy.URL); err != nil {
		t.Fatal(err)
	}
	const servers = maxPosts / maxTargetPosts
	var hanging sync.WaitGroup
	hanging.Add(servers * maxTargetPosts)
	for range servers {
		s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/hang" {
				hanging.Done()
				<-ctx.Done()
			}
		}))
		defer s.Close()
		if err := post(s.URL); err != nil {
			t.Fatal(err)
		}
		for range maxTargetPosts {
			posts.Go(func() { _ = post(s.URL + "/hang") })
		}
	}
	hanging.Wait() // every place is taken
	if err := post(healthy.URL); err != nil {
		t.Errorf("a server that answers was not asked: %v", err)
	}
	cancel()
	posts.Wait()
	if n := len(targets.places) + len(targets.strangers) + len(targets.slow); n > 0 {
		t.Errorf("%d places were not given back", n)
	}
}
