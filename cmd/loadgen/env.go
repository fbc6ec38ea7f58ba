package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/cmd/loadgen/env"
)

// newEnvCommand builds the commands about an environment that stays.
func newEnvCommand(a *app) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Keep NATS, Redis and Ops-Core running for tests",
		Long: `env keeps an environment of NATS, Redis and replicas of Ops-Core running on free ports of this machine until it is told to end. Its stores are
proven to be empty, and its replicas to be ready, whenever "up" and "reset" return.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("%q needs a command: down, reset, up", cmd.CommandPath())
		},
	}
	cmd.PersistentFlags().StringVar(&dir, "dir", "", "`folder` of its data and logs (default: opscore-loadgen in the user's cache folder)")
	cmd.AddCommand(newEnvUpCommand(a, &dir), newEnvResetCommand(a, &dir), newEnvDownCommand(a, &dir))
	return cmd
}

// envDir returns the folder of the environment.
func envDir(dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	return env.DefaultDir()
}

func newEnvUpCommand(a *app, dir *string) *cobra.Command {
	var cfg env.Config
	cmd := &cobra.Command{
		Use:     "up",
		Short:   "Start the environment and print how to reach it",
		Example: "  eval \"$(loadgen env up | grep ^export)\"\n  loadgen run scenario-1 -u 50",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Dir, err = envDir(*dir); err != nil {
				return err
			}
			cfg.Key = a.getenv(envKey)
			kept, err := env.Up(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return printEnv(a.stdout, kept)
		},
	}
	cmd.Flags().IntVar(&cfg.Replicas, "replicas", 1, "`number` of replicas of Ops-Core")
	return cmd
}

func newEnvResetCommand(a *app, dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "reset",
		Short: "Remove all data and start the environment again on the same ports",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := envDir(*dir)
			if err != nil {
				return err
			}
			kept, err := env.Reset(cmd.Context(), d)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.stderr, "the stores are empty and all replicas are ready")
			return printEnv(a.stdout, kept)
		},
	}
}

func newEnvDownCommand(a *app, dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the environment and remove its data; the logs stay",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := envDir(*dir)
			if err != nil {
				return err
			}
			ended, err := env.Down(cmd.Context(), d)
			if errors.Is(err, env.ErrNone) {
				fmt.Fprintln(a.stderr, "there was none")
				return nil
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "%d processes ended\n", ended)
			return nil
		},
	}
}

// printEnv writes how to reach an environment: its processes for people, and lines for a shell.
func printEnv(w io.Writer, k *env.Kept) error {
	for _, p := range k.Processes {
		fmt.Fprintf(w, "# %-10s %s, process %d, log %s\n", p.Name, p.Addr, p.PID, p.Log)
	}
	_, err := fmt.Fprintf(w, "export OPSCORE_URL=%s\nexport OPSCORE_API_KEY=%s\nexport NATS_URL=%s\nexport REDIS_URL=%s\n",
		k.URLs[0], shellQuote(k.Key), k.NATSURL, k.StoreURL)
	return err
}

// shellQuote makes a word of a text for a POSIX shell.
func shellQuote(text string) string {
	quoted := "'"
	for _, c := range text {
		if c == '\'' {
			quoted += `'\''`
			continue
		}
		quoted += string(c)
	}
	return quoted + "'"
}
