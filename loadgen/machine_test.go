package loadgen

import (
	"strings"
	"testing"
)

func TestStealIsTheShareOfWhatWasWanted(t *testing.T) {
	const first = "cpu  1000 10 100 5000 30 0 40 200 7 0\ncpu0 500 5 50 2500 15 0 20 100 0 0\n"
	const second = "cpu  1050 10 110 5900 99 0 60 220 7 0\ncpu0 525 5 55 2950 40 0 30 110 0 0\n"
	before, after := parseCPU(first), parseCPU(second)
	if before != (cpuTime{wanted: 1350, stolen: 200}) {
		t.Fatalf("read %+v", before)
	}
	if got := after.stealSince(before); got != 20 {
		t.Errorf("20 of 100 that were wanted: %v %%", got)
	}
	if got := before.stealSince(before); got != 0 {
		t.Errorf("nothing was wanted: %v %%", got)
	}
	if got := after.stealSince(cpuTime{}); got != 0 {
		t.Errorf("it could not be read at first: %v %%", got)
	}
	if got := (cpuTime{}).stealSince(before); got != 0 {
		t.Errorf("it cannot be read any more: %v %%", got)
	}
	for _, text := range []string{"", "cpu", "cpu 1 2 3 4 5 6 7\n", "cpu0 1 2 3 4 5 6 7 8\n", "cpu 1 2 3 x 5 6 7 8\n"} {
		if got := parseCPU(text); got != (cpuTime{}) {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

func TestAHostThatTakesTimeIsNamed(t *testing.T) {
	r := failed(class("POST state", "503", 9, ""))
	r.Machine.StealPercent = 24.4
	if text := strings.Join(Judge(r, Evidence{}).Lines, "\n"); !strings.Contains(text, "Warning: the host took 24 % of the CPU time") {
		t.Errorf("it says\n%s", text)
	}
	r.Machine.StealPercent = 4.9
	if text := strings.Join(Judge(r, Evidence{}).Lines, "\n"); strings.Contains(text, "host") {
		t.Errorf("it says\n%s", text)
	}
}
