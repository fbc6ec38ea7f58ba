package bridge

import (
	"context"
	"errors"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"
	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus/event"
)

// system is what Ops-Core says of itself.
type system struct {
	Version string         `json:"version"`
	Status  string         `json:"status" doc:"ready or unavailable"`
	Checks  []checkShown   `json:"checks"`
	Streams []streamStatus `json:"streams"`
	Setup   Setup          `json:"setup"`
}

// Setup is how a server was started, for whoever looks for the cause of a problem.
type Setup struct {
	Store   string `json:"store,omitzero" doc:"redis or file"`
	NATS    string `json:"nats,omitzero" doc:"embedded or external"`
	NATSURL string `json:"natsUrl,omitzero" doc:"where an embedded server listens"`
}

// streamStatus is where a stream stands.
type streamStatus struct {
	Name     string    `json:"name"`
	FirstSeq uint64    `json:"firstSeq"`
	LastSeq  uint64    `json:"lastSeq"`
	LastTime time.Time `json:"lastTime,omitzero"`
}

func (b *Bridge) systemRoutes(api huma.API) {
	handle(api, huma.Operation{
		Method: http.MethodGet, Path: "/system", OperationID: "get-system", Summary: "Show version, checks and streams", Tags: []string{"system"},
	}, b.getSystem)
}

func (b *Bridge) getSystem(ctx context.Context, _ *struct{}) (*answer[system], error) {
	ready := b.readiness(ctx)
	s := system{Version: b.cfg.Version, Status: ready.Status, Checks: ready.Checks, Streams: []streamStatus{}, Setup: b.cfg.Setup}
	if !b.cfg.Bus.Connected() {
		return answerWith(s), nil
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.CallTimeout)
	defer cancel()
	for _, name := range []string{event.StreamAgent, event.StreamWork, event.StreamFact, event.StreamDead} {
		state, err := b.cfg.Bus.StreamState(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return nil, errors.Join(errBusDown, err)
		}
		s.Streams = append(s.Streams, streamStatus{Name: name, FirstSeq: state.FirstSeq, LastSeq: state.LastSeq, LastTime: state.LastTime})
	}
	return answerWith(s), nil
}

// describe serves the description of the API: for machines as OpenAPI, and as a page that needs nothing from elsewhere.
func describe(r chi.Router, doc *huma.OpenAPI) {
	asJSON, err := json.Marshal(doc)
	if err != nil {
		panic("bridge: description of the API: " + err.Error())
	}
	asYAML, err := doc.YAML()
	if err != nil {
		panic("bridge: description of the API: " + err.Error())
	}
	var page strings.Builder
	if err := docsPage.Execute(&page, operations(doc)); err != nil {
		panic("bridge: description of the API: " + err.Error())
	}
	serve := func(contentType string, body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			_, _ = w.Write(body) // the client is gone otherwise
		}
	}
	r.Get(pathDescription+".json", serve("application/json", asJSON))
	r.Get(pathDescription+".yaml", serve("application/yaml", asYAML))
	r.Get(pathDocs, serve("text/html; charset=utf-8", []byte(page.String())))
}

// operation is one line of the page.
type operation struct{ Method, Path, Summary string }

func operations(doc *huma.OpenAPI) []operation {
	var list []operation
	for path, item := range doc.Paths {
		for method, op := range map[string]*huma.Operation{
			http.MethodGet: item.Get, http.MethodPost: item.Post, http.MethodPut: item.Put, http.MethodDelete: item.Delete,
		} {
			if op != nil {
				list = append(list, operation{method, path, op.Summary})
			}
		}
	}
	slices.SortFunc(list, func(a, b operation) int {
		return strings.Compare(a.Path+" "+a.Method, b.Path+" "+b.Method)
	})
	return list
}

var docsPage = template.Must(template.New("docs").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Ops-Core API</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
td { padding: .2rem 1rem .2rem 0; } code { font-size: 90%; }
</style>
<h1>Ops-Core API</h1>
<p>The whole description: <a href="/openapi.json">openapi.json</a>, <a href="/openapi.yaml">openapi.yaml</a>.</p>
<table>
{{range .}}<tr><td><code>{{.Method}}</code></td><td><code>{{.Path}}</code></td><td>{{.Summary}}</td></tr>
{{end}}</table>
</html>
`))
