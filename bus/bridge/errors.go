package bridge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/opspawn/opscore/bus/event"
)

// statusOf is where the codes of the wire meet HTTP. A code that is not here is an error of Ops-Core itself.
var statusOf = map[event.Code]int{
	event.CodeMalformed:         http.StatusBadRequest,
	event.CodeInvalid:           http.StatusUnprocessableEntity,
	event.CodeTooLarge:          http.StatusRequestEntityTooLarge,
	event.CodeUnknownAgent:      http.StatusNotFound,
	event.CodeUnknownRun:        http.StatusNotFound,
	event.CodeUnknownDefinition: http.StatusNotFound,
	event.CodeUnknownSchedule:   http.StatusNotFound,
	event.CodeUnknownLetter:     http.StatusNotFound,
	event.CodeConflict:          http.StatusConflict,
	event.CodeStaleAttempt:      http.StatusConflict,
	event.CodeStaleInstance:     http.StatusConflict,
	event.CodeNotAllowedNow:     http.StatusConflict,
	event.CodeForbidden:         http.StatusForbidden,
	event.CodeExpired:           http.StatusServiceUnavailable,
	event.CodeUnavailable:       http.StatusServiceUnavailable,
}

// The codes of refusals that only HTTP has.
const (
	codeUnauthorized     event.Code = "unauthorized"
	codeNotFound         event.Code = "not_found"
	codeMethodNotAllowed event.Code = "method_not_allowed"
	codeUnknownRequest   event.Code = "unknown_request"
)

var errUnauthorized = &Problem{Status: http.StatusUnauthorized, Code: codeUnauthorized, Detail: "a valid bearer key is required"}

const internalDetail = "an internal error; the log has more under the request id"

// retryAfter is what a client shall wait, in seconds, before it tries again.
const retryAfter = 1

// Problem is the error body of the new API, as RFC 9457 has it: application/problem+json.
type Problem struct {
	Title     string          `json:"title" doc:"The name of the HTTP status"`
	Status    int             `json:"status" doc:"The HTTP status"`
	Code      event.Code      `json:"code" doc:"The reason, for machines"`
	Detail    string          `json:"detail,omitzero" doc:"The reason, for people"`
	Errors    []ProblemDetail `json:"errors,omitzero" doc:"The mistakes, where there may be several"`
	RequestID string          `json:"requestId,omitzero" doc:"The X-Request-Id to ask the log for"`

	Wait time.Duration `json:"-"` // what a client shall wait before it tries again; 0: retryAfter
}

// ProblemDetail is one mistake in a request.
type ProblemDetail struct {
	Message  string `json:"message"`
	Location string `json:"location,omitzero" doc:"Where, as in query.limit or $.tasks[1].nextTaskId"`
}

// Error returns the reason.
func (p *Problem) Error() string { return string(p.Code) + ": " + p.Detail }

// GetStatus returns the HTTP status; with it a Problem is an error that huma sends as it is.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType names the format of a Problem for the one that was negotiated.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// GetHeaders returns what goes along with the status.
func (p *Problem) GetHeaders() http.Header {
	if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests {
		return http.Header{"Retry-After": {seconds(p.Wait)}}
	}
	return nil
}

// problemOf is the one map from errors to answers. What is not a refusal is 500 and tells nothing but the id to ask the log for; the
// log line of the request has the rest.
func problemOf(ctx context.Context, err error) *Problem {
	var p Problem
	var refusal *event.Error
	var problem *Problem
	switch {
	case errors.As(err, &problem):
		p = *problem
	case errors.As(err, &refusal) && statusOf[refusal.Code] != 0:
		p = Problem{Status: statusOf[refusal.Code], Code: refusal.Code, Detail: refusal.Message, Errors: problemsIn(refusal)}
	case ctx.Err() != nil: // nobody is listening any more
		p = Problem{Status: http.StatusServiceUnavailable, Code: event.CodeUnavailable, Detail: "the request was given up"}
	default:
		p = Problem{Status: http.StatusInternalServerError, Code: event.CodeInternal, Detail: internalDetail}
	}
	x := exchangeOf(ctx)
	if p.Status >= http.StatusInternalServerError {
		x.cause = err // it may tell more than the answer
	}
	p.Title = http.StatusText(p.Status)
	p.RequestID = x.id
	x.refuse(p.Status, p.reason())
	return &p
}

// reason is a Problem in one line.
func (p *Problem) reason() string {
	text := p.Error()
	for _, e := range p.Errors {
		if strings.Contains(p.Detail, e.Message) {
			continue
		}
		text += "; " + strings.TrimPrefix(e.Location+": ", ": ") + e.Message
	}
	return text
}

// problemsIn reads the mistakes of a definition out of a refusal.
func problemsIn(e *event.Error) []ProblemDetail {
	var d struct {
		Problems []struct {
			Path string `json:"path"`
			Text string `json:"text"`
		} `json:"problems"`
	}
	if len(e.Details) == 0 || event.Unmarshal(e.Details, &d) != nil {
		return nil
	}
	var list []ProblemDetail
	for _, p := range d.Problems {
		list = append(list, ProblemDetail{Message: p.Text, Location: p.Path})
	}
	return list
}

// fail answers with an error: as a problem under /api, else as the old API does.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	if isAPI(r.URL.Path) {
		failAPI(w, r, err)
	} else {
		failOld(w, r, err)
	}
}

func failAPI(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(r.Context(), err)
	for k, v := range p.GetHeaders() {
		w.Header()[k] = v
	}
	writeJSON(w, p.Status, p.ContentType(""), p)
}

// oldError is a refusal in the words of the old API. Detail is a string or a list of issues.
type oldError struct {
	status int
	detail any
}

// Error returns the status; the detail is for the client.
func (e *oldError) Error() string { return http.StatusText(e.status) }

// oldDetail is the error body of the old API.
type oldDetail struct {
	Detail any `json:"detail"`
}

// reason is the refusal in one line. What was wrong is named, not quoted.
func (e *oldError) reason() string {
	issues, ok := e.detail.([]issueJSON)
	if !ok {
		text := fmt.Sprint(e.detail)
		if strings.HasPrefix(text, unknownEvent) {
			return strings.TrimSuffix(unknownEvent, ": ")
		}
		return text
	}
	var text strings.Builder
	for i, issue := range issues {
		if i > 0 {
			text.WriteString("; ")
		}
		for j, part := range issue.Loc {
			fmt.Fprintf(&text, "%s%v", strings.Repeat(".", min(j, 1)), part)
		}
		text.WriteString(": " + issue.Msg)
		if text.Len() > maxReason {
			break
		}
	}
	return text.String()
}

// oldUnavailable is the detail of a 503, which the old API did not have.
type oldUnavailable struct {
	Code      event.Code `json:"code"`
	Message   string     `json:"message"`
	RequestID string     `json:"requestId"`
}

func failOld(w http.ResponseWriter, r *http.Request, err error) {
	var old *oldError
	if errors.As(err, &old) {
		exchangeOf(r.Context()).refuse(old.status, old.reason())
		writeOld(w, old.status, oldDetail{old.detail})
		return
	}
	p := problemOf(r.Context(), err)
	for k, v := range p.GetHeaders() {
		w.Header()[k] = v
	}
	var detail any = p.Detail
	switch p.Status {
	case http.StatusInternalServerError:
		detail = "Internal Server Error"
	case http.StatusServiceUnavailable:
		detail = oldUnavailable{p.Code, p.Detail, p.RequestID}
	case http.StatusUnprocessableEntity: // always a list
		detail = []issueJSON{{Type: "value_error", Loc: []any{"body"}, Msg: "Value error, " + p.Detail, Input: event.Raw("null")}}
	}
	writeOld(w, p.Status, oldDetail{detail})
}

// writeOld answers with compact JSON.
func writeOld(w http.ResponseWriter, status int, body any) {
	writeJSON(w, status, "application/json", body)
}

func writeJSON(w http.ResponseWriter, status int, contentType string, body any) {
	data, err := json.Marshal(body, json.Deterministic(true))
	if err != nil {
		panic("bridge: encode an answer: " + err.Error())
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data) // the client is gone otherwise
}
