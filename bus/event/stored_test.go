package event_test

import (
	"encoding/json"
	"testing"

	"github.com/opspawn/opscore/bus/event"
)

// Whatever Stored takes means the same as JSON, and what is not such an acknowledgement is left to the decoder.
func FuzzStored(f *testing.F) {
	for _, s := range []string{
		`{"stream":"OPSCORE_WORK","seq":17}`, `{"stream":"OPSCORE_WORK","seq":18446744073709551615}`, `{"stream":"OPSCORE_WORK", "seq":17}`,
		`{"stream":"A","seq":1, "duplicate": true}`, `{"stream":"A", "domain":"B","seq":1}`, `{"stream":"","seq":1}`, `{"stream":"A","seq":}`, `{"stream":"A","seq":01}`,
		`{"stream":"A","seq":-1}`, `{"stream":"A","seq":1_0}`, `{"stream":"A\u0041","seq":1}`, `{"stream":"A","seq":18446744073709551616}`,
		`{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"A","seq":0}`, `{}`, ``, `nonsense`, "{\"stream\":\"\xff\", \"seq\":1}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		stream, seq, ok := event.Stored(data)
		if !ok {
			return
		}
		var want struct {
			Stream string
			Seq    uint64
		}
		if err := json.Unmarshal(data, &want); err != nil || want.Stream != stream || want.Seq != seq {
			t.Errorf("%q: %q, %d, and as JSON %+v, %v", data, stream, seq, want, err)
		}
		if seq == 0 || stream == "" {
			t.Errorf("%q was taken for an acknowledgement", data)
		}
	})
}

func TestStoredTakesWhatTheServerWrites(t *testing.T) {
	t.Parallel()
	if stream, seq, ok := event.Stored([]byte(`{"stream":"OPSCORE_WORK","seq":17}`)); !ok || stream != "OPSCORE_WORK" || seq != 17 {
		t.Errorf("%q, %d, %v", stream, seq, ok)
	}
	if _, _, ok := event.Stored([]byte(`{"error":{"code":503},"stream":"OPSCORE_WORK","seq":0}`)); ok {
		t.Error("a refusal was taken for an acknowledgement")
	}
}
