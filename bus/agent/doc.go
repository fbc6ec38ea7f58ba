// Package agent is the Go SDK for programs that take tasks from Ops-Core.
//
// An agent is a [Config] and a [Handler]:
//
//	err := agent.Run(ctx, agent.Config{
//		URL:          "nats://127.0.0.1:4222",
//		ID:           "summarizer-1",
//		Capabilities: []string{"summarize"},
//	}, func(ctx context.Context, t *agent.Task) (any, error) {
//		var in struct{ Text string }
//		if err := t.Bind(&in); err != nil {
//			return nil, err
//		}
//		return map[string]string{"summary": shorten(in.Text)}, nil
//	})
//
// [Run] waits for NATS, registers the agent, reports it idle and serves tasks until ctx ends; then it drains.
//
// # What the SDK promises
//
//   - An attempt of a task is started at most once by one process, however often it is asked for within ten minutes (or the
//     65,536 tasks that followed). Ops-Core decides which attempt counts; the SDK echoes its token.
//   - At most [Config.Slots] handlers run at the same time. A slot is free again when its handler has returned.
//   - The result of an attempt is published until the stream has it: through reconnects, restarts of the server and the
//     drain. Only [Config.DrainTimeout] ends it, and then [Run] says which results were not stored, with [UnreportedError].
//   - A handler that panics fails its attempt and nothing else.
//   - No clock of the agent orders anything. The deadline of a task stops a handler that Ops-Core can no longer reach;
//     whether its result still counts is not decided here.
//
// # Stopping
//
// When the context of [Run] ends, the agent takes no more tasks and reports "draining"; the contexts of running handlers stay
// alive for four fifths of [Config.DrainTimeout] and are then cancelled with the cause [ErrInterrupted]. Results are reported
// until DrainTimeout is over. Then the agent reports "offline" and, with [Config.DeregisterOnStop], removes its registration.
//
// When another process has registered under the same id, this one is replaced: the tasks it held have been given to others,
// its messages are refused, and Run cancels the handlers and returns [ErrReplaced].
//
// # Goroutines
//
// One Run has these, and returns when all have ended:
//
//   - serve answers task and cancel requests in the order they came, and never blocks on a handler;
//   - one goroutine per running handler, which also hands its result to the outbox;
//   - outbox sends again what the streams have not acknowledged; acknowledgements arrive on a callback of the NATS client;
//   - presence, which is the goroutine of Run itself, registers again after a reconnect and finds out whether the process was
//     replaced;
//   - watch follows the connection and wakes outbox and presence;
//   - beat sends heartbeats.
//
// Several agents may share one connection ([Config.Conn]).
package agent
