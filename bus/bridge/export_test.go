package bridge

import (
	"net/http"
	"sync/atomic"
	"time"
)

// WebhookSignature lets tests compare with a captured one.
var WebhookSignature = webhookSignature

// Server returns the server that Serve uses.
func (b *Bridge) Server() *http.Server { return b.server(new(atomic.Int64)) }

// SetTimeouts changes how long a connection may take for what. It must come before Serve.
func (b *Bridge) SetTimeouts(header, body, idle time.Duration) {
	b.timeouts.header, b.timeouts.body, b.timeouts.idle = header, body, idle
}

// SetPartTime changes how long clients on idle connections have. It must come before Serve.
func (b *Bridge) SetPartTime(d time.Duration) { b.timeouts.part = d }

// Exhaust lets an agent have written as much as it may for some time.
func (b *Bridge) Exhaust(agent string) {
	for range 10 {
		b.paces.of(agent).ReserveN(time.Now(), agentBurst)
	}
}
