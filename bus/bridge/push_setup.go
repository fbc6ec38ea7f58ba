package bridge

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/nats-io/nuid"
)

// setUpDelivery checks the part of the Config that is about delivery.
func (b *Bridge) setUpDelivery() (err error) {
	if b.pushSecrets, err = parseSecrets(b.cfg.PushSecrets); err != nil {
		return fmt.Errorf("bridge: PushSecrets: %w", err)
	}
	switch b.cfg.AgentKitMode {
	case "", AgentKitDirect, AgentKitThrough:
	default:
		return fmt.Errorf("bridge: AgentKitMode %q is not one of %s, %s", b.cfg.AgentKitMode, AgentKitDirect, AgentKitThrough)
	}
	if base := b.cfg.AgentKitURL; base != "" {
		if u, err := url.Parse(base); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return errors.New("bridge: AgentKitURL is not an http or https URL") // it may hold a password
		}
	}
	b.name, b.polling = nuid.Next(), make(chan struct{}, maxPolls)
	b.pushes = newPusher(b)
	return nil
}

// Deliver hands tasks to agents that are reached by HTTP, until ctx ends. All replicas share the work. When ctx ends it takes no more, waits up to 4 s
// for requests in flight, and returns when its goroutines are gone. Its error says that it could not begin. A Bridge delivers once.
func (b *Bridge) Deliver(ctx context.Context) error { return b.pushes.run(ctx) }
