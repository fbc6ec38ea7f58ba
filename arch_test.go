// Package opscore_test holds the whole module to its rules of construction.
package opscore_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/opspawn/opscore"

const (
	maxFileLines     = 500
	maxFunctionLines = 80
)

// mayImport says which packages of the module each package may import. Arrows only point down: words, seams and drivers, domain, edges,
// programs. A name that ends in /... covers everything below it.
var mayImport = map[string][]string{
	"bus/event":   {},
	"bus":         {"bus/event"},
	"bus/bustest": {"bus", "bus/event"},
	"bus/agent":   {"bus/event"},

	"storage":             {},
	"storage/redisstore":  {"storage"},
	"storage/boltstore":   {"storage"},
	"storage/storagetest": {"storage", "storage/storagetest/netproxy"},

	"storage/storagetest/netproxy": {},

	"lifecycle": {"bus", "bus/event", "storage", "workflow/contract"},
	"workflow":  {"bus", "bus/event", "storage", "lifecycle", "workflow/expr", "workflow/contract"},

	"workflow/expr":     {"bus/event"},
	"workflow/contract": {"bus/event", "workflow/expr"}, // schemas, of agents too

	"bus/bridge":     {"bus", "bus/event", "storage"},
	"loadgen":        {"bus/agent", "bus/event"},
	"loadgen/report": {"loadgen"},

	"examples/...": {"bus/agent", "bus/event"},
	"cmd/...":      {"..."},
}

// rules returns the entry of mayImport that is about a package.
func rules(pkg string) (allowed []string, listed bool) {
	if allowed, ok := mayImport[pkg]; ok {
		return allowed, true
	}
	for pattern, allowed := range mayImport {
		if below, ok := strings.CutSuffix(pattern, "..."); ok && strings.HasPrefix(pkg, below) {
			return allowed, true
		}
	}
	return nil, false
}

// source is one parsed file of the module.
type source struct {
	name string // path from the root, with slashes
	test bool
	fset *token.FileSet
	file *ast.File
}

func (s *source) pkg() string { return path.Dir(s.name) }

func (s *source) lines(n ast.Node) int {
	return s.fset.Position(n.End()).Line - s.fset.Position(n.Pos()).Line + 1
}

// sources parses all Go files of the module. Folders that are modules of their own, or that the go tool does not look into, are left out.
func sources(t *testing.T) []*source {
	t.Helper()
	fset := token.NewFileSet()
	var all []*source
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() {
			hidden := name != "." && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_"))
			if _, err := os.Stat(filepath.Join(name, "go.mod")); name != "." && err == nil || hidden || base == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(base, ".go") {
			return nil
		}
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		all = append(all, &source{name: filepath.ToSlash(name), test: strings.HasSuffix(base, "_test.go"), fset: fset, file: file})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("only %d Go files found: is this the root of the module?", len(all))
	}
	return all
}

// imports returns the packages of the module that a file imports, by their folders.
func (s *source) imports(t *testing.T) []string {
	t.Helper()
	var ours []string
	for _, spec := range s.file.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if below, ok := strings.CutPrefix(name, module+"/"); ok {
			ours = append(ours, below)
		}
	}
	return ours
}

func TestArrowsBetweenPackagesPointDown(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		allowed, listed := rules(s.pkg())
		if !listed {
			t.Errorf("%s: package %s is not in the table of this test; decide what it may import", s.name, s.pkg())
			continue
		}
		for _, name := range s.imports(t) {
			if !slices.Contains(allowed, name) && !slices.Contains(allowed, "...") {
				t.Errorf("%s imports %s; package %s may import only %q of ours", s.name, name, s.pkg(), allowed)
			}
		}
	}
}

func TestTheTableNamesNoPackageThatIsGone(t *testing.T) {
	exists := map[string]bool{"loadgen": true} // its folder comes with its first file
	for _, s := range sources(t) {
		exists[s.pkg()] = true
	}
	for pkg := range mayImport {
		if !strings.HasSuffix(pkg, "...") && !exists[pkg] {
			t.Errorf("package %s is in the table and not in the module", pkg)
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	documented := make(map[string][]string)
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		docs := documented[s.pkg()]
		if text := s.file.Doc.Text(); strings.TrimSpace(text) != "" {
			docs = append(docs, s.name)
			if want := "Package " + s.file.Name.Name + " "; s.file.Name.Name != "main" && !strings.HasPrefix(text, want) {
				t.Errorf("%s: the package comment does not begin with %q", s.name, want)
			}
		}
		documented[s.pkg()] = docs
	}
	for pkg, docs := range documented {
		if len(docs) != 1 {
			t.Errorf("package %s has %d package comments %v, want one", pkg, len(docs), docs)
		}
	}
}

func TestFilesAndFunctionsCanBeHeldInMind(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		if n := s.fset.Position(s.file.FileEnd).Line - 1; n > maxFileLines {
			t.Errorf("%s has %d lines, want at most %d", s.name, n, maxFileLines)
		}
		for _, decl := range s.file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && s.lines(f) > maxFunctionLines {
				t.Errorf("%s: function %s has %d lines, want at most %d", s.name, f.Name, s.lines(f), maxFunctionLines)
			}
		}
	}
}

// A test that sleeps is slow when the sleep is long and wrong when it is short: wait for what happens.
func TestTestsDoNotSleep(t *testing.T) {
	for _, s := range sources(t) {
		if !s.test {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.SelectorExpr)
			if !ok || call.Sel.Name != "Sleep" {
				return true
			}
			if x, ok := call.X.(*ast.Ident); ok && x.Name == "time" {
				t.Errorf("%s:%d sleeps", s.name, s.fset.Position(call.Pos()).Line)
			}
			return true
		})
	}
}
