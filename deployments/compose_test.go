// Package deployments_test holds the container files to the programs that they run, as far as that can be done without a container engine.
package deployments_test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// compose is what the test looks at of the file.
type compose struct {
	Services map[string]service `yaml:"services"`
	Volumes  map[string]any     `yaml:"volumes"`
}

type service struct {
	Image string `yaml:"image"`
	Build struct {
		Context    string `yaml:"context"`
		Dockerfile string `yaml:"dockerfile"`
		Target     string `yaml:"target"`
	} `yaml:"build"`
	Command     []string          `yaml:"command"`
	Environment map[string]string `yaml:"environment"`
	Ports       []string          `yaml:"ports"`
	Volumes     []string          `yaml:"volumes"`
	DependsOn   map[string]struct {
		Condition string `yaml:"condition"`
	} `yaml:"depends_on"`
	Healthcheck *struct {
		Test []string `yaml:"test"`
	} `yaml:"healthcheck"`
	Networks map[string]struct {
		Aliases []string `yaml:"aliases"`
	} `yaml:"networks"`
}

func load(t *testing.T) compose {
	t.Helper()
	text, err := os.ReadFile("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var c compose
	if err := yaml.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nats", "redis", "opscore", "agentkit_real_service", "simulated_agent"} {
		if _, ok := c.Services[name]; !ok {
			t.Errorf("service %s is missing", name)
		}
	}
	return c
}

var stage = regexp.MustCompile(`(?m)^FROM \S+ AS (\S+)$`)

// programs maps the targets that services are built from to the folder of their program.
var programs = map[string]string{"opscore": "../cmd/opscore", "loadgen": "../cmd/loadgen", "standin": "../cmd/standin"}

func TestEveryTargetIsBuilt(t *testing.T) {
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	var stages []string
	for _, m := range stage.FindAllStringSubmatch(string(text), -1) {
		stages = append(stages, m[1])
	}
	if len(stages) == 0 || stages[len(stages)-1] != "opscore" {
		t.Errorf("the stages are %q; the last one is built without --target and must be opscore", stages)
	}
	for target, dir := range programs {
		if !slices.Contains(stages, target) {
			t.Errorf("no stage builds %s", target)
		}
		if _, err := os.Stat(filepath.Join(dir, "main.go")); err != nil {
			t.Error(err)
		}
		if built := "./" + strings.TrimPrefix(dir, "../"); !strings.Contains(string(text), built) {
			t.Errorf("%s is not built", built)
		}
	}
	for name, s := range load(t).Services {
		if s.Image != "" {
			continue
		}
		if !slices.Contains(stages, s.Build.Target) {
			t.Errorf("service %s is built from stage %q, which does not exist", name, s.Build.Target)
		}
		if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
			t.Errorf("service %s: %v", name, err)
		}
	}
}

func TestProgramsReadEveryVariable(t *testing.T) {
	for name, s := range load(t).Services {
		if s.Image != "" {
			continue
		}
		read := literals(t, programs[s.Build.Target])
		for variable := range s.Environment {
			if !read[variable] {
				t.Errorf("service %s sets %s, which %s does not read", name, variable, s.Build.Target)
			}
		}
	}
}

// literals collects the string literals of a program.
func literals(t *testing.T, dir string) map[string]bool {
	t.Helper()
	found := make(map[string]bool)
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				text, _ := strconv.Unquote(lit.Value)
				found[text] = true
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestServicesFindEachOther(t *testing.T) {
	c := load(t)
	inside := make(map[string][]string) // host name: ports that its service listens on
	outside := make(map[string]string)
	for name, s := range c.Services {
		var ports []string
		for _, mapping := range s.Ports {
			i := strings.LastIndexByte(mapping, ':')
			host, port := mapping[:i], mapping[i+1:]
			ports = append(ports, port)
			if other, taken := outside[host]; taken {
				t.Errorf("services %s and %s both want port %s", name, other, host)
			}
			outside[host] = name
		}
		for _, host := range append(s.Networks["default"].Aliases, name) {
			inside[host] = ports
		}
		for _, v := range s.Volumes {
			volume, _, _ := strings.Cut(v, ":")
			if _, ok := c.Volumes[volume]; !ok {
				t.Errorf("service %s mounts volume %s, which does not exist", name, volume)
			}
		}
	}
	for _, host := range []string{"opscore_service", "opscore_service_real"} {
		if !slices.Contains(inside[host], "8000") {
			t.Errorf("old clients do not find %s:8000", host)
		}
	}
	for name, s := range c.Services {
		for variable, value := range s.Environment {
			u, err := url.Parse(value)
			if err != nil || u.Host == "" {
				continue
			}
			if !slices.Contains(inside[u.Hostname()], u.Port()) {
				t.Errorf("service %s: %s=%s leads nowhere", name, variable, value)
			}
		}
		for _, variable := range []string{"PORT", "AGENT_PORT"} {
			if port := s.Environment[variable]; port != "" && !slices.Contains(inside[name], port) {
				t.Errorf("service %s listens on %s and maps %v", name, port, inside[name])
			}
		}
	}
}

func TestServicesWaitForWhatCanBeAwaited(t *testing.T) {
	c := load(t)
	for name, s := range c.Services {
		for other, on := range s.DependsOn {
			needed, ok := c.Services[other]
			switch {
			case !ok:
				t.Errorf("service %s depends on %s, which does not exist", name, other)
			case on.Condition == "service_healthy" && needed.Healthcheck == nil:
				t.Errorf("service %s waits for %s to be healthy, which has no health command", name, other)
			case on.Condition != "service_healthy" && needed.Healthcheck != nil:
				t.Errorf("service %s does not wait for the health of %s", name, other)
			}
		}
	}
	for _, other := range []string{"nats", "redis"} {
		if c.Services["opscore"].DependsOn[other].Condition != "service_healthy" {
			t.Errorf("opscore does not wait for %s", other)
		}
	}
}

// The programs understand their commands: a wrong one would be a mistake in usage, exit code 2 of opscore, and not a server that is not there.
func TestProgramsUnderstandTheirCommands(t *testing.T) {
	c := load(t)
	opscore := build(t, "opscore")
	health := c.Services["opscore"].Healthcheck.Test
	if len(health) < 2 || health[0] != "CMD" || health[1] != "/opscore" {
		t.Fatalf("the health command is %q", health)
	}
	cmd := exec.Command(opscore, health[2:]...)
	cmd.Env = []string{"OPSCORE_URL=http://127.0.0.1:1"}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 6 {
		t.Errorf("the health command without a server: %v, want exit code 6 (unreachable); it said %s", err, out)
	}
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	last := text[strings.LastIndex(string(text), "\nCMD "):]
	for _, word := range []string{`"serve"`, `"--http-addr"`, `":8000"`} {
		if !strings.Contains(string(last), word) {
			t.Errorf("the image does not run %s: %s", word, last)
		}
	}
	help, err := exec.Command(opscore, "serve", "--help").CombinedOutput()
	if err != nil || !strings.Contains(string(help), "--http-addr") {
		t.Errorf("serve has no --http-addr: %v", err)
	}
	standin := literals(t, programs["standin"])
	for _, name := range []string{"agentkit_real_service", "simulated_agent"} {
		if command := strings.Join(c.Services[name].Command, " "); !standin[command] {
			t.Errorf("standin does not know %q", command)
		}
	}
}

func build(t *testing.T, program string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), program)
	if out, err := exec.Command("go", "build", "-o", file, programs[program]).CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", program, err, out)
	}
	return file
}
