package report

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// count writes a whole number with commas between its thousands.
func count(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// number writes a number with the three or so digits that matter.
func number(v float64) string {
	switch a := math.Abs(v); {
	case v == 0:
		return "0"
	case a >= 100:
		return count(int64(math.Round(v)))
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// millis is number for a time in milliseconds; what takes longer than ten seconds is shown in them.
func millis(ms float64) string {
	if ms >= 10_000 {
		return number(ms/1000) + "s"
	}
	return number(ms)
}

// clock writes a time since the start: "42 s", "2:05", "1:02:05".
func clock(seconds float64) string {
	d := time.Duration(math.Round(seconds)) * time.Second
	h, m, s := int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60
	switch {
	case h > 0:
		return fmt.Sprintf("%d:%02d:%02d", h, m, s)
	case m > 0:
		return fmt.Sprintf("%d:%02d", m, s)
	}
	return fmt.Sprintf("%d s", s)
}

// share writes a part of a whole in percent; what is not 0 is not shown as 0.
func share(part, whole int64) string {
	p := 100 * float64(part) / float64(max(whole, 1))
	if part > 0 && p < 0.01 {
		return "< 0.01 %"
	}
	return number(p) + " %"
}
