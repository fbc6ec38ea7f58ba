package bridge

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/opspawn/opscore/bus/event"
)

// The paths of the old API, as logs show them.
const (
	routeHealth   = "/health"
	routeNotify   = "/v1/opscore/internal/agent/notify"
	routeState    = "/v1/opscore/agent/{agent_id}/state"
	routeWorkflow = "/v1/opscore/agent/{agent_id}/workflow"
)

// oldMethod serves one method of an old route.
type oldMethod struct {
	admit    func(r *http.Request, body []byte) error // nil: everybody
	takeBody bool
	serve    oldServe
}

// oldServe answers a request that has passed the checks of its form.
type oldServe func(ctx context.Context, r *oldRequest) (status int, answer any, err error)

// oldRequest is what a handler sees of a request.
type oldRequest struct {
	agent string    // id in the path
	body  event.Raw // JSON; nil if there is none
}

// statusAnswer is how the old API says that something is done.
type statusAnswer struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func success(message string) statusAnswer { return statusAnswer{Status: "success", Message: message} }

// oldRoute is a path of the old API.
type oldRoute struct {
	methods map[string]oldMethod
	allow   string // header of a 405: the contract has the first method only
}

func (b *Bridge) oldRoutes() map[string]oldRoute {
	post := func(admit func(*http.Request, []byte) error, serve oldServe) map[string]oldMethod {
		return map[string]oldMethod{http.MethodPost: {admit: admit, takeBody: true, serve: serve}}
	}
	state := post(b.admitOld, b.oldPostState)
	state[http.MethodGet] = oldMethod{admit: b.admitOld, serve: b.oldGetState}
	return map[string]oldRoute{
		routeHealth:   {map[string]oldMethod{http.MethodGet: {serve: oldHealth}}, http.MethodGet},
		routeNotify:   {post(b.admitWebhook, b.oldNotify), http.MethodPost},
		routeState:    {state, http.MethodPost},
		routeWorkflow: {post(b.admitOld, b.oldTrigger), http.MethodPost},
	}
}

// matchOld finds the route of a path that was percent-decoded; an id holds no slash.
func matchOld(path string) (route, agent string) {
	path = strings.Replace(path, "/v1/v1/", "/v1/", 1) // from clients whose base URL ends in /v1 already
	switch path {
	case routeHealth, routeNotify:
		return path, ""
	}
	rest, ok := strings.CutPrefix(path, "/v1/opscore/agent/")
	if !ok {
		return "", ""
	}
	id, what, ok := strings.Cut(rest, "/")
	if !ok || id == "" || id == ".." {
		return "", ""
	}
	id = strings.ToValidUTF8(id, "\uFFFD")
	switch what {
	case "state":
		return routeState, id
	case "workflow":
		return routeWorkflow, id
	}
	return "", ""
}

// serveOld makes the checks in the order that old clients know: route and method, JSON syntax, authentication, schema.
func (b *Bridge) serveOld(w http.ResponseWriter, r *http.Request) {
	route, agent := matchOld(r.URL.Path)
	if route == "" {
		oldNotFound(w, r)
		return
	}
	exchangeOf(r.Context()).route = route
	m, ok := b.old[route].methods[r.Method]
	if !ok {
		w.Header().Set("Allow", b.old[route].allow)
		failOld(w, r, &oldError{http.StatusMethodNotAllowed, "Method Not Allowed"})
		return
	}
	status, answer, err := b.serveOldMethod(w, r, m, agent)
	if err != nil {
		failOld(w, r, err)
		return
	}
	writeOld(w, status, answer)
}

func (b *Bridge) serveOldMethod(w http.ResponseWriter, r *http.Request, m oldMethod, agent string) (int, any, error) {
	req := &oldRequest{agent: agent}
	var raw []byte
	if m.takeBody {
		var err error
		if raw, err = readBody(w, r, b.timeouts.body); err != nil {
			return 0, nil, err
		}
		if req.body, err = parseOldBody(r.Header.Get("Content-Type"), raw); err != nil {
			return 0, nil, err
		}
	}
	if m.admit != nil {
		if err := m.admit(r, raw); err != nil {
			return 0, nil, err
		}
	}
	exchangeOf(r.Context()).reach(authenticated, time.Now())
	return m.serve(r.Context(), req)
}

// oldNotFound redirects from a path with a slash too many, as the old server did.
func oldNotFound(w http.ResponseWriter, r *http.Request) {
	trimmed := strings.TrimRight(r.URL.Path, "/")
	if route, _ := matchOld(trimmed); route == "" || trimmed == r.URL.Path {
		failOld(w, r, &oldError{http.StatusNotFound, "Not Found"})
		return
	}
	target := url.URL{Scheme: "http", Host: r.Host, Path: trimmed, RawQuery: r.URL.RawQuery}
	if r.TLS != nil {
		target.Scheme = "https"
	}
	w.Header().Set("Location", target.String())
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusTemporaryRedirect)
}

func oldHealth(context.Context, *oldRequest) (int, any, error) {
	return http.StatusOK, struct {
		Status string `json:"status"`
	}{"ok"}, nil
}

// parseOldBody returns the JSON value of a body, nil for none. A body that does not claim to be JSON is taken as a string.
func parseOldBody(contentType string, raw []byte) (event.Raw, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	if !utf8.Valid(raw) {
		return nil, &oldError{http.StatusBadRequest, "There was an error parsing the body"}
	}
	if !isJSON(contentType) {
		return event.MustMarshal(string(raw)), nil
	}
	body := event.Raw(bytes.TrimPrefix(raw, []byte("\uFEFF")))
	if issue := checkSyntax(body); issue != nil {
		return nil, &oldError{http.StatusUnprocessableEntity, []issueJSON{*issue}}
	}
	body = bytes.TrimSpace(body)
	if body.Kind() == 'n' {
		return nil, nil // null is no body
	}
	return body, nil
}

// isJSON reports whether a media type is JSON; an absent one is.
func isJSON(contentType string) bool {
	if contentType == "" {
		return true
	}
	kind, _, _ := strings.Cut(contentType, ";")
	sub, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(kind)), "application/")
	return ok && (sub == "json" || strings.HasSuffix(sub, "+json"))
}

// refusedWith reports whether an error is a refusal with a code.
func refusedWith(err error, code event.Code) bool { return errors.Is(err, &event.Error{Code: code}) }
