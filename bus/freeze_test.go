//go:build unix

package bus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
)

// A server that hangs must not hang whoever publishes.
func TestFrozenServer(t *testing.T) {
	s := bustest.NATSServer(t)
	c := s.Conn()
	s.Freeze()
	told := make(chan error, 2)
	if err := c.PublishAsync(resultMsg("a", "{}"), func(_ bus.Ack, err error) { told <- err }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.Publish(ctx, resultMsg("a", "{}")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Publish: %v, want a deadline error", err)
	}
	if err := <-told; err == nil {
		t.Error("PublishAsync: acknowledged by a frozen server")
	}
	s.Thaw()
	publish(t, c, resultMsg("a", "{}"))
	select {
	case err := <-told:
		t.Errorf("told twice: %v", err)
	default:
	}
}
