package bridge

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/go-json-experiment/json"

	"github.com/opspawn/opscore/bus/event"
)

const (
	apiRoot         = "/api/v1"
	pathDescription = "/openapi"
	pathDocs        = "/docs"
)

// isDescription reports whether a path is one of the description of the API, which everybody may read.
func isDescription(path string) bool {
	switch path {
	case pathDescription + ".json", pathDescription + ".yaml", pathDocs:
		return true
	}
	return false
}

// newAPI makes the handler of everything under /api, and of its description.
func (b *Bridge) newAPI() http.Handler {
	r := chi.NewRouter()
	r.Use(noteRoute, middleware.GetHead)
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		fail(w, r, &Problem{Status: http.StatusNotFound, Code: codeNotFound, Detail: "there is no such route"})
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Allow", strings.Join(allowed(r, req.URL), ", "))
		fail(w, req, &Problem{Status: http.StatusMethodNotAllowed, Code: codeMethodNotAllowed, Detail: req.Method + " is not allowed here"})
	})
	config := apiConfig(b.cfg.Version)
	r.Group(func(guarded chi.Router) { // bodies of any size
		guarded.Use(refuseOtherSites, b.admitAPI)
		b.backupRoutes(guarded)
	})
	r.Group(func(guarded chi.Router) {
		guarded.Use(refuseOtherSites, b.admitAPI, b.bufferBody)
		api := humachi.New(guarded, config)
		b.agentRoutes(api)
		b.reportRoutes(api)
		b.workflowRoutes(api)
		b.runRoutes(api)
		b.controlRoutes(api)
		if b.cfg.Schedules != nil {
			b.scheduleRoutes(api)
		}
		b.historyRoutes(api)
		b.deadRoutes(api)
		if b.cfg.Explain != nil {
			b.explainRoutes(api)
		}
		if b.cfg.Queues != nil {
			b.queueRoutes(api)
		}
		b.systemRoutes(api)
		b.requestRoutes(api)
	})
	describe(r, config.OpenAPI)
	return r
}

// apiConfig describes the API and encodes its bodies the way the wire does.
func apiConfig(version string) huma.Config {
	format := huma.Format{
		Marshal:   func(w io.Writer, v any) error { return json.MarshalWrite(w, v, json.Deterministic(true)) },
		Unmarshal: event.Unmarshal,
	}
	schemas := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	schemas.RegisterTypeAlias(reflect.TypeFor[event.Raw](), reflect.TypeFor[any]())
	config := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI:    "3.1.0",
			Info:       &huma.Info{Title: "Ops-Core API", Version: version},
			Components: &huma.Components{Schemas: schemas, SecuritySchemes: map[string]*huma.SecurityScheme{"key": {Type: "http", Scheme: "bearer"}}},
			Security:   []map[string][]string{{"key": {}}},
		},
		Formats:       map[string]huma.Format{"application/json": format, "json": format},
		DefaultFormat: "application/json",
		Transformers:  []huma.Transformer{transformError},
	}
	config.AllowAdditionalPropertiesByDefault = true // as on the wire, unknown members are ignored
	return config
}

// transformError gives the errors that huma finds in a request the form of all others.
func transformError(ctx huma.Context, _ string, v any) (any, error) {
	found, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	code := event.CodeInvalid
	switch found.Status {
	case http.StatusBadRequest, http.StatusUnsupportedMediaType:
		code = event.CodeMalformed
	case http.StatusRequestEntityTooLarge:
		code = event.CodeTooLarge
	}
	p := &Problem{Status: found.Status, Code: code, Detail: found.Detail}
	for _, e := range found.Errors {
		p.Errors = append(p.Errors, ProblemDetail{Message: e.Message, Location: e.Location}) // the value may be a secret
	}
	if found.Status >= http.StatusInternalServerError {
		return problemOf(ctx.Context(), fmt.Errorf("huma: %d %w", found.Status, found)), nil
	}
	return problemOf(ctx.Context(), p), nil
}

// noteRoute tells the log which pattern matched.
func noteRoute(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := exchangeOf(r.Context())
		x.pattern = chi.RouteContext(r.Context()).RoutePattern
		defer x.noteRoute() // the context is used again for other requests
		next.ServeHTTP(w, r)
	})
}

// allowed lists the methods that a path has.
func allowed(r chi.Routes, u *url.URL) []string {
	path := u.Path
	if u.RawPath != "" {
		path = u.RawPath // what the router goes by
	}
	var methods []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		if r.Match(chi.NewRouteContext(), m, path) {
			methods = append(methods, m)
			if m == http.MethodGet {
				methods = append(methods, http.MethodHead)
			}
		}
	}
	return methods
}

// bufferBody reads the body within the bounds that all routes share.
func (b *Bridge) bufferBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		body, err := readBody(w, r, b.timeouts.body)
		if err != nil {
			fail(w, r, err)
			return
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		next.ServeHTTP(w, r)
	})
}

// handle registers one operation. Its handler's error goes through the one map of errors.
func handle[I, O any](api huma.API, op huma.Operation, serve func(ctx context.Context, in *I) (*O, error)) {
	op.Path = apiRoot + op.Path
	op.MaxBodyBytes = 2 * maxBody // what comes here was read within bounds already
	op.BodyReadTimeout = -1
	op.Responses = withProblem(api, op.Responses)
	huma.Register(api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := serve(ctx, in)
		if err != nil {
			return nil, problemOf(ctx, err)
		}
		return out, nil
	})
}

// withProblem adds the description of errors to that of an operation's answers.
func withProblem(api huma.API, responses map[string]*huma.Response) map[string]*huma.Response {
	if responses == nil {
		responses = make(map[string]*huma.Response)
	}
	schema := api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Problem](), true, "Problem")
	responses["default"] = &huma.Response{
		Description: "Refused, or failed",
		Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: schema}},
	}
	return responses
}

// answer is a body of the API.
type answer[T any] struct{ Body T }

func answerWith[T any](v T) *answer[T] { return &answer[T]{Body: v} }

// pageInput is how a list is asked for.
type pageInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"Items per page"`
	Cursor string `query:"cursor" maxLength:"2048" doc:"nextCursor of the page before"`
}

// page is a list with the link to what follows it.
type page[T any] struct {
	Link string `header:"Link"`
	Body event.List[T]
}
