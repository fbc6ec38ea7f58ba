package lifecycle

import (
	"context"
	"fmt"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
)

// lostReports are the letters of the reports that a registration has found held and that do not count for it. Their senders were told that they are
// held, or nothing, so that nobody else says what became of them. Which process registered first on the stream does not matter: a report behind the
// registration would have been refused as well, and one before it is of a process that this one has replaced.
func lostReports(agent string, r *Record) []*bus.Letter {
	if !r.Registered() {
		return nil
	}
	var lost []*bus.Letter
	for i := range r.Reports {
		switch p := &r.Reports[i]; {
		case r.foreign(p):
			lost = append(lost, p.letter(agent, staleInstance(agent)))
		case r.expired(p): // and the sweeper has not yet come
			lost = append(lost, p.letter(agent, lateRegistration(agent)))
		}
	}
	return lost
}

// unregistered are the letters of the reports that no registration has followed.
func (b *agentBatch) unregistered() []*bus.Letter {
	letters := make([]*bus.Letter, len(b.record.Reports))
	for i := range letters {
		letters[i] = b.record.Reports[i].letter(b.id, lateRegistration(b.id))
	}
	return letters
}

func lateRegistration(agent string) *event.Error {
	return event.Errorf(event.CodeExpired, "agent %q did not register within %v of this report", agent, EarlyReportTTL)
}

// letter makes a dead letter of a report. It has the id that the message itself would have, and any other letter of it.
func (p *Report) letter(agent string, why *event.Error) *bus.Letter {
	said := event.State{State: p.State, Timestamp: p.Timestamp, Details: p.Details, Instance: p.Instance}
	return &bus.Letter{
		Subject: event.AgentSubject(event.VerbState, event.MustToken(agent)), Data: event.MustMarshal(&said),
		Stream: event.StreamAgent, Seq: p.Mark.Seq, First: p.Mark.At, Count: 1, Err: why,
	}
}

// bury stores letters of early reports before the Txn that takes in why: whoever dies between the two, or loses to another replica, comes again
// within the time in which the same letter is stored once.
func (s *Service) bury(ctx context.Context, letters []*bus.Letter) error {
	for _, l := range letters {
		if err := s.cfg.Bus.Bury(ctx, l); err != nil {
			return fmt.Errorf("bury an early report: %w", err)
		}
		s.cfg.Crash("lifecycle-after-bury")
	}
	return nil
}
