package loadgen

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// WatchMachine begins to watch the machine that this process runs on, and look returns what is known of it by then. Linux tells more than others.
func WatchMachine() (look func() Machine) {
	began := readCPU()
	return func() Machine {
		m := thisMachine()
		m.StealPercent = readCPU().stealSince(began)
		return m
	}
}

func thisMachine() Machine {
	m := Machine{OS: runtime.GOOS + "/" + runtime.GOARCH, Cores: runtime.NumCPU()}
	m.CPU = procField("/proc/cpuinfo", "model name")
	if kb, _, ok := strings.Cut(procField("/proc/meminfo", "MemTotal"), " "); ok {
		n, _ := strconv.ParseFloat(kb, 64) // 0 is unknown
		m.RAMGiB = n / (1 << 20)
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(text))
	}
	return m
}

// stealLimit is how much the host may take before it is worth a word. Waking up a core that was idle counts too.
const stealLimit = 5 // percent

// StealWarning says in a sentence, without its full stop, that the host took much of the CPU time that was needed; it is empty if it did not.
func (m Machine) StealWarning() string {
	if m.StealPercent < stealLimit {
		return ""
	}
	return fmt.Sprintf("the host took %.0f %% of the CPU time that this machine needed (steal): the times measured here are partly the host's doing", m.StealPercent)
}

// cpuTime is how much CPU time a machine has wanted since it started, and how much of that it did not get; only their ratio matters.
type cpuTime struct{ wanted, stolen float64 }

func readCPU() cpuTime {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return cpuTime{}
	}
	return parseCPU(string(text))
}

// parseCPU reads the first line of /proc/stat, as proc_stat(5) describes it: user, nice, system, idle, iowait, irq, softirq and steal. It is
// zero for what is not of that form.
func parseCPU(stat string) (t cpuTime) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return cpuTime{}
	}
	for i, field := range fields[1:9] {
		n, err := strconv.ParseFloat(field, 64)
		switch {
		case err != nil:
			return cpuTime{}
		case i == 3 || i == 4: // nobody wanted to run
			continue
		case i == 7:
			t.stolen = n
		}
		t.wanted += n
	}
	return t
}

// stealSince returns how much of what was wanted since an earlier moment went to others, in percent.
func (t cpuTime) stealSince(before cpuTime) float64 {
	if before == (cpuTime{}) || t.wanted <= before.wanted || t.stolen < before.stolen {
		return 0
	}
	return 100 * (t.stolen - before.stolen) / (t.wanted - before.wanted)
}

// procField returns the first value of a name in a file of lines as "name : value"; nothing if there is none.
func procField(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
