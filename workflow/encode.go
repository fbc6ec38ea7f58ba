package workflow

import "github.com/opspawn/opscore/bus/event"

// encode returns the run as event.Marshal does, in a tenth of its time: the run is written with every step it takes.
func (r *Run) encode() []byte {
	o := event.NewObject(512 + 512*len(r.Tasks) + len(r.Input))
	o.Int("v", int64(r.Version))
	o.String("id", r.ID)
	o.String("wf", r.Workflow)
	o.String("def", r.DefVersion)
	o.String("state", string(r.State))
	o.OptString("agent", r.Agent)
	o.OptBool("named", r.Named)
	o.OptBool("legacy", r.Legacy)
	o.OptValue("labels", r.Labels != nil, r.Labels)
	o.OptInt("prio", int64(r.Priority))
	o.OptRaw("input", r.Input)
	o.OptBool("bigInput", r.BigInput)
	o.OptString("hash", r.Hash)
	o.Time("created", r.Created)
	o.OptTime("ended", r.Ended)
	o.OptValue("error", r.Error != nil, r.Error)
	o.OptInt("seq", int64(r.Seq))
	if r.Commands != nil {
		o.List("cmds", len(r.Commands), func(i int) { o.UintElem(r.Commands[i]) })
	}
	o.OptTime("look", r.Look)
	o.Int("total", int64(r.Total))
	o.Int("completed", int64(r.Completed))
	if r.Tasks != nil {
		o.List("tasks", len(r.Tasks), func(i int) { r.Tasks[i].encode(o) })
	}
	o.OptValue("recent", r.Recent != nil, r.Recent)
	o.OptString("last", r.LastDone)
	o.OptInt("lastBig", int64(r.LastBig))
	o.OptInt("story", int64(r.Story))
	o.OptValue("marks", r.Marks != nil, r.Marks)
	o.OptInt("waits", int64(r.Waits))
	o.OptValue("parent", r.Parent != nil, r.Parent)
	return o.Bytes()
}

func (t *RunTask) encode(o *event.Object) {
	o.Begin()
	o.String("id", t.ID)
	o.String("state", string(t.State))
	o.Int("attempt", int64(t.Attempt))
	o.OptInt("tries", int64(t.Tries))
	o.OptString("agent", t.Agent)
	o.OptString("token", t.Token)
	o.OptString("process", t.Process)
	o.OptString("delivery", string(t.Delivery))
	o.OptTime("ready", t.Ready)
	o.OptTime("assigned", t.Assigned)
	o.OptTime("started", t.Started)
	o.OptTime("acceptBy", t.AcceptBy)
	o.OptTime("lease", t.Lease)
	o.OptTime("retry", t.Retry)
	o.OptTime("ended", t.Ended)
	o.OptRaw("output", t.Output)
	o.OptBool("big", t.Big)
	o.OptValue("error", t.Error != nil, t.Error)
	o.OptValue("percent", t.Percent != nil, t.Percent)
	o.OptString("message", t.Message)
	o.OptTime("renewed", t.Renewed)
	o.OptString("class", t.Class)
	o.OptTime("look", t.Look)
	o.OptInt("settled", int64(t.Settled))
	o.OptInt("taken", int64(t.Taken))
	o.OptValue("kids", t.Kids != nil, t.Kids)
	o.End()
}
