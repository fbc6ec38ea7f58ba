package bridge

import (
	"net/http"
	"sync/atomic"
)

// WebhookSignature lets tests compare with a captured one.
var WebhookSignature = webhookSignature

// Server returns the server that Serve uses.
func (b *Bridge) Server() *http.Server { return b.server(new(atomic.Int64)) }
