package bus

import "testing"

func TestNewEnough(t *testing.T) {
	for version, want := range map[string]bool{
		"2.14.0": true, "2.15.2": true, "v3.0.0": true, "2.14.0-RC.1": true, "2.13.9": false, "1.99.0": false, "": false, "dev": false,
	} {
		if got := newEnough(version); got != want {
			t.Errorf("newEnough(%q) = %v", version, got)
		}
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"nats://a:4222":                    "nats://a:4222",
		"nats://u:secret@a:4222, tls://b":  "nats://xxxxx@a:4222,tls://b",
		"token-secret@a:4222":              "xxxxx@a:4222",
		"nats://secret-token@a:4222":       "nats://xxxxx@a:4222",
		"nats://u:bad%zzsecret@host:4222/": "xxxxx@host:4222/",
	} {
		if got := Redact(in); got != want {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCovers(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"a.b", "a.b", true},
		{"a.*", "a.b", true},
		{"a.*", "a.*", true},
		{"a.>", "a.b.c", true},
		{">", "a", true},
		{"a.>", "a.>", true},
		{"a.*", "a.>", false},
		{"a.b", "a.*", false},
		{"a.>", "a", false},
		{"a.*", "a.b.c", false},
		{"a.b.c", "a.b", false},
	} {
		if got := covers(tc.a, tc.b); got != tc.want {
			t.Errorf("covers(%q, %q) = %v", tc.a, tc.b, got)
		}
	}
}

func TestEvictions(t *testing.T) {
	const limit = 100 << 20
	full := deadState{letters: 100, last: 100, bytes: limit - 1000, maxBytes: limit}
	with := func(f func(*deadState)) deadState {
		s := full
		f(&s)
		return s
	}
	for name, tc := range map[string]struct {
		now       deadState
		owed      int64
		want      uint64
		stillOwed int64
	}{
		"nothing happened":       {now: full},
		"more came":              {now: with(func(s *deadState) { s.letters, s.last = 110, 110 })},
		"more came, some went":   {now: with(func(s *deadState) { s.letters, s.last = 103, 110 }), want: 7},
		"we deleted them":        {now: with(func(s *deadState) { s.letters, s.deleted = 93, 7 })},
		"we deleted some":        {now: with(func(s *deadState) { s.letters, s.deleted = 90, 7 }), want: 3},
		"we are deleting some":   {now: with(func(s *deadState) { s.letters, s.deleted = 95, 7 }), stillOwed: 2},
		"now they are gone":      {now: with(func(s *deadState) { s.letters = 98 }), owed: 2},
		"we had announced more":  {now: with(func(s *deadState) { s.letters, s.deleted = 98, -1 }), owed: 2, want: 1},
		"ours, it is not full":   {now: with(func(s *deadState) { s.letters, s.bytes = 98, 1000 }), owed: 3, stillOwed: 1},
		"others deleted most":    {now: with(func(s *deadState) { s.letters, s.bytes = 10, 1000 })},
		"the stream was remade":  {now: with(func(s *deadState) { s.letters, s.last = 1, 1 }), owed: 2},
		"more letters than came": {now: with(func(s *deadState) { s.letters = 101 })},
		"it has no bound":        {now: with(func(s *deadState) { s.letters, s.maxBytes = 90, -1 })},
	} {
		if got, owed := evictions(full, tc.now, tc.owed); got != tc.want || owed != tc.stillOwed {
			t.Errorf("%s: %d and %d owed, want %d and %d", name, got, owed, tc.want, tc.stillOwed)
		}
	}
}
