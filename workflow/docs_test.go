package workflow

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opspawn/opscore/bus/event"
)

// Every construct of the language has a row in docs/workflows.md, with examples that use it, a run that fails or goes another way, and tests that exist.
func TestEveryConstructHasARowAndAnExample(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/workflows.md")
	if err != nil {
		t.Fatal(err)
	}
	sources, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var tests []byte
	for _, file := range sources {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		tests = append(tests, raw...)
	}
	quoted, linked := regexp.MustCompile("`([^`]+)`"), regexp.MustCompile(`\.\./(examples/workflows/([a-z-]+)\.yaml)`)
	described := make(map[string]bool)
	_, table, _ := strings.Cut(string(page), "| construct | what it does |")
	table, _, _ = strings.Cut(table, "\n\n")
	for _, row := range strings.Split(table, "\n")[2:] {
		cells := strings.Split(row, "|")
		if len(cells) != 7 {
			t.Fatalf("a row of %d cells: %s", len(cells), row)
		}
		var examples, runs []byte
		for _, m := range linked.FindAllStringSubmatch(cells[3], -1) {
			for _, suffix := range []string{".yaml", ".json"} {
				raw, err := os.ReadFile("../examples/workflows/" + m[2] + suffix)
				if err != nil {
					t.Error(err)
				}
				if suffix == ".yaml" {
					examples = append(examples, raw...)
				} else {
					runs = append(runs, raw...)
				}
			}
			if !strings.Contains(cells[5], "TestExamples/"+m[2]) && !strings.Contains(cells[5], "TestExamples") {
				t.Errorf("%s is run by no test of its row", m[1])
			}
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[1], -1) {
			described[m[1]] = true
			if !bytes.Contains(examples, []byte(m[1]+":")) {
				t.Errorf("no example of its row uses %s", m[1])
			}
		}
		for _, failing := range strings.Split(cells[4], ";") {
			name := quoted.FindStringSubmatch(failing)
			if name == nil || !bytes.Contains(runs, []byte(`"name": "`+name[1]+`"`)) {
				t.Errorf("no run of an example is named by %q", failing)
			}
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[5], -1) {
			name, _, _ := strings.Cut(m[1], "/")
			if !bytes.Contains(tests, []byte("func "+name+"(t *testing.T)")) {
				t.Errorf("there is no test %s", name)
			}
		}
	}
	plain := []string{"id", "name", "description", "version", "tasks", "taskId"} // they do nothing by themselves
	for _, of := range []reflect.Type{reflect.TypeFor[Definition](), reflect.TypeFor[Task]()} {
		for name := range membersOf(of) {
			if !described[name] && !slices.Contains(plain, name) {
				t.Errorf("%s has no row", name)
			}
		}
	}
}

// Every example fits the schema that editors are given.
func TestExamplesFitTheSchema(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../examples/workflows/*.yaml")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	c := editorSchema(t)
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var raw event.Raw
		if raw, err = ToJSON(source); err == nil {
			err = c.Check(raw)
		}
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}
