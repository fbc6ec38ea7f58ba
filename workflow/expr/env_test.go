package expr

import (
	"sync"
	"testing"
)

// Expressions are compiled at the same time, wrong ones and those with scopes of their own, from the first on; the race detector looks on.
func TestExpressionsAreCompiledAtTheSameTime(t *testing.T) {
	t.Parallel()
	for range 20 {
		env := newEnvironment()
		var compiling sync.WaitGroup
		for _, source := range []string{"somebody", "[1, 2].exists(x, x == 1)", "[1, 2].map(x, y)"} {
			compiling.Go(func() { _, _ = env.Compile(source) })
		}
		compiling.Wait()
	}
}
