package loadgen

import (
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// The columns of Locust's four files.
var (
	csvPercentiles = []string{"50%", "66%", "75%", "80%", "90%", "95%", "98%", "99%", "99.9%", "99.99%", "100%"}

	csvStats = slices.Concat([]string{
		"Type", "Name", "Request Count", "Failure Count", "Median Response Time", "Average Response Time", "Min Response Time",
		"Max Response Time", "Average Content Size", "Requests/s", "Failures/s",
	}, csvPercentiles)

	csvHistory = slices.Concat([]string{"Timestamp", "User Count", "Type", "Name", "Requests/s", "Failures/s"}, csvPercentiles, []string{
		"Total Request Count", "Total Failure Count", "Total Median Response Time", "Total Average Response Time",
		"Total Min Response Time", "Total Max Response Time", "Total Average Content Size",
	})

	csvFailures   = []string{"Method", "Name", "Error", "Occurrences"}
	csvExceptions = []string{"Count", "Message", "Traceback", "Nodes"}
)

// CSV writes Locust's four files about a run: PREFIX_stats.csv, _stats_history.csv, _failures.csv and _exceptions.csv, with its columns.
// Times are uncorrected, as Locust's are, so that the files can be compared. In the history the rates are those of the last second
// and the percentiles those of the whole run so far, as in Locust without --csv-full-history. There are no exceptions: nothing of a
// scenario is a program that could throw one.
type CSV struct {
	prefix  string
	file    *os.File
	history *csv.Writer
}

// NewCSV creates the files.
func NewCSV(prefix string) (*CSV, error) {
	c := &CSV{prefix: prefix}
	var err error
	if c.file, err = os.Create(prefix + "_stats_history.csv"); err != nil {
		return nil, fmt.Errorf("create the CSV files (--csv): %w", err)
	}
	c.history = csv.NewWriter(c.file)
	_ = c.history.Write(csvHistory) // buffered: errors come with Flush
	return c, nil
}

// Add writes the line of one second.
func (c *CSV) Add(s *Snapshot) error {
	total := s.Total
	row := []string{strconv.FormatInt(s.At.Unix(), 10), strconv.Itoa(s.Users), "", "Aggregated", float(s.Point.RPS), float(s.Point.Failures)}
	row = append(row, percentiles(total)...)
	row = append(row, strconv.FormatInt(total.Requests, 10), strconv.FormatInt(total.Failures, 10))
	row = append(row, times(total)...)
	_ = c.history.Write(append(row, float(total.MeanBytes)))
	c.history.Flush()
	return c.history.Error()
}

// Close writes the other files and closes all. Without a result, because the run could not begin, they have no lines.
func (c *CSV) Close(r *Result) error {
	c.history.Flush()
	errs := []error{c.history.Error(), c.file.Close()}
	var stats, failures [][]string
	if r != nil {
		stats, failures = statsRows(r), failureRows(r)
	}
	errs = append(errs,
		c.write("_stats.csv", csvStats, stats), c.write("_failures.csv", csvFailures, failures), c.write("_exceptions.csv", csvExceptions, nil))
	return errors.Join(errs...)
}

func (c *CSV) write(name string, head []string, rows [][]string) error {
	f, err := os.Create(c.prefix + name)
	if err != nil {
		return err
	}
	return errors.Join(csv.NewWriter(f).WriteAll(append([][]string{head}, rows...)), f.Close())
}

func statsRows(r *Result) [][]string {
	var rows [][]string
	for _, name := range slices.Sorted(maps.Keys(r.Operations)) {
		kind, short, _ := strings.Cut(name, " ")
		rows = append(rows, statsRow(kind, short, r.Operations[name], r.Seconds))
	}
	return append(rows, statsRow("", "Aggregated", r.Total, r.Seconds))
}

func statsRow(kind, name string, o Operation, seconds float64) []string {
	row := []string{kind, name, strconv.FormatInt(o.Requests, 10), strconv.FormatInt(o.Failures, 10)}
	row = append(row, times(o)...)
	row = append(row, float(o.MeanBytes), float(o.RPS), float(float64(o.Failures)/max(seconds, 1e-9)))
	return append(row, percentiles(o)...)
}

func failureRows(r *Result) [][]string {
	var rows [][]string
	for _, e := range r.Errors {
		kind, short, _ := strings.Cut(e.Operation, " ")
		rows = append(rows, []string{kind, short, e.Class + ": " + e.Detail, strconv.FormatInt(e.Count, 10)})
	}
	return rows
}

// times are median, average, minimum and maximum.
func times(o Operation) []string {
	q := o.Uncorrected
	return []string{float(q.P50), float(q.Mean), float(q.Min), float(q.Max)}
}

// percentiles are whole numbers, as Locust's, or N/A.
func percentiles(o Operation) []string {
	if o.Requests == 0 {
		return slices.Repeat([]string{"N/A"}, len(csvPercentiles))
	}
	q := o.Uncorrected
	var row []string
	for _, v := range []float64{q.P50, q.P66, q.P75, q.P80, q.P90, q.P95, q.P98, q.P99, q.P999, q.P9999, q.Max} {
		row = append(row, strconv.FormatFloat(v, 'f', 0, 64))
	}
	return row
}

func float(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
