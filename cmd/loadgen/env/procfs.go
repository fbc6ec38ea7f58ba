package env

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// identity names a process for ever: process ids are used again, together with the time of the start they are not.
type identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks between the machine's start and the process's
}

// identify returns the identity of a process that runs now.
func identify(pid int) (identity, error) {
	fields, err := statFields(pid)
	if err != nil {
		return identity{}, err
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return identity{}, fmt.Errorf("start time of process %d: %w", pid, err)
	}
	return identity{PID: pid, Start: start}, nil
}

// alive reports whether the process still runs, and not just another one under its number. A zombie does not run.
func (id identity) alive() bool {
	fields, err := statFields(id.PID)
	return err == nil && fields[0] != "Z" && fields[0] != "X" && fields[19] == strconv.FormatUint(id.Start, 10)
}

// statFields returns what /proc/PID/stat holds behind the name: its first field is the state.
func statFields(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return nil, errors.New("/proc/PID/stat is too short")
	}
	return fields, nil
}

// usage is what a process has used since its start, and its memory now.
type usage struct {
	cpu           float64 // seconds
	own, resident float64 // MiB
	read, written float64 // MiB
}

const (
	ticksPerSecond = 100 // of /proc/PID/stat, on all systems that Go runs on
	mebi           = 1 << 20
)

// readUsage reads what a process has used. It fails if the process is gone, or this is not Linux.
func readUsage(pid int) (usage, error) {
	fields, err := statFields(pid)
	if err != nil {
		return usage{}, err
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	u := usage{cpu: (user + system) / ticksPerSecond}
	for name, kb := range numbers(fmt.Sprintf("/proc/%d/status", pid)) {
		switch name {
		case "RssAnon", "RssShmem":
			u.own += kb / 1024
		case "VmRSS":
			u.resident = kb / 1024
		}
	}
	io := numbers(fmt.Sprintf("/proc/%d/io", pid))
	u.read, u.written = io["rchar"]/mebi, io["wchar"]/mebi
	return u, nil
}

// numbers reads lines of the form "name: number unit".
func numbers(file string) map[string]float64 {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	found := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		if n, err := strconv.ParseFloat(fields[0], 64); err == nil {
			found[name] = n
		}
	}
	return found
}
