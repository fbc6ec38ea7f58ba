package bridge

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/opspawn/opscore/bus/event"
)

// What old clients get for the refusals of the wire.
func TestRefusalsOfTheWireInOldForm(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		body   string
	}{
		{event.Errorf(event.CodeMalformed, "why"), 400, `{"detail":"why"}`},
		{event.Errorf(event.CodeInvalid, "why"), 422, `{"detail":[{"type":"value_error","loc":["body"],"msg":"Value error, why","input":null}]}`},
		{event.Errorf(event.CodeTooLarge, "why"), 413, `{"detail":"why"}`},
		{event.Errorf(event.CodeConflict, "why"), 409, `{"detail":"why"}`},
		{event.Errorf(event.CodeExpired, "why"), 503, `{"detail":{"code":"expired","message":"why","requestId":""}}`},
		{event.Errorf(event.CodeUnavailable, "why"), 503, `{"detail":{"code":"unavailable","message":"why","requestId":""}}`},
		{event.Errorf(event.CodePanic, "secret"), 500, `{"detail":"Internal Server Error"}`},
		{http.ErrBodyNotAllowed, 500, `{"detail":"Internal Server Error"}`},
	} {
		w := httptest.NewRecorder()
		failOld(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, routeNotify, nil), c.err)
		if w.Code != c.status || w.Body.String() != c.body || (w.Header().Get("Retry-After") != "") != (c.status == 503) {
			t.Errorf("%v: %d %s %v", c.err, w.Code, w.Body, w.Header())
		}
	}
}
