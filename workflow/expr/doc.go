// Package expr is the part of workflow definitions that is computed: expressions and templates over what a run holds.
//
// An expression is CEL (https://cel.dev) over these names:
//
//	input            the run's input
//	tasks.ID         a task of the run: .output, .state, .error (null, or .code and .message) and .agentId; tasks["an-id"] for ids that
//	                 are no identifiers
//	run              .id, .workflowId, .workflowVersion, .labels, .priority and .createdAt, a timestamp
//	item, index      within forEach: the item and its place, from 0; within loop only index
//	output           within loop: the output of the time before, null the first time
//
// Besides the standard functions there are those of the extensions strings, lists, math, sets, encoders and bindings of CEL. There is no clock and no
// chance: an expression has the same value whenever and wherever it is computed.
//
// A template is JSON whose strings may hold ${{ expression }}. A string that is nothing but one of them becomes the value, whatever its type; in
// others a string is put in as it is, null as nothing, and everything else as JSON. $${{ stands for ${{.
//
// # Numbers
//
// A JSON number that is an integer of 64 bits is an int, every other one a double. CEL does not mix them: 2 * input.price fails when the price
// is 1.5; write 2.0 * double(input.price). Comparisons do mix. What is only handed on, as by ${{ tasks.a.output.total }}, keeps
// its digits, and is copied without being decoded.
//
// # Bounds
//
// Source, nesting and nodes of an expression are bounded when it is compiled; its steps ([MaxCost]), the JSON that it reads ([MaxRead]) and the JSON
// that it makes are bounded when it is evaluated.
package expr
