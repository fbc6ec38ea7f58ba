package workflow

// Remembers reports whether a run is kept in memory.
func (e *Engine) Remembers(run string) bool { return e.runs.Has(runKey(run)) }
