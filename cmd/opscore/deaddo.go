package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
)

// deadDone is what was done with dead letters.
type deadDone struct {
	Verb    string        `json:"-"` // what was done to them
	Done    int           `json:"done"`
	Refused []deadRefusal `json:"refused,omitzero"` // those that stay, the first maxRefusals of them
	Left    int           `json:"left,omitzero"`    // how many stay
}

// deadRefusal is why a letter stays.
type deadRefusal struct {
	Seq    uint64 `json:"seq"`
	Reason string `json:"reason"`
}

const (
	maxRefusals   = 20          // letters that stay and are named
	progressEvery = time.Second // a line about how far a long work came
)

// onLetters does something to the letters that are named, or with --all to those that the flags mean. What is refused is counted and stays; any other
// failure ends the work.
func (a *app) onLetters(
	ctx context.Context, c *client, args []string, f *deadFlags, verb string, do func(seq uint64) error,
) error {
	done := deadDone{Verb: verb}
	said := time.Now()
	take := func(seq uint64) error {
		err := do(seq)
		var refusal *apiError
		switch {
		case err == nil:
			done.Done++
		case len(args) == 0 && errors.As(err, &refusal) && refusal.Code == event.CodeUnknownLetter: // somebody else has done it
		case errors.As(err, &refusal) && refusal.typed && !refusal.unavailable() && refusal.status != http.StatusUnauthorized:
			if done.Left++; len(done.Refused) < maxRefusals {
				done.Refused = append(done.Refused, deadRefusal{seq, refusal.text()})
			}
		default:
			return fmt.Errorf("%d letters %s, then: %w", done.Done, verb, err)
		}
		if time.Since(said) >= progressEvery {
			said = time.Now()
			fmt.Fprintf(a.stderr, "%d %s, %d stay\n", done.Done, verb, done.Left)
		}
		return nil
	}
	for _, name := range args {
		seq, err := letterNumber(name)
		if err == nil {
			err = take(seq)
		}
		if err != nil {
			return err
		}
	}
	if len(args) == 0 {
		var whole event.DeadList
		for letters, err := range deadPages(ctx, c, f, &whole) {
			if err != nil {
				return err
			}
			for _, l := range letters {
				if err := take(l.Seq); err != nil {
					return err
				}
			}
		}
	}
	if err := a.print(&done, done.show); err != nil {
		return err
	}
	if done.Left > 0 {
		return fmt.Errorf("refused, and kept: %s", count(done.Left, "letter"))
	}
	return nil
}

func (d *deadDone) show(p *sheet) {
	p.line(text(count(d.Done, "letter") + " " + d.Verb))
	for _, r := range d.Refused {
		p.line(text(fmt.Sprintf("letter %d stays: %s", r.Seq, r.Reason)).in(colorWarn))
	}
	if more := d.Left - len(d.Refused); more > 0 {
		p.line(text(fmt.Sprintf("and %d more stay", more)).in(colorWarn))
	}
}

// lettersOrAll accepts numbers of letters, or none of them together with --all.
func lettersOrAll(all *bool, f *deadFlags) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0 && !*all:
			return fmt.Errorf("%q needs the numbers of dead letters, or --all for all that the other flags mean", cmd.CommandPath())
		case len(args) > 0 && (*all || *f != deadFlags{}):
			return fmt.Errorf("%q takes the numbers of letters or --all with what they have in common, not both", cmd.CommandPath())
		}
		return f.check()
	}
}

func newDeadReplay(a *app) *cobra.Command {
	var f deadFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "replay LETTER... | --all",
		Short: "Send dead letters again as they are, and delete them",
		Long: `Send dead letters again, each to where it was sent, and delete them. Doing it twice has one effect. A letter that would be refused again unseen,
whose body was cut off, or that came back five times stays, and the command exits with 1.`,
		Example: `  opscore dead replay 4711
  opscore dead replay --all --class unknown_agent --since 1h`,
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			return a.onLetters(ctx, c, args, &f, "sent again", func(seq uint64) error {
				_, err := replayLetter(ctx, c, seq, nil)
				return err
			})
		}),
	}
	cmd.Args = lettersOrAll(&all, &f)
	f.add(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all letters that the other flags mean")
	return cmd
}

// replayLetter sends a letter again, with another body unless that is nil. It is not repeated by itself when no answer comes: the second time the
// letter would be gone.
func replayLetter(ctx context.Context, c *client, seq uint64, body event.Raw) (*event.Replayed, error) {
	r := request{method: http.MethodPost, path: apiRoute("dead", fmt.Sprint(seq), "replay")}
	if body != nil {
		r.body = map[string]event.Raw{"body": body}
	}
	done, err := send[event.Replayed](ctx, c, r)
	return &done, err
}

func newDeadDelete(a *app) *cobra.Command {
	var f deadFlags
	var all bool
	cmd := &cobra.Command{
		Use:     "delete LETTER... | --all",
		Short:   "Delete dead letters for good",
		Example: `  opscore dead delete --all --class stale_attempt`,
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			return a.onLetters(ctx, c, args, &f, "deleted", func(seq uint64) error {
				_, err := send[event.Raw](ctx, c, request{method: http.MethodDelete, path: apiRoute("dead", fmt.Sprint(seq))})
				return err
			})
		}),
	}
	cmd.Args = lettersOrAll(&all, &f)
	f.add(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all letters that the other flags mean")
	return cmd
}

func newDeadEdit(a *app) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "edit LETTER",
		Short: "Send a dead letter again with another body, and delete it",
		Long: `Send a dead letter again with another body: that of a file, or what is left in the editor ($VISUAL, $EDITOR) when it closes. An unchanged or empty
text sends nothing.`,
		Example: `  opscore dead edit 4711 -f body.json
  opscore dead get 4711 -o json | jq .body.attempt=2 | opscore dead edit 4711 -f -`,
		Args: one("a dead letter"),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error { return a.editLetter(ctx, c, args[0], file) }),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "`file` with the new body, - for stdin (default: the editor)")
	return cmd
}

// editLetter sends a letter again with the body of a file or of the editor.
func (a *app) editLetter(ctx context.Context, c *client, name, file string) error {
	letter, err := getLetter(ctx, c, name)
	if err != nil {
		return err
	}
	source, body := "the edited body", []byte(nil)
	if file != "" {
		source, body, err = a.readInput(file)
	} else {
		body, err = a.editText(ctx, letterText(letter))
	}
	if err != nil {
		return err
	}
	raw := event.Raw(body)
	if !raw.IsValid() {
		return usagef("%s is not JSON; letter %d stays as it is", source, letter.Seq)
	}
	done, err := replayLetter(ctx, c, letter.Seq, raw)
	if err != nil {
		return err
	}
	return a.print(done, func(p *sheet) {
		p.field("Sent to", text(done.Subject))
		p.field("Stream", text(fmt.Sprintf("%s, message %d", done.Stream, done.StreamSeq)))
		if done.Again {
			p.line(text("it had been sent before, and was not sent a second time").in(colorWarn))
		}
	})
}

// letterText is the body of a letter as it can be edited.
func letterText(l *event.DeadLetter) []byte {
	if len(l.Body) == 0 {
		return []byte(l.Text)
	}
	shown := l.Body.Clone()
	if shown.Indent() != nil {
		return l.Body
	}
	return shown
}

// editText opens the editor of the user with a text and returns what he leaves.
func (a *app) editText(ctx context.Context, old []byte) ([]byte, error) {
	editor := a.getenv("VISUAL")
	if editor == "" {
		editor = a.getenv("EDITOR")
	}
	if editor == "" {
		return nil, usagef("no editor is set; give the new body with -f, or set EDITOR")
	}
	f, err := os.CreateTemp("", "opscore-dead-*.json")
	if err != nil {
		return nil, fmt.Errorf("make a file to edit: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(old)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("write the file to edit: %w", err)
	}
	run := exec.CommandContext(ctx, "sh", "-c", editor+` "$1"`, "sh", f.Name())
	run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stderr, os.Stderr
	if err := run.Run(); err != nil {
		return nil, fmt.Errorf("the editor %q failed, nothing was sent: %w", editor, err)
	}
	text, err := os.ReadFile(f.Name())
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the edited file: %w", err)
	case len(text) == 0 || string(text) == string(old):
		return nil, errors.New("the text was not changed, nothing was sent")
	}
	return text, nil
}
