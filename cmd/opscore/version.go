package main

import (
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/spf13/cobra"
)

// version is set by the linker in releases; otherwise the build information of Go decides.
var version string

// build is what is known of how this program was built.
type build struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitzero"`
	Go      string `json:"go"`
	System  string `json:"system"`
}

// readBuild returns how this program was built.
var readBuild = sync.OnceValue(func() build {
	b := build{Version: version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if ok && b.Version == "" {
		b.Version = info.Main.Version
	}
	if b.Version == "" || b.Version == "(devel)" {
		b.Version = "devel"
	}
	if ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				b.Commit = s.Value
			}
		}
	}
	return b
})

// newVersionCommand makes "opscore version".
func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  none,
		RunE: func(*cobra.Command, []string) error {
			b := readBuild()
			return a.print(b, func(p *sheet) {
				p.field("Version", text(b.Version))
				p.field("Commit", text(b.Commit))
				p.field("Go", text(b.Go))
				p.field("System", text(b.System))
			})
		},
	}
}
