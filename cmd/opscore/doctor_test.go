package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/cmd/opscore/doctor"
	"github.com/opspawn/opscore/storage/storagetest"
)

// examine runs doctor and returns its lines by name.
func examine(t *testing.T, p *program, want int, args ...string) map[string]doctor.Finding {
	t.Helper()
	got := p.run(append([]string{"doctor", "-o", "json"}, args...)...)
	var r report
	if err := json.Unmarshal([]byte(got.stdout), &r); err != nil || got.code != want || r.OK != (want == exitOK) {
		t.Fatalf("exit %d, want %d: %v\n%s%s", got.code, want, err, got.stdout, got.stderr)
	}
	found := make(map[string]doctor.Finding)
	for _, f := range r.Checks {
		found[f.Check] = f
	}
	return found
}

func TestDoctorOfDev(t *testing.T) {
	t.Parallel()
	url, _ := dev(t, nil)
	p := &program{t: t, env: map[string]string{envServer: url}}
	found := examine(t, p, exitOK)
	for check, want := range map[string]string{
		"opscore": "ready", "opscore set-up": "store file", "jetstream sync": "every 1s", "streams": "4 as they should be", "consumers": "workflow: 0 wait",
		"redis": "not used", "clocks": "NATS",
	} {
		if f := found[check]; f.Level != doctor.OK || !strings.Contains(f.Found, want) {
			t.Errorf("%s: %+v, want %q", check, f, want)
		}
	}
	if got := p.run("doctor"); got.code != exitOK || !strings.Contains(got.stdout, "redis replication") {
		t.Errorf("for people: %+v", got)
	}
}

// What answers at the usual addresses may be of another deployment than the server that was named.
func TestDoctorWithAWrongKeyLooksAtWhatIsNamedAlone(t *testing.T) {
	t.Parallel()
	url, _ := dev(t, map[string]string{envAPIKey: "k"})
	p := &program{t: t, env: map[string]string{envServer: url, envAPIKey: "wrong"}}
	untold := func(found map[string]doctor.Finding, check string) {
		if f := found[check]; f.Level != doctor.Warn || f.Found != "not known: the server does not tell (401): set OPSCORE_API_KEY" {
			t.Errorf("%s: %+v, want it not known", check, f)
		}
	}
	found := examine(t, p, exitOK)
	for _, check := range []string{"nats", "nats version", "jetstream", "jetstream sync", "streams", "consumers", "redis", "redis version", "redis replication"} {
		untold(found, check)
	}
	if f := found["clocks"]; f.Level != doctor.OK || strings.Contains(f.Found, "NATS") || strings.Contains(f.Found, "Redis") {
		t.Errorf("clocks: %+v, want the server's alone", f)
	}

	p.env[envNATS] = bustest.ListeningServer(t).URL()
	found = examine(t, p, exitFailure, "--redis-url", "redis://127.0.0.1:1")
	if nats, redis := found["nats"], found["redis"]; nats.Level != doctor.OK || redis.Level != doctor.Fail {
		t.Errorf("what was named: %+v, %+v", nats, redis)
	}
	p.env[envNATS] = ""
	untold(examine(t, p, exitFailure, "--redis-url", "redis://127.0.0.1:1"), "nats")
}

func TestDoctorOfServersAlone(t *testing.T) {
	t.Parallel()
	nats, redis := bustest.ListeningServer(t), storagetest.StartRedis(t)
	nc := bustest.DialURL(t, nats.URL())
	p := &program{t: t, env: map[string]string{envServer: "http://127.0.0.1:1", envNATS: nats.URL(), envRedis: redis.URL()}}
	found := examine(t, p, exitFailure)
	for check, want := range map[string]doctor.Level{
		"opscore": doctor.Fail, "nats": doctor.OK, "nats version": doctor.OK, "streams": doctor.OK, "redis": doctor.OK, "redis appendonly": doctor.OK,
		"redis appendfsync": doctor.OK, "clocks": doctor.OK,
	} {
		if f := found[check]; f.Level != want {
			t.Errorf("%s: %+v, want %s", check, f, want)
		}
	}

	if f := found["redis appendonly"]; !strings.Contains(f.Advice, "auto-aof-rewrite-min-size") {
		t.Errorf("of a Redis with its own settings: %+v", f)
	}
	redis.Do("CONFIG SET auto-aof-rewrite-min-size 512mb")
	if f := examine(t, p, exitFailure)["redis appendonly"]; f.Advice != "" {
		t.Errorf("of a Redis that rewrites its file late: %+v", f)
	}

	redis.Do("CONFIG SET appendonly no")
	redis.Do("ACL SETUSER hosted on nopass ~* &* +@all -config")
	if err := nc.JS().DeleteStream(t.Context(), "OPSCORE_FACT"); err != nil {
		t.Fatal(err)
	}
	p.env[envRedis] = strings.Replace(redis.URL(), "redis://", "redis://hosted:secret@", 1)
	found = examine(t, p, exitFailure)
	for check, want := range map[string]string{
		"redis appendonly": "set appendonly yes", "redis appendfsync": "CONFIG GET", "streams": "OPSCORE_FACT does not exist yet",
	} {
		if f := found[check]; f.Level == doctor.OK || !strings.Contains(f.Found+f.Advice, want) {
			t.Errorf("%s: %+v, want %q", check, f, want)
		}
	}
	redis.Kill()
	if f := examine(t, p, exitFailure)["redis"]; f.Level != doctor.Fail || strings.Contains(f.Found, "secret") {
		t.Errorf("redis: %+v", f)
	}
}
