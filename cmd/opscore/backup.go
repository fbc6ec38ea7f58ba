package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// copyTimeout bounds the transport of a backup.
const copyTimeout = time.Hour

// newBackupCommand makes "opscore backup".
func newBackupCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Write everything in the store to a file, as it is at one moment",
		Long: `backup asks the server for a copy of its store: agents, definitions, runs, timers and histories as they are at one moment. Redis takes no
writes of Ops-Core while it is copied, about a second for 100,000 documents; agents and clients of the streams notice nothing of it.

The file is written under another name first and renamed when it was found whole. What the streams hold is not in it.`,
		Example: "  opscore backup opscore-$(date +%F).backup",
		Args:    oneFile,
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			items, size, err := c.download(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(copied{File: args[0], Items: items, Bytes: size}, func(p *sheet) {
				p.line(text(fmt.Sprintf("%s: %d items, %d bytes", args[0], items, size)))
			})
		}),
	}
}

// newRestoreCommand makes "opscore restore".
func newRestoreCommand(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put a backup in place of everything in the store",
		Long: `restore sends a backup to the server, which puts it in place of its store and then reads again from the streams what was said since.
The file is read to its end first, here and by the server: one that is damaged or not whole changes nothing.

It refuses a store that has agents or runs, unless --force says otherwise. All replicas hold still meanwhile and notice by themselves that
the store is another one. Should it fail half-way, nothing is written to the store until it was repeated.`,
		Example: "  opscore restore opscore-2026-11-22.backup\n  opscore restore --force opscore-2026-11-22.backup",
		Args:    oneFile,
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			items, err := c.upload(ctx, args[0], force)
			if err != nil {
				return err
			}
			return a.print(copied{File: args[0], Items: items}, func(p *sheet) {
				p.line(text(fmt.Sprintf("%s: %d items restored; /readyz says when the streams have been read again", args[0], items)))
			})
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace a store that is in use: what it has is lost, except for what the streams hold")
	return cmd
}

// oneFile accepts the name of a file.
func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) != 1 || args[0] == "" {
		return fmt.Errorf("%q needs the name of one file", cmd.CommandPath())
	}
	return nil
}

// copied is what backup and restore print as JSON.
type copied struct {
	File  string `json:"file"`
	Items int    `json:"items"`
	Bytes int64  `json:"bytes,omitzero"`
}

// download writes a backup to a file.
func (c *client) download(ctx context.Context, name string) (items int, size int64, err error) {
	resp, err := c.exchange(ctx, http.MethodGet, "/backup", nil, 0)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return 0, 0, fmt.Errorf("write the backup: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // unless it was renamed
	if size, err = io.Copy(f, resp.Body); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, 0, fmt.Errorf("write the backup: %w", err)
	}
	if items, err = checkBackup(f.Name()); err != nil {
		return 0, 0, err
	}
	return items, size, os.Rename(f.Name(), name)
}

// checkBackup reads a backup to its end.
func checkBackup(name string) (items int, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // it was only read
	if items, err = storage.CheckCopy(f); err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return items, nil
}

// upload sends a backup to be restored.
func (c *client) upload(ctx context.Context, name string, force bool) (items int, err error) {
	if _, err := checkBackup(name); err != nil {
		return 0, err
	}
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	path := "/restore"
	if force {
		path += "?force=true"
	}
	resp, err := c.exchange(ctx, http.MethodPost, path, f, info.Size())
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, c.unreachable(ctx, err, true)
	}
	var answer struct {
		Items int `json:"items"`
	}
	return answer.Items, event.Unmarshal(body, &answer)
}

// exchange sends a request whose body, or whose answer, is a file. The answer's body must be closed.
func (c *client) exchange(ctx context.Context, method, path string, body io.Reader, size int64) (*http.Response, error) {
	limited, cancel := context.WithTimeout(ctx, copyTimeout)
	req, err := http.NewRequestWithContext(limited, method, c.base+apiPath+path, body)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("make the request: %w", err)
	}
	c.setHeader(req.Header, &request{}, false)
	req.ContentLength = size
	resp, err := c.http.Do(req)
	if err != nil {
		cancel()
		return nil, c.unreachable(ctx, err, true)
	}
	resp.Body = &endingBody{resp.Body, cancel}
	if resp.StatusCode != http.StatusOK {
		defer func() { _ = resp.Body.Close() }()
		said, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // what there is of it
		return nil, c.refusal(resp, said)
	}
	return resp, nil
}

// endingBody ends the context of its request when it is closed.
type endingBody struct {
	io.ReadCloser
	end context.CancelFunc
}

// Close closes the body.
func (b *endingBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}
