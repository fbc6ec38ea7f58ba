// Package workflow runs definitions: it owns what a workflow is, what each run of one has come to, and which agent is
// given which task. Agents themselves belong to package lifecycle; of it, workflow uses the gates and the matcher.
//
// # Words
//
// A [Definition] is a workflow as data; its version is its content ([VersionOf]), so a run is pinned to what it began with. A [Run] is one
// execution of it. Its tasks become ready one after the other, or as the edges of a graph meet; a ready task waits in the queue of its selector class, which is the
// agent it must go to, or the capability, versions and labels it asks for ([Selector]). To give it to an agent is an attempt, and run, task, number and token of the attempt are the fence
// of all that is said about it. The attempt holds a slot in the gate of its agent.
//
// # The turn
//
// [Decide] is the whole truth about a run: a pure function from a document and an input to the next document and to what follows for
// slots. Around it, [Engine] takes one turn at a time:
//
//	take inputs ─► read what they are about ─► Decide ─► give ready tasks to free agents ─► one Commit ─► act
//	      ▲                                                                                   │          │
//	      └───────────────────────────── conflict: forget, read again ◄───────────────────────┘          │
//	   answers, timers, hints ◄──────────────────────────────────────────────── requests, cancels, facts ┘
//
// Nothing is said or done before it is committed, and everything that is done may be done twice or not at all: each step has a timer in the same
// Txn, and whoever finds it due looks at the document again. A message is acknowledged after the commit.
//
// # Documents
//
//	run/RUN                        Run: its active tasks, and ended ones while the definition has at most 100
//	run-input/RUN                  the input, when it is over 1 KiB
//	run-result/RUN                 the output of a run whose definition says what it is, when it is over 1 KiB
//	run-task/RUN/TASK              RunTask: an ended task of a definition with more than 100
//	run-output/RUN/TASK/ATTEMPT    an output over 1 KiB
//	run-items/RUN/TASK/ROUND/PAGE  a hundred items of a forEach
//	limit/QUEUE                    how many runs of a definition with a limit go on, of those with the same key, and how many wait in pending/QUEUE
//	workflow/ID                    which version of a definition is the latest
//	workflow-version/VERSION/ID    a definition; never changes
//	schedule/ID                    Schedule: when runs are started by the clock, and how far that was judged
//	retired                        which replica removed runs last, and when
//	watch                          written each second while some replica can take in what is said, and the times in which none could
//	replica/NAME                   written by one replica only, each second: shows it that the store came back older
//	paused-queues                  which capabilities' tasks are given to nobody
//	gate/AGENT                     of lifecycle: what is held on an agent; in every Txn that takes or frees a slot
//	agent-schemas/AGENT            of lifecycle: the schemas that an agent has registered, by their names
//
// # Indexes
//
// Indexes follow from the documents of the same Txn and from nothing else:
//
//	runs            run, by creation
//	ended           run that has ended, by when it did
//	workflows       definition, by id
//	schedules       schedule, by id
//	ready/CLASS     run|task, by when it became ready, less 30 s for each step of its priority: exactly the tasks whose Class it is
//	pending/QUEUE   runs that wait for their turn to begin, by when they were started: of a definition that is paused
//	approvals       run|task that waits for a person's word, by since when
//	tree/TREE       runs that a run has started and those that they have, by creation; a run that is run again has another tree
//	early           runs that commands are kept for and that were not started yet: their documents are stubs
//	classes         every class that has a ready task; the score is a random mark, so that an empty one is struck off only if nobody has joined it
//	free/CAP        of lifecycle: agents that are free, least recently used first: exactly the gates that are
//	able/CAP        of lifecycle: agents that would be, but for slots, a back-off or a breaker; by when the breaker lets a task through
//	due/workflow    what to look at, and when:
//	                t|run|task                 any other task whose Look is set
//	                r|run                      a run whose Look is set
//	                f|run|version              a final fact that is not known to be published
//	                l|run|task|attempt         a dead letter of a task whose retries are spent, not known to be stored
//	                d|agent|run|task|attempt   a slot that drains: its cancel was not confirmed
//	                y|run                      commands that are kept for a run which nobody has started
//	                q|queue                    runs that wait in a queue may begin
//	                b|agent                    an agent whose back-off ends, or whose breaker lets a task through again
//	                s|schedule                 the next tick of a schedule
//	                m|queue                    a limiter that has room, while runs wait for it
//	                g|agent                    of lifecycle: an agent whose process was replaced, or that is lost
//	                x|agent                    of lifecycle: an agent whose time to drain is over
//	                a|agent|cause|n            of lifecycle: a fact about an agent that is not known to be published
//	                e|agent|run|task|attempt|seq   of lifecycle: an attempt that the state at seq has ended, of an agent that knows no results
//	due/kin         the same between parents and children, of which a tree of runs may have very many at the same time:
//	                t|run|task                 a task that waits for its children
//	                p|run                      a child that has ended, until its parent has taken that in
//	                w|run                      a child that has begun or ceased to wait for people, until its parent has taken that in
//	                c|run|task                 a task that has ended before its children, until they have; or was paused or resumed
//
// # Goroutines
//
// [Engine.Run] starts these, and returns when they have: the consumer of the work stream calls [Engine.Handle]; fireTimers looks for what is due
// ten times a second; drainInbox takes in the answers of agents and the hints of other replicas, and looks at what waits four times a second; retire
// removes runs that ended long ago; two work reads what is too much for a turn, for tasks with children. The first three take their turns under one
// lock. A turn of many inputs is cut into chunks, and a goroutine of its own commits one while the next is decided. Answers and hints come by
// goroutines of the connection, which only put them into the inbox.
//
// # States
//
//	reached
//	   │       given to          accepted,
//	   ▼       an agent          progress
//	 ready ──────────────► assigned ──────────────► running
//	   ▲ ▲                    │ │                     │ │
//	   │ └────────────────────┴─┼─────────────────────┘ │   rejected, no responder, process replaced, agent lost
//	   │                        │                       │
//	   │                        ├───────────────────────┘   result failed, not accepted in time, lease over
//	   │      wait is over      ▼
//	   └──────────────────── retrying      or, when no retry is left or allowed: failed, and with it the run
//
//	 ready, assigned, running, retrying ── result completed ──► completed: the next task is reached, or the run completed
//	 ready, assigned, running, retrying ── the run ends otherwise ──► cancelled
//
//	 run: start ──► running ──► completed, failed or cancelled
//
// # Children
//
// The items of a forEach, the times of a loop and the workflow inside of a workflow are runs of their own: children ([ParentRef]). The task that has
// them waits, and knows how many there are, which go on, and how many have ended ([Children]).
//
//	reached ─► open ─► start children ◄──┐ while there are more, at most maxParallel at a time
//	         (items)      │              │
//	                      ▼              │
//	                 one has ended ──────┤
//	                      │              └ loop: the condition holds
//	                      ├─► all have: join the outputs ─► completed
//	                      └─► more failures than are tolerated ─► failed, and the others are cancelled
//
// What is put into one Txn: the parent with the children that it starts; the end of a child with the entry that tells its parent; the end of a task
// with the entry that cancels its children. Open, join and the condition of a loop read much, so they are jobs besides the turns, whose findings are
// inputs. Whatever is lost with a replica is found again by the task's timer. A tree has at most [MaxTree] runs below the first.
//
// A task is entered for a new round when the run goes on again from it, or when a workflow inside of it has failed and is tried again. The round is part of the
// ids of its children, so those of the rounds before stay what they were; what went on of them is cancelled.
//
// # Rules
//
//   - An attempt is outdated only when its successor is assigned. Until then its result is taken, whatever has been decided, and cancels the retry.
//   - A rejection, silence, a process that was replaced and an agent that is lost spend no retry. An attempt that was not accepted in time, or whose lease ran out, does.
//   - Every slot that is taken is freed once: by the result, a refusal or, once it drains, the agent's word, a late result or the end of its grace.
//   - Leases, the time to accept and that of a run are judged by intake time, waits and back-off by the clock. Outages of NATS, the store or all replicas do not count.
//   - What a lost agent held is given to others. Its slots stay in use: should it return it is told to stop, and they drain.
//   - A repeat changes nothing. It is refused only when a successor has been assigned, or the task has ended otherwise, since.
//   - An attempt is held to the output schema that its agent had when it was given to it; a task remembers which input schemas it does not fit.
//   - Only the agent, process and token that an attempt was given to can say anything of it.
//
// # What happens to an attempt
//
// The last attempt of the task is the second, with a retry left; the first was rejected. "Older" is the first, "newer" a third. "-" is nothing.
//
//	EVENT                             TASK IS               RESULT
//	given to an agent                 ready                 assigned
//	                                  others                refused: not_allowed_now
//	its input does not fit            ready                 ready for others
//	                                  others                -
//	accepted                          assigned              running
//	                                  others                -
//	accepted, older attempt           any                   refused: stale_attempt
//	progress                          assigned              running
//	                                  running               lease renewed
//	                                  failed, cancelled     refused: stale_attempt
//	                                  others                -
//	progress, soon after other        assigned              running
//	                                  failed, cancelled     refused: stale_attempt
//	                                  others                -
//	progress, older attempt           any                   refused: stale_attempt
//	result completed                  completed             slot freed if it drains
//	                                  failed, cancelled     slot freed if it drains; refused: stale_attempt
//	                                  others                completed; slot freed
//	result that does not fit          assigned, running     retrying; slot freed
//	                                  completed, cancelled  slot freed if it drains; refused: stale_attempt
//	                                  failed                slot freed if it drains
//	                                  others                slot freed
//	result failed                     assigned, running     retrying; slot freed
//	                                  completed, cancelled  slot freed if it drains; refused: stale_attempt
//	                                  failed                slot freed if it drains
//	                                  others                slot freed
//	result failed, no retry left      assigned, running     failed, run failed; slot freed
//	                                  completed, cancelled  slot freed if it drains; refused: stale_attempt
//	                                  failed                slot freed if it drains
//	                                  others                slot freed
//	result failed, not retryable      assigned, running     failed, run failed; slot freed
//	                                  completed, cancelled  slot freed if it drains; refused: stale_attempt
//	                                  failed                slot freed if it drains
//	                                  others                slot freed
//	result, older attempt             any                   slot freed if it drains; refused: stale_attempt
//	result, newer attempt             any                   slot freed if it drains; refused: stale_attempt
//	… after a regression              ready, retrying       completed; slot taken; slot freed
//	                                  others                slot freed if it drains; refused: stale_attempt
//	result, other agent               any                   refused: stale_attempt
//	result, other token               any                   refused: stale_attempt
//	result, without token             completed             slot freed if it drains
//	                                  failed, cancelled     slot freed if it drains; refused: stale_attempt
//	                                  others                completed; slot freed
//	result, other process             any                   refused: stale_instance
//	rejected                          assigned              ready; slot freed, agent backs off
//	                                  others                -
//	rejected, older attempt           any                   -
//	no responder                      assigned              ready; slot freed, agent out of rotation
//	                                  others                -
//	process replaced                  assigned, running     ready; slot freed
//	                                  others                -
//	taken away                        assigned, running     ready; slot drains
//	                                  others                -
//	process replaced, older attempt   any                   -
//	timer, early                      any                   -
//	timer, 1 s                        assigned              looked at later; asked again
//	                                  retrying              ready
//	                                  others                -
//	timer, 1 s, accepted is known     assigned              running
//	                                  retrying              ready
//	                                  others                -
//	timer, 5 s, intake behind         assigned              looked at later; asked again
//	                                  retrying              ready
//	                                  others                -
//	timer, 5 s                        assigned              retrying; slot drains
//	                                  retrying              ready
//	                                  others                -
//	timer, lease over, intake behind  assigned              running
//	                                  running               looked at later
//	                                  retrying              ready
//	                                  others                -
//	timer, lease over                 assigned              running
//	                                  running               retrying; slot drains
//	                                  retrying              ready
//	                                  others                -
//	timer, lease over, no retry left  assigned, running     failed, run failed; slot drains
//	                                  retrying              ready
//	                                  others                -
//	run cancelled                     assigned, running     cancelled; slot drains
//	                                  completed             run cancelled
//	                                  failed                refused: not_allowed_now
//	                                  cancelled             -
//	                                  others                cancelled
//
// # What the way to an agent changes
//
// The task is assigned. An agent that is reached by HTTP has more time to accept, but not more than its lease. An agent that takes each
// request for a new one, because it knows no attempts (agentkit), is asked once, by the replica that committed the assignment: when that
// is overdue it may be at work. Its attempt is ended by its states, which lifecycle watches; what they mean becomes a result, and goes the
// way of all results.
//
//	EVENT                          REACHED BY  RESULT
//	timer, 1 s                     nats        looked at later; asked again
//	                               others      -
//	timer, 5 s                     nats        retrying; slot drains
//	                               agentkit    looked at later
//	                               others      looked at later; asked again
//	timer, 5 s, accepted is known  any         running
//	timer, 15 s, intake behind     agentkit    looked at later
//	                               others      looked at later; asked again
//	timer, 15 s                    agentkit    running
//	                               others      retrying; slot drains
//	timer, 3 s, its lease is over  nats        looked at later; asked again
//	                               agentkit    running
//	                               others      retrying; slot drains
//	rejected                       any         ready; slot freed, agent backs off
//	no responder                   any         ready; slot freed, agent out of rotation
//
// # What happens to a run
//
// The run has two tasks; the second is assigned. An event of another kind than start for a run that does not exist is refused as unknown_run.
//
//	EVENT                                 RUN IS     RESULT
//	start                                 none       running
//	                                      others     -
//	start, another body                   none       running
//	                                      others     refused: conflict
//	start, no tasks                       none       completed
//	                                      others     -
//	start, first task for nobody          none       failed
//	                                      others     -
//	start, legacy, bad definition         none       failed
//	                                      others     -
//	last task completed                   none       refused: unknown_run
//	                                      running    completed; slot freed
//	                                      completed  slot freed if it drains
//	                                      others     slot freed if it drains; refused: stale_attempt
//	last task failed, to be tried again   none       refused: unknown_run
//	                                      running    running; slot freed
//	                                      failed     slot freed if it drains
//	                                      others     slot freed if it drains; refused: stale_attempt
//	last task failed for good             none       refused: unknown_run
//	                                      running    failed; slot freed
//	                                      failed     slot freed if it drains
//	                                      others     slot freed if it drains; refused: stale_attempt
//	cancel                                none       refused: unknown_run
//	                                      running    cancelled; slot drains
//	                                      cancelled  -
//	                                      others     refused: not_allowed_now
//	cancel, repeated                      none       refused: unknown_run
//	                                      others     -
//	timer of a legacy run, early          none       refused: unknown_run
//	                                      others     -
//	timer of a legacy run, intake behind  none       refused: unknown_run
//	                                      running    looked at later
//	                                      others     -
//	timer of a legacy run                 none       refused: unknown_run
//	                                      running    failed; slot drains
//	                                      others     -
//
// # When a task of a graph begins
//
// Three edges lead to the task. A later edge into a task that has begun, or was skipped, changes nothing.
//
//	EDGES                                       JOIN    TASK IS
//	3 taken, 0 not, 0 open                      any     ready
//	3 taken, 0 not, 0 open, when does not hold  any     skipped
//	2 taken, 1 not, 0 open                      any     ready
//	2 taken, 0 not, 1 open                      all     pending
//	                                            others  ready
//	1 taken, 2 not, 0 open                      2       skipped
//	                                            others  ready
//	1 taken, 1 not, 1 open                      any     ready
//	                                            others  pending
//	1 taken, 0 not, 2 open                      any     ready
//	                                            others  pending
//	0 taken, 3 not, 0 open                      any     skipped
//	0 taken, 2 not, 1 open                      any     pending
//	0 taken, 1 not, 2 open                      any     pending
//	0 taken, 0 not, 3 open                      any     pending
//
// # What follows from a failure
//
// A task that can be undone has completed before. What has failed for good is tried by the next fallback, then fails the run unless onFailure goes on.
//
//	TASK HAS                             ONFAILURE SAYS  TASK IS
//	failed, a retry is left              any             retrying
//	failed, no retry is left             fallback        ready for the fallback
//	                                     taskId          failed, taskId begins
//	                                     continue        failed, goes on
//	                                     nothing         failed, run undoes and fails
//	failed, with a code of nonRetryable  fallback        ready for the fallback
//	                                     taskId          failed, taskId begins
//	                                     continue        failed, goes on
//	                                     nothing         failed, run undoes and fails
//	failed, not retryable                fallback        ready for the fallback
//	                                     taskId          failed, taskId begins
//	                                     continue        failed, goes on
//	                                     nothing         failed, run undoes and fails
//	not taken in time                    fallback        ready for the fallback
//	                                     taskId          failed, taskId begins
//	                                     continue        failed, goes on
//	                                     nothing         failed, run undoes and fails
//	its parameters have no value         taskId          failed, taskId begins
//	                                     continue        failed, goes on
//	                                     others          failed, run undoes and fails
//
// # What the clocks of a task do
//
// Each clock has 20 s, the run a minute; a retry is left. A clock that stands because the run is paused goes on where it stood.
//
//	CLOCK                       TASK IS   RESULT
//	queueSeconds are over       ready     run failed: queue_timeout
//	                            assigned  retrying: not_accepted
//	                            others    -
//	… intake behind             any       -
//	… paused before             assigned  retrying: not_accepted
//	                            others    -
//	acceptSeconds are over      assigned  retrying: not_accepted
//	                            others    -
//	… intake behind             any       -
//	… paused before             assigned  retrying: not_accepted
//	                            others    -
//	runSeconds are over         assigned  retrying: not_accepted
//	                            running   retrying: attempt_timeout
//	                            others    -
//	… intake behind             any       -
//	… paused before             assigned  retrying: not_accepted
//	                            others    -
//	progressSeconds are over    assigned  retrying: not_accepted
//	                            running   retrying: timeout
//	                            others    -
//	… intake behind             any       -
//	… paused before             assigned  retrying: not_accepted
//	                            others    -
//	runTimeoutSeconds are over  any       run failed: run_timeout
//	… intake behind             any       -
//	… paused before             any       -
//
// # What commands do to a run
//
// It has a task for an agent, one that waits for a signal and one that waits for a person, all at once. Pause and resume are level: the last one
// in the stream counts, in whatever order they are taken in. The others are edges: each is applied once, by its sequence. Those that are kept for the start
// of a run are taken in with it, in the order of the stream. All commute with results and with each other as far as the table says nothing
// else; a cancel wins over what is taken in after it, and loses against an end that was taken in before.
//
//	COMMAND                       RUN IS                        RESULT
//	pause                         none                          kept for its start
//	                              completed, failed, cancelled  refused: not_allowed_now
//	                              others                        paused
//	resume                        none                          kept for its start
//	                              pending                       pending
//	                              running, paused               running
//	                              others                        refused: not_allowed_now
//	cancel                        none                          kept for its start
//	                              completed, failed             refused: not_allowed_now
//	                              cancelled                     -
//	                              others                        cancelled
//	signal that a task waits for  none                          kept for its start
//	                              pending                       kept for a task that will wait
//	                              running, paused               task completed
//	                              others                        refused: not_allowed_now
//	signal that no task knows     none                          kept for its start
//	                              completed, failed, cancelled  refused: not_allowed_now
//	                              others                        refused: invalid
//	approve                       none                          refused: unknown_run
//	                              running, paused               task completed
//	                              completed                     -
//	                              others                        refused: not_allowed_now
//	reject                        none                          refused: unknown_run
//	                              running, paused               failed; task failed
//	                              completed                     refused: conflict
//	                              others                        refused: not_allowed_now
//	retry                         none                          refused: unknown_run
//	                              failed, cancelled             running
//	                              others                        refused: not_allowed_now
//	rerun                         none                          refused: unknown_run
//	                              completed, failed, cancelled  running
//	                              others                        refused: not_allowed_now
//
// # What a person's word does
//
// An approval waits for a minute. The first word counts, or the time.
//
//	WORD     APPROVAL                              RESULT
//	approve  approved, time over: approve          -
//	         rejected, goes on, time over: reject  refused: conflict
//	         time over: fail                       refused: not_allowed_now
//	         others                                task completed
//	reject   approved, time over: approve          refused: conflict
//	         rejected, goes on, time over: reject  -
//	         time over: fail                       refused: not_allowed_now
//	         others                                failed; task failed
//
// # What becomes of a task that waits
//
// For each it may wait 20 s. While the run is paused its timer does not fire, and one that was read before changes nothing.
//
//	EVENT                          WAITS FOR  RESULT
//	timer, early                   any        -
//	timer                          a signal   failed: signal_timeout
//	                               a person   failed: approval_timeout
//	                               time       completed
//	timer, intake behind           time       completed
//	                               others     looked at later
//	timer, paused                  any        -
//	timer, paused for 10 s before  any        -
//	signal                         a signal   completed
//	                               others     refused: invalid
//	signal, paused                 a signal   completed
//	                               others     refused: invalid
//	approve                        a person   completed
//	                               others     refused: invalid
//	cancel                         any        cancelled
//
// # What becomes of a task with children
//
// It is a forEach over three items, two at a time, of which one may fail. What is said of a child is told by its due entry, perhaps again and again.
//
//	EVENT                               TASK IS                      RESULT
//	items are known                     opening                      has 3
//	                                    others                       -
//	there are no items                  opening                      completed
//	                                    others                       -
//	items are too many for the tree     opening                      failed: tree_too_large
//	                                    others                       -
//	items cannot be known               opening                      failed: expression_error
//	                                    others                       -
//	room for more                       any                          -
//	a child has completed               under way, paused            one less goes on
//	                                    others                       -
//	… and is told again                 any                          -
//	… and there is room for more        under way                    starts 1
//	                                    others                       -
//	… but none in the tree              under way                    failed: tree_too_large
//	                                    others                       -
//	a child has failed                  under way, paused            one less goes on
//	                                    others                       -
//	… and another                       under way, paused            failed: broke
//	                                    others                       -
//	a child of another round has ended  any                          -
//	an active child is missing          under way                    starts 1
//	                                    others                       -
//	the outputs are joined              joining                      completed
//	                                    others                       -
//	… and too large                     joining                      failed: too_large
//	                                    others                       -
//	timer                               opening, under way, joining  looked at later
//	                                    others                       -
//
// # What becomes of a run that undoes what it has done
//
// Its second task has failed, so that the first is undone; a retry is left for that. The time of the run, a minute, is over.
//
//	EVENT                   IT IS              RESULT
//	pause                   any                run paused
//	resume                  any                -
//	cancel                  any                refused: not_allowed_now
//	retry                   any                refused: not_allowed_now
//	rerun                   any                refused: not_allowed_now
//	timer of the run        any                -
//	result completed        ready              refused: stale_attempt
//	                        others             completed; run failed: broke
//	result failed for good  ready              refused: stale_attempt
//	                        retrying           -
//	                        others             failed; run failed: broke, names what is not undone
//	process replaced        assigned, running  ready
//	                        others             -
package workflow
