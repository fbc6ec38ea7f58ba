package bridge

import (
	"context"
	"net/http"
	"strings"

	"github.com/opspawn/opscore/bus/event"
)

// unknownEvent begins the refusal of an event that is neither REGISTER nor DEREGISTER; what the client said follows.
const unknownEvent = "Unknown event type: "

// notification is the body of the old webhook.
type notification struct {
	eventType string
	agent     string
	register  event.Register
}

func decodeNotification(body event.Raw) (*notification, error) {
	var c checker
	n := &notification{}
	if o := c.body(body); o != nil {
		n.eventType = o.text("event_type")
		if d := o.model("agent_details"); d != nil {
			n.details(d)
		}
	}
	return n, c.err()
}

func (n *notification) details(d *object) {
	n.agent = d.text("agentId")
	n.register = event.Register{
		AgentName:       d.text("agentName"),
		Version:         d.text("version"),
		Capabilities:    d.texts("capabilities"),
		ContactEndpoint: d.httpURL("contactEndpoint"),
		Metadata:        d.dict("metadata"),
		Delivery:        event.DeliveryAgentKit,
	}
}

// oldNotify takes a registration, and a deregistration, from AgentKit.
func (b *Bridge) oldNotify(ctx context.Context, r *oldRequest) (int, any, error) {
	n, err := decodeNotification(r.body)
	if err != nil {
		return 0, nil, err
	}
	switch strings.ToUpper(n.eventType) {
	case "REGISTER":
		if n.agent == "" {
			return 0, nil, &oldError{http.StatusBadRequest, "Missing agentId in agent_details for REGISTER event."}
		}
		if err := b.mayNotify(ctx, n.agent); err != nil {
			return 0, nil, err
		}
		if err := b.report(ctx, event.VerbRegister, n.agent, &n.register); err != nil {
			return 0, nil, err
		}
		return http.StatusOK, success("Agent " + n.agent + " registered successfully."), nil
	case "DEREGISTER":
		if n.agent != "" { // an agent that cannot exist needs no deregistration
			if err := b.mayNotify(ctx, n.agent); err != nil {
				return 0, nil, err
			}
			if err := b.report(ctx, event.VerbDeregister, n.agent, &event.Deregister{Reason: "notified by webhook"}); err != nil {
				return 0, nil, err
			}
		}
		// It is, but this is what the clients know.
		return http.StatusOK, success("DEREGISTER notification received but not fully processed."), nil
	}
	return 0, nil, &oldError{http.StatusBadRequest, unknownEvent + n.eventType}
}

// mayNotify keeps an open webhook, which anybody may call, from taking over or removing an agent that has registered with a key or over NATS. Where there is no key everything
// is open anyway.
func (b *Bridge) mayNotify(ctx context.Context, id string) error {
	if b.cfg.open() || len(b.cfg.WebhookSecrets) > 0 {
		return nil
	}
	agent, err := b.agent(ctx, id)
	switch {
	case refusedWith(err, event.CodeUnknownAgent):
		return nil
	case err != nil:
		return err
	case agent.Delivery != event.DeliveryAgentKit:
		return &oldError{http.StatusForbidden, "Agent " + id + " was not registered by this webhook, which needs a secret to change it."}
	}
	return nil
}
