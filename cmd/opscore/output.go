package main

import (
	"bufio"
	"fmt"
	"io"
	"iter"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// outputFormat is the value of --output.
type outputFormat string

// The output formats.
const (
	formatTable = "table"
	formatJSON  = "json"
)

// Set checks and sets the format.
func (f *outputFormat) Set(s string) error {
	if s != formatTable && s != formatJSON {
		return fmt.Errorf("it can be %s or %s", formatTable, formatJSON)
	}
	*f = outputFormat(s)
	return nil
}

// String returns the format.
func (f *outputFormat) String() string {
	if *f == "" {
		return formatTable
	}
	return string(*f)
}

// Type is how help texts call the value.
func (f *outputFormat) Type() string { return "format" }

// print writes one thing to stdout: its JSON, or the sheet that show fills for people.
func (a *app) print(thing any, show func(*sheet)) error {
	if a.output == formatJSON {
		enc := jsontext.NewEncoder(a.stdout, jsontext.WithIndent("  "))
		return json.MarshalEncode(enc, thing, json.Deterministic(true))
	}
	p := &sheet{style: a.style(a.stdout)}
	show(p)
	return p.writeTo(a.stdout)
}

// printList writes a list to stdout page by page, so that its length does not matter.
func printList[T any](a *app, list iter.Seq2[[]T, error], head []string, row func(style, T) []cell) error {
	if a.output == formatJSON {
		return printJSONList(a.stdout, list)
	}
	s := a.style(a.stdout)
	t := newTable(head...)
	begun := false
	for items, err := range list {
		if err != nil {
			return err
		}
		rows := make([][]cell, len(items))
		for i, item := range items {
			rows[i] = row(s, item)
		}
		p := &sheet{style: s}
		p.rows(t, rows, !begun)
		begun = true
		if err := p.writeTo(a.stdout); err != nil {
			return err
		}
	}
	return nil
}

// printJSONList writes {"items":[…]} with the items of all pages. After a failure it leaves the array open, so that nobody takes it for whole.
func printJSONList[T any](w io.Writer, list iter.Seq2[[]T, error]) error {
	buffered := bufio.NewWriter(w)
	enc := jsontext.NewEncoder(buffered, jsontext.WithIndent("  "))
	begun := false
	for items, err := range list {
		if err == nil && !begun {
			begun = true
			err = writeTokens(enc, jsontext.BeginObject, jsontext.String("items"), jsontext.BeginArray)
		}
		if err != nil {
			return err
		}
		for _, item := range items {
			if err := json.MarshalEncode(enc, item, json.Deterministic(true)); err != nil {
				return err
			}
		}
	}
	if err := writeTokens(enc, jsontext.EndArray, jsontext.EndObject); err != nil {
		return err
	}
	return buffered.Flush()
}

func writeTokens(enc *jsontext.Encoder, tokens ...jsontext.Token) error {
	for _, t := range tokens {
		if err := enc.WriteToken(t); err != nil {
			return err
		}
	}
	return nil
}
