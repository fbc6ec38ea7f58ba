package workflow
import ("testing";"fmt"; "github.com/goccy/go-yaml"; "github.com/goccy/go-yaml/parser"; "bytes"; "github.com/opspawn/opscore/bus/event")
func TestScratch(t *testing.T) {
	for _, s := range []string{
		"id: a\nid: b\ntasks: []\n",
		`{"id":"a","id":"b"}`,
		"{\"id\":\"a\",\n\"tasks\":[\n{]}",
		"id: a\n tasks: [\n",
		"n: 12345678901234567890\nf: 1.0\ng: 1e3\nh: 0x10\nd: 2024-01-01\ny: yes\nt: 2024-01-01T00:00:00Z\nnull_: ~\n1: x\ntrue: y\n",
		"f: .inf\n", "f: .nan\n",
		"id: a\n---\nid: b\n",
		"- 1\n", "", "# x\n", "just text",
		"a: &x [1,2]\nb: *x\n", "b: *nope\n",
		"s: \"\\u2028<>&\"\nm: |\n  hello\n  \"world\"\n",
		"id: x\n\tname: y\n", "a: !!binary aGk=\n", "a: 99999999999999999999999999999999\n", "a: 0.1000000000000000055511151231257827\n", "a: 1.5e400",
		"t: 'it''s'\nu: \"a\tb\"\nv: \"\\x07\"",
	} {
		r, err := toJSON([]byte(s))
		fmt.Printf("%q -> %s | %v valid=%v\n", s, r, err, r.IsValid())
	}
	src := "id: x\ntasks:\n  - taskId: a\n    parameters: 5\n    nextTaskId: zz\n  - taskId: b\n"
	for _, p := range []string{"$.tasks[0].nextTaskId","$.tasks[1]","$.tasks","$","$.name","$.tasks[1].taskId", "$.tasks[0].parameters", "$.tasks[0].foo.bar"} {
		path, err := yaml.PathString(p)
		f, _ := parser.ParseBytes([]byte(src), 0)
		n, err2 := path.FilterFile(f)
		l, c := 0, 0
		if n != nil { l = n.GetToken().Position.Line; c = n.GetToken().Position.Column }
		n3, err3 := path.ReadNode(bytes.NewReader([]byte(src)))
		_ = n3
		fmt.Println(p, err, err2, l, c, err3)
	}
	for _, s := range []string{`{"id":5}`, `{"id":"x","tasks":5}`, `[]`, `5`, `{"id":"x","tasks":[{"taskId":5}]}`, `{"tasks":[5]}`, `{"tasks":[{"retry":{"attempts":1.5}}]}`, `{"tasks":[{"timeoutSeconds":1e999}]}`,`{"tasks":[{"timeoutSeconds":"x"}]}`,`{"tasks":[{"retry":{"attempts":99999999999999999999}}]}`, `{"id":"\xff"}`, `{"ID":"x"}`, `{"tasks":null}`, `{"tasks":[null]}`} {
		_, err := Decode(event.Raw(s))
		fmt.Printf("%s -> %v %#v\n", s, err, err)
	}
	for _, s := range []string{`{"a":1.0}`,`{"a":1}`,`{"a":1e0}`,`{"b":-0,"a":"\u0041\/"}`, `{"a":1,"a":2}`} { v, c, err := VersionOf(event.Raw(s)); fmt.Println(v, string(c), err) }
}
