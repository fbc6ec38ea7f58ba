package workflow

import (
	"fmt"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/opspawn/opscore/bus/event"
)

// CodeInvalidOutput is the code of a failure: the output of a task does not fit its schema.
const CodeInvalidOutput = "invalid_output"

// checkInput says why a run cannot begin with an input, nil if it can.
func (d *Definition) checkInput(input event.Raw) *event.TaskError {
	if len(input) == 0 {
		input = event.Raw("{}")
	}
	return d.fit(d.InputSchema, input, string(event.CodeInvalid), "the input does not fit the inputSchema of the workflow")
}

// checkOutput says why what an attempt has brought is no output of the task, nil if it is. Another attempt may do better, and is told.
func (d *decider) checkOutput(t *RunTask, output event.Raw) *event.TaskError {
	task := d.task(t.ID)
	if why := d.def.fit(task.OutputSchema, output, CodeInvalidOutput, "the output does not fit the outputSchema of the task"); why != nil {
		return why
	}
	if t.Schema == "" || d.at.Schema == nil {
		return nil
	}
	if err := d.at.Schema.Check(output); err != nil {
		return &event.TaskError{Code: CodeInvalidOutput, Message: fmt.Sprintf(
			"the output does not fit the schema that agent %q has registered for capability %q: %v", t.Agent, task.capability(t.Fallback), err)}
	}
	return nil
}

func (d *Definition) fit(schema, value event.Raw, code, what string) *event.TaskError {
	if len(schema) == 0 || schema.Kind() == jsontext.KindNull {
		return nil
	}
	c, err := d.contract(schema)
	if err == nil {
		err = c.Check(value)
	}
	if err == nil {
		return nil
	}
	return &event.TaskError{Code: code, Message: what + ": " + err.Error()}
}
