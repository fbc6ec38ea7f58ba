package bridge

import (
	"context"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus/event"
)

// adopt registers an agent that nobody has registered, so that its state can be taken. It is registered only if the stream holds no registration of it:
// one that is on its way must not be replaced. Whether it is registered afterwards, the next report of its state tells.
func (b *Bridge) adopt(ctx context.Context, id string) {
	token, err := event.Token(id)
	if err != nil {
		return
	}
	msg := nats.NewMsg(event.AgentSubject(event.VerbRegister, token))
	exchangeOf(ctx).mark(msg.Header)
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, "0")
	msg.Data = event.MustMarshal(&event.Register{AgentName: id, Version: "unknown", Capabilities: []string{}, Delivery: event.DeliveryAgentKit})
	ctx, cancel := context.WithTimeout(ctx, b.cfg.CallTimeout)
	defer cancel()
	if _, _, err = b.cfg.Bus.Call(ctx, msg); err != nil {
		b.log.Debug("agent not adopted", "agent", id, "err", err)
		return
	}
	b.log.Info("agent adopted", "agent", id)
}
