package main

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
)

// newDeadCommand makes "opscore dead".
func newDeadCommand(a *app) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "dead",
		Short: "Show, repair, send again and delete messages that could not be handled",
		Long: `A message that can never be handled becomes a dead letter: it is kept as it came, with the reason. A letter is named by its number.

"dead replay" sends a letter again to where it was sent, once however often that is asked for; a letter that fails again comes back under another
number, five times at most. "dead edit" does the same with another body.`,
	})
	cmd.AddCommand(newDeadList(a), newDeadGet(a), newDeadReplay(a), newDeadEdit(a), newDeadDelete(a))
	return cmd
}

// deadFlags say which dead letters are meant.
type deadFlags struct {
	class, subject, agent, run string
	since                      time.Duration
	limit                      int
}

func (f *deadFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.class, "class", "", "only those given up for this `reason`, for example unknown_run")
	flags.StringVar(&f.subject, "subject", "", "only those sent to this `subject`; * and > as in NATS")
	flags.StringVar(&f.agent, "agent", "", "only those about the agent with this `id`")
	flags.StringVar(&f.run, "run", "", "only those about the run with this `id`")
	flags.DurationVar(&f.since, "since", 0, "only those given up in the last `time`, for example 1h")
	flags.IntVar(&f.limit, "limit", 0, "no more than this `number` (default: all)")
}

func (f *deadFlags) check() error {
	if f.since < 0 || f.limit < 0 {
		return usagef("--since and --limit must not be negative")
	}
	return nil
}

// deadPages follows the list of the letters that the flags mean, up to the one that was the youngest when it began: replays may bring new ones.
func deadPages(ctx context.Context, c *client, f *deadFlags, whole *event.DeadList) iter.Seq2[[]event.DeadLetter, error] {
	query := url.Values{}
	for name, value := range map[string]string{"class": f.class, "subject": f.subject, "agent": f.agent, "run": f.run} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if f.since > 0 {
		query.Set("since", time.Now().Add(-f.since).UTC().Format(time.RFC3339))
	}
	return func(yield func([]event.DeadLetter, error) bool) {
		left, last := f.limit, uint64(0)
		for first := true; ; first = false {
			query.Set("limit", strconv.Itoa(pageSize))
			if f.limit > 0 {
				query.Set("limit", strconv.Itoa(min(left, pageSize)))
			}
			list, err := send[event.DeadList](ctx, c, request{method: http.MethodGet, path: apiRoute("dead"), query: query})
			if err != nil {
				yield(nil, err)
				return
			}
			if first {
				last = list.LastSeq
				*whole = list
			}
			items := list.Items
			for len(items) > 0 && items[len(items)-1].Seq > last {
				items = items[:len(items)-1]
			}
			left -= len(items)
			if !yield(items, nil) || list.NextCursor == "" || len(items) < len(list.Items) || f.limit > 0 && left <= 0 {
				return
			}
			query.Set("cursor", list.NextCursor)
		}
	}
}

func newDeadList(a *app) *cobra.Command {
	var f deadFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, oldest first",
		Args:  none,
		Example: `  opscore dead list --class unknown_run --since 1h
  opscore dead list --agent writer-1 -o json`,
		RunE: a.call(func(ctx context.Context, c *client, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			var whole event.DeadList
			head := []string{"LETTER", "CLASS", "SUBJECT", "RUN", "WHEN", "COUNT", "HOPS", "REASON"}
			if err := printList(a, deadPages(ctx, c, &f, &whole), head, deadRow); err != nil || a.output == formatJSON {
				return err
			}
			fmt.Fprintln(a.stderr, deadFooter(&whole))
			return nil
		}),
	}
	f.add(cmd)
	return cmd
}

// deadFooter says how many letters there are in all, and whether some were dropped.
func deadFooter(l *event.DeadList) string {
	text := fmt.Sprintf("%d dead letters are stored, %s of %s", l.Letters, size(l.Bytes), size(l.MaxBytes))
	if l.Evicted > 0 {
		text += fmt.Sprintf("; %d older ones were dropped to make room since the server began to count", l.Evicted)
	}
	return text
}

// size shows a number of bytes; nothing bounds what is not above 0.
func size(n int64) string {
	switch {
	case n <= 0:
		return "0 B"
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

func deadRow(s style, l event.DeadLetter) []cell {
	hops := text("")
	if l.Hops > 0 {
		hops = text(strconv.Itoa(l.Hops)).in(colorWarn)
	}
	return []cell{
		text(strconv.FormatUint(l.Seq, 10)), text(string(l.Class)).in(colorBad), text(l.Subject), text(l.RunID), s.time(l.LastAt),
		text(strconv.FormatUint(l.Count, 10)), hops, text(l.Reason),
	}
}

func newDeadGet(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "get LETTER",
		Short: "Show a dead letter with its body, and why it was given up",
		Args:  one("a dead letter"),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			letter, err := getLetter(ctx, c, args[0])
			if err != nil {
				return err
			}
			return a.print(letter, func(p *sheet) { showLetter(p, letter) })
		}),
	}
}

// getLetter reads one letter.
func getLetter(ctx context.Context, c *client, name string) (*event.DeadLetter, error) {
	if _, err := letterNumber(name); err != nil {
		return nil, err
	}
	letter, err := send[event.DeadLetter](ctx, c, request{method: http.MethodGet, path: apiRoute("dead", name)})
	return &letter, err
}

func letterNumber(name string) (uint64, error) {
	seq, err := strconv.ParseUint(name, 10, 64)
	if err != nil || seq == 0 {
		return 0, usagef("%q is not the number of a dead letter; \"opscore dead list\" shows them", name)
	}
	return seq, nil
}

func showLetter(p *sheet, l *event.DeadLetter) {
	p.field("Letter", text(strconv.FormatUint(l.Seq, 10)))
	p.field("Class", text(string(l.Class)).in(colorBad))
	p.field("Reason", text(l.Reason))
	p.field("Subject", text(l.Subject))
	if l.Stream != "" {
		p.field("Stream", text(fmt.Sprintf("%s, message %d", l.Stream, l.StreamSeq)))
	}
	p.optional("Agent", l.AgentID)
	p.optional("Run", l.RunID)
	p.field("Said", p.time(l.FirstAt))
	p.field("Given up", p.time(l.LastAt))
	p.field("Count", text(strconv.FormatUint(l.Count, 10)))
	if l.Hops > 0 {
		p.field("Hops", text(fmt.Sprintf("%d of %d", l.Hops, event.MaxDeadHops)).in(colorWarn))
	}
	for name, values := range l.Header {
		for _, v := range values {
			p.field("Header", text(name+": "+v))
		}
	}
	body := fmt.Sprintf("%d bytes", l.Size)
	if l.Truncated {
		body += ", of which only the beginning was kept"
	}
	p.field("Body", text(body))
	switch {
	case len(l.Body) > 0:
		p.section("")
		p.line(text(string(l.Body)))
	case l.Text != "":
		p.section("")
		p.line(text(l.Text))
	case len(l.Base64) > 0:
		p.section("")
		p.line(text(fmt.Sprintf("% x", l.Base64[:min(len(l.Base64), 256)])))
	}
}
