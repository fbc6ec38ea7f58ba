package main

import (
	"context"
	"errors"

	"github.com/opspawn/opscore/loadgen"
)

// runWatched runs a scenario while a prober asks the server what it says of itself. The evidence is what the prober found, also when the
// run could not begin; logs are the caller's to add.
func runWatched(ctx context.Context, cfg loadgen.Config) (*loadgen.Result, loadgen.Evidence, error) {
	prober := loadgen.StartProber(cfg.Target.HTTP)
	r, err := loadgen.Run(ctx, cfg)
	evidence := loadgen.Evidence{}
	prober.Stop(&evidence)
	if cfg.Scenario != nil {
		evidence.Pause = cfg.Scenario.Pause.Max
	}
	return r, evidence, err
}

// judge returns the verdict on a run, or on the check that kept it from beginning. It reports false if err is about something else.
func judge(r *loadgen.Result, evidence loadgen.Evidence, err error) (loadgen.Verdict, bool) {
	if check, ok := errors.AsType[*loadgen.CheckError](err); ok {
		return loadgen.JudgeCheck(check, evidence), true
	}
	if r == nil {
		return loadgen.Verdict{}, false
	}
	return loadgen.Judge(r, evidence), true
}
