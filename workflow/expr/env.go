package expr

import (
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/ext"
)

// Bounds of expressions.
const (
	MaxSource = 8 << 10 // bytes of an expression
	MaxCost   = 500_000 // steps of an evaluation, as CEL counts them: some ten milliseconds
	MaxRead   = 4 << 20 // bytes of JSON that an evaluation decodes

	MaxPieces = 1000 // expressions of a template, and texts between them in the same string

	maxDepth   = 50      // of an expression
	maxNodes   = 5_000   // of an expression, macros expanded
	maxRange   = 10_000  // numbers of lists.range
	maxNesting = 100     // of JSON that is read or made
	maxSize    = 1 << 20 // of a value: elements, members and, of strings, each sixteen bytes
)

// environment is what all expressions are compiled in.
var environment = sync.OnceValue(newEnvironment)

func newEnvironment() *cel.Env {
	env, err := cel.NewEnv(
		cel.Variable("input", cel.DynType),
		cel.Variable("tasks", cel.MapType(cel.StringType, cel.MapType(cel.StringType, cel.DynType))),
		cel.Variable("run", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("item", cel.DynType),
		cel.Variable("index", cel.IntType),
		cel.Variable("output", cel.DynType),
		ext.Strings(), ext.Lists(ext.ListsMaxRangeSize(maxRange)), ext.Math(), ext.Sets(), ext.Encoders(), ext.Bindings(),
		cel.CrossTypeNumericComparisons(true), cel.DefaultUTCTimeZone(true),
		cel.ParserRecursionLimit(maxDepth), cel.ParserErrorRecoveryLimit(1), cel.ParserExpressionSizeLimit(MaxSource),
		cel.ExpressionNodeLimit(maxNodes),
	)
	if err != nil {
		panic(err) // the options are constants
	}
	// The first mistake of all makes a list of what could have been meant, and cel-go 0.33.2 reads it elsewhere without waiting for that
	// (checker.Env.cloneWithDecls): two compilations at the same time would be a data race. So it is made before there can be two.
	_, _ = env.Compile("nobody")
	return env
}

// bounds are the bounds of an evaluation.
func bounds() []cel.ProgramOption {
	return []cel.ProgramOption{
		cel.CostTracking(dynamicCost{}), cel.CostLimit(MaxCost),
		cel.MemoryTracking(
			types.MemoryTrackerSampleInterval(1000), // of what grows in a loop, which would be sized again each time
			types.MemoryTrackerSizeCalculator(types.NewSizeCalculator(
				types.SizeCalculatorMaxDepth(maxNesting), types.SizeCalculatorMaxTraversal(maxSize), types.SizeCalculatorStringUnitLength(16),
			)),
		),
		cel.MemoryLimit(maxSize),
	}
}

// dynamicCost is the cost of calls whose overload was not known when the expression was compiled, because JSON has no declared types: CEL takes them
// for one step each, but to put two strings together copies both, and to look into a list takes as long as it is.
type dynamicCost struct{}

// CallCost returns the cost of a call, nil to leave it to CEL.
func (dynamicCost) CallCost(function, overloadID string, args []ref.Val, result ref.Val) *uint64 {
	if overloadID != "" {
		return nil
	}
	steps := uint64(1)
	for _, v := range append(args[:len(args):len(args)], result) {
		switch v := v.(type) {
		case types.String:
			steps += uint64(len(v) / 10)
		case types.Bytes:
			steps += uint64(len(v) / 10)
		case traits.Sizer:
			if n, ok := v.Size().(types.Int); ok && function != operators.Add && function != operators.Index {
				steps += uint64(n)
			}
		}
	}
	return &steps
}
