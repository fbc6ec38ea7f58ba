package report

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/opspawn/opscore/loadgen"
)

// The measures of a chart. The picture is stretched to the width of the page; what is written stands beside it, so that it stays readable.
const (
	plotWidth   = 1000 // of the picture's own coordinates
	plotHeight  = 160  // also its height on the page, in CSS pixels
	labelHeight = 15   // CSS pixels between two names of lines
	maxBuckets  = 400  // of a line
	maxLines    = 8    // of a chart
	maxRows     = 60   // of the table beside a chart
	maxHover    = 400  // values of a line under the pointer
	maxNumbered = 20   // faults that are numbered; more would cover each other
)

// chart is one picture over the time of the run.
type chart struct {
	ID, Title, Unit string
	About           string // in words, for those who cannot see it
	Fill            bool   // the area below the line is filled
	Lines           []line
	YTicks, XTicks  []tick
	Marks           []mark
	Head            []string   // of the table with its values
	Rows            [][]string // of these, the highest of each span of time
	End             float64    // seconds
	Top             float64    // of the y axis
	Hover           hover
}

// line is one line of a chart.
type line struct {
	Name   string
	Colour int     // 0 to 7
	Path   string  // of an SVG
	Area   string  // below it
	Label  float64 // where its name stands, in CSS pixels from the top
	points []point
}

// tick is a value on an axis, in percent of it.
type tick struct {
	At   float64
	Text string
}

// mark is a fault.
type mark struct {
	At     float64 // percent of the time
	X      float64 // in the picture
	Number string
	Title  string
}

// hover is what the script shows under the pointer.
type hover struct {
	End float64      `json:"end"`
	T   []float64    `json:"t"`
	V   [][]*float64 `json:"v"` // by line, nil where there is no value
}

// named is a series to draw.
type named struct {
	name   string
	colour int
	value  func(loadgen.Point) float64
}

// The colours of lines by meaning; page.css has the tones.
const (
	blue = iota
	amber
	magenta
	teal
	violet
	grey
	brown
	red
)

// charts draws everything that changes over time. What was never anything but zero, or not measured, is said in words.
func charts(r *loadgen.Result) (drawn []chart, plain []string) {
	if len(r.Series) < 2 {
		return nil, []string{"The run was too short for charts."}
	}
	all := []struct {
		chart
		series []named
		none   string
	}{
		{chart{ID: "rps", Title: "Throughput", Unit: "requests/s", Fill: true}, []named{
			{"requests", blue, func(p loadgen.Point) float64 { return p.RPS }},
		}, "No requests were answered."},
		{chart{ID: "users", Title: "Users", Fill: true}, []named{
			{"users", grey, func(p loadgen.Point) float64 { return float64(p.Users) }},
		}, ""},
		{chart{ID: "latency", Title: "Latency from the intended time", Unit: "ms"}, []named{
			{"p50", blue, func(p loadgen.Point) float64 { return p.P50Ms }},
			{"p95", amber, func(p loadgen.Point) float64 { return p.P95Ms }},
			{"p99", magenta, func(p loadgen.Point) float64 { return p.P99Ms }},
		}, ""},
		{chart{ID: "errors", Title: "Failures", Unit: "/s", Fill: true}, []named{
			{"failures", red, func(p loadgen.Point) float64 { return p.Failures }},
		}, "No request failed at any time."},
		{chart{ID: "cpu", Title: "CPU", Unit: "cores"}, perProcess(r, func(p loadgen.ProcessPoint) float64 { return p.CPU }), ""},
		{chart{ID: "rss", Title: "Memory", Unit: "MiB RSS"}, perProcess(r, func(p loadgen.ProcessPoint) float64 { return p.RSSMiB }), ""},
		{chart{ID: "io", Title: "Read and written", Unit: "MiB/s"}, perProcess(r, func(p loadgen.ProcessPoint) float64 { return p.IOMiB }), ""},
		{chart{ID: "queue", Title: "Queue", Unit: "messages"}, perStream(r), "No message waited in a stream."},
	}
	for _, c := range all {
		if c.draw(r, c.series) {
			drawn = append(drawn, c.chart)
		} else if c.none != "" && (measured(r) || c.ID == "queue") {
			plain = append(plain, c.none)
		}
	}
	return drawn, plain
}

// measured reports whether the requests of the run were timed: a run that only breaks things does not.
func measured(r *loadgen.Result) bool { return len(r.Operations) > 0 }

func perProcess(r *loadgen.Result, value func(loadgen.ProcessPoint) float64) []named {
	names := make(map[string]bool)
	for _, p := range r.Series {
		for name := range p.Processes {
			names[name] = true
		}
	}
	var list []named
	for _, name := range slices.Sorted(maps.Keys(names)) {
		list = append(list, named{name, len(list) % maxLines, func(p loadgen.Point) float64 {
			if pp, ok := p.Processes[name]; ok {
				return value(pp)
			}
			return math.NaN() // it did not run
		}})
	}
	return list
}

func perStream(r *loadgen.Result) []named {
	names := make(map[string]bool)
	for _, p := range r.Series {
		for name := range p.Queue {
			names[name] = true
		}
	}
	var list []named
	for _, name := range slices.Sorted(maps.Keys(names)) {
		shown := strings.ToLower(strings.TrimPrefix(name, "OPSCORE_"))
		list = append(list, named{shown, len(list) % maxLines, func(p loadgen.Point) float64 { return float64(p.Queue[name]) }})
	}
	return list
}

// draw fills in a chart, and reports false if there is nothing to see. Beyond maxLines only the lines with the highest values are drawn.
func (c *chart) draw(r *loadgen.Result, series []named) bool {
	for _, s := range series {
		l := line{Name: s.name, Colour: s.colour}
		for _, p := range r.Series {
			l.points = append(l.points, point{p.Second, s.value(p)})
		}
		c.Lines = append(c.Lines, l)
		c.Top = max(c.Top, highest(l.points).y)
	}
	if c.Top <= 0 {
		return false
	}
	if len(c.Lines) > maxLines {
		slices.SortStableFunc(c.Lines, func(a, b line) int { return int(math.Copysign(1, highest(b.points).y-highest(a.points).y)) })
		c.Lines = c.Lines[:maxLines]
	}
	c.End = max(r.Seconds, r.Series[len(r.Series)-1].Second)
	c.axes()
	for i := range c.Lines {
		l := &c.Lines[i]
		l.Path, l.Area = c.path(thin(l.points, maxBuckets))
	}
	c.placeLabels()
	c.Marks = marks(r.Faults, c.End)
	c.describe()
	c.tabulate()
	return true
}

// highest is the point of a line with the highest value; its y is not a number if there is none.
func highest(points []point) point {
	best := point{0, math.NaN()}
	for _, p := range points {
		if !math.IsNaN(p.y) && !(best.y >= p.y) {
			best = p
		}
	}
	if math.IsNaN(best.y) {
		best.y = 0
	}
	return best
}

// axes sets the ticks. Both axes begin at 0.
func (c *chart) axes() {
	step := niceStep(c.Top, 4)
	if c.Unit == "" || c.Unit == "messages" { // whole things
		step = max(1, step)
	}
	c.Top = math.Ceil(c.Top/step-1e-9) * step
	for i := 0; float64(i)*step <= c.Top*(1+1e-9); i++ {
		v := float64(i) * step
		c.YTicks = append(c.YTicks, tick{100 - 100*v/c.Top, tickText(v, step)})
	}
	step = timeStep(c.End, 6)
	for t := 0.0; t <= c.End; t += step {
		if c.End-t >= step/8 { // the last would stand beyond the edge
			c.XTicks = append(c.XTicks, tick{100 * t / c.End, clock(t)})
		}
	}
}

// tickText writes a value with as many decimals as its step has.
func tickText(v, step float64) string {
	decimals := 0
	for s := step; decimals < 3 && math.Abs(s-math.Round(s)) > 1e-9; s *= 10 {
		decimals++
	}
	if decimals == 0 {
		return count(int64(math.Round(v)))
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}

// path draws a line, and the area below it.
func (c *chart) path(points []point) (stroke, area string) {
	var s, a strings.Builder
	started := false
	var lastX float64
	end := func() {
		if started {
			fmt.Fprintf(&a, "L%.1f %dZ", lastX, plotHeight)
		}
		started = false
	}
	for _, p := range points {
		if math.IsNaN(p.y) {
			end()
			continue
		}
		x, y := plotWidth*p.x/c.End, plotHeight*(1-p.y/c.Top)
		if !started {
			fmt.Fprintf(&s, "M%.1f %.1f", x, y)
			fmt.Fprintf(&a, "M%.1f %dL%.1f %.1f", x, plotHeight, x, y)
		} else {
			fmt.Fprintf(&s, "L%.1f %.1f", x, y)
			fmt.Fprintf(&a, "L%.1f %.1f", x, y)
		}
		started, lastX = true, x
	}
	end()
	return s.String(), a.String()
}

// placeLabels puts the name of each line beside the height that it had in the last third of the run, without letting two cover each
// other. The last value would not do: a run ends with its users leaving.
func (c *chart) placeLabels() {
	order := make([]*line, len(c.Lines))
	for i := range c.Lines {
		l := &c.Lines[i]
		l.Label, order[i] = plotHeight*(1-mean(l.points[2*len(l.points)/3:])/c.Top), l
	}
	slices.SortStableFunc(order, func(a, b *line) int { return int(math.Copysign(1, a.Label-b.Label)) })
	for i := 1; i < len(order); i++ { // downwards
		order[i].Label = max(order[i].Label, order[i-1].Label+labelHeight)
	}
	floor := float64(plotHeight)
	for i := len(order) - 1; i >= 0; i-- { // and back up from the bottom
		order[i].Label = min(order[i].Label, floor)
		floor = order[i].Label - labelHeight
	}
}

// mean is the mean of the values that are there, 0 if there are none.
func mean(points []point) float64 {
	sum, n := 0.0, 0
	for _, p := range points {
		if !math.IsNaN(p.y) {
			sum, n = sum+p.y, n+1
		}
	}
	return sum / float64(max(n, 1))
}

func marks(faults []loadgen.Fault, end float64) []mark {
	var list []mark
	for i, f := range faults {
		m := mark{At: 100 * f.Second / end, X: plotWidth * f.Second / end, Title: clock(f.Second) + " " + f.Kind + " " + f.Target}
		if m.At < 0 || m.At > 100 {
			continue
		}
		if len(faults) <= maxNumbered {
			m.Number = strconv.Itoa(i + 1)
		}
		list = append(list, m)
	}
	return list
}

// describe says in words what the chart shows.
func (c *chart) describe() {
	var parts []string
	for _, l := range c.Lines {
		top := highest(l.points)
		part := fmt.Sprintf("%s peaks at %s", l.Name, number(top.y))
		if c.Unit != "" {
			part += " " + c.Unit
		}
		parts = append(parts, part+" after "+clock(top.x))
	}
	c.About = strings.Join(parts, "; ")
}

// tabulate fills in the values for the table and for the pointer.
func (c *chart) tabulate() {
	c.Head = []string{"Time"}
	c.Hover.End = c.End
	for i, l := range c.Lines {
		c.Head = append(c.Head, l.Name)
		for j, p := range spans(l.points, maxRows) {
			if i == 0 {
				c.Rows = append(c.Rows, []string{clock(p.x)})
			}
			text := "–"
			if !math.IsNaN(p.y) {
				text = number(p.y)
			}
			c.Rows[j] = append(c.Rows[j], text)
		}
		var values []*float64
		for _, p := range spans(l.points, maxHover) {
			if i == 0 {
				c.Hover.T = append(c.Hover.T, math.Round(p.x*10)/10)
			}
			var v *float64
			if !math.IsNaN(p.y) {
				v = new(math.Round(p.y*100) / 100)
			}
			values = append(values, v)
		}
		c.Hover.V = append(c.Hover.V, values)
	}
}
