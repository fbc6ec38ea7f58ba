package bridge

import (
	"fmt"
	"strings"
	"time"
)

// pythonTime is a time as Python's datetime has it: a wall clock reading that may or may not know its zone.
type pythonTime struct {
	wall   time.Time     // the reading, in UTC
	offset time.Duration // of its zone
	aware  bool          // it has a zone
}

// String shows the time the way the old server did: Z for UTC, another offset as ±hh:mm and no finer, no suffix without a zone, and a fraction of
// six digits unless it is zero.
func (t pythonTime) String() string {
	s := t.wall.Format("2006-01-02T15:04:05")
	if us := t.wall.Nanosecond() / 1000; us != 0 {
		s += fmt.Sprintf(".%06d", us)
	}
	switch {
	case !t.aware:
		return s
	case t.offset == 0:
		return s + "Z"
	}
	sign, off := '+', t.offset
	if off < 0 {
		sign, off = '-', -off
	}
	return s + fmt.Sprintf("%c%02d:%02d", sign, off/time.Hour, off%time.Hour/time.Minute)
}

// parsePythonTime reads what datetime.fromisoformat of Python 3.11 reads after every Z was replaced by +00:00. It follows that
// function step by step, because clients have come to rely on what it lets pass.
func parsePythonTime(s string) (pythonTime, bool) {
	s = strings.ReplaceAll(s, "Z", "+00:00")
	if len(s) < 7 {
		return pythonTime{}, false
	}
	sep := dateEnd(s)
	if sep < 0 || sep > len(s) {
		return pythonTime{}, false
	}
	day, ok := parsePythonDate(s[:sep])
	if !ok {
		return pythonTime{}, false
	}
	t := pythonTime{wall: day}
	if len(s) == sep {
		return t, true
	}
	rest := s[sep:]
	rest = rest[min(runeLength(rest[0]), len(rest)):]
	clock, offset, aware, ok := parseClockAndZone(rest)
	if !ok {
		return pythonTime{}, false
	}
	t.wall, t.offset, t.aware = day.Add(clock), offset, aware
	return t, true
}

// runeLength is how many bytes the separator between date and time has, by its first byte.
func runeLength(first byte) int {
	switch {
	case first < 0x80:
		return 1
	case first&0xF0 == 0xE0:
		return 3
	case first&0xF0 == 0xF0:
		return 4
	}
	return 2
}

// dateEnd finds the separator behind the date, which may be any character, by what distinguishes the forms of dates.
func dateEnd(s string) int {
	switch {
	case len(s) == 7:
		return 7
	case s[4] == '-' && s[5] != 'W': // YYYY-MM-DD
		return 10
	case s[4] == '-': // YYYY-Www or YYYY-Www-d
		switch {
		case len(s) == 8 || s[8] != '-':
			return 8
		case len(s) == 9:
			return -1
		case len(s) > 10 && isDigit(s[10]): // YYYY-Www-hh
			return 8
		}
		return 10
	case s[4] == 'W': // YYYYWww or YYYYWwwd
		end := 7
		for end < len(s) && isDigit(s[end]) {
			end++
		}
		if end < 9 {
			return end
		}
		return 7 + end%2
	}
	return 8 // YYYYMMDD
}

func parsePythonDate(s string) (time.Time, bool) {
	p := digits{s: s}
	year := p.take(4)
	dashed := p.skip('-')
	if p.skip('W') {
		week, day := p.take(2), 1
		if p.rest() > 0 {
			if dashed && !p.skip('-') {
				return time.Time{}, false
			}
			day = p.take(1)
		}
		return isoWeekDay(year, week, day, !p.bad)
	}
	month := p.take(2)
	if dashed && !p.skip('-') {
		return time.Time{}, false
	}
	day := p.take(2)
	if p.bad || p.rest() > 0 || year < 1 || month < 1 || month > 12 || day < 1 {
		return time.Time{}, false
	}
	t := time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC)
	return t, t.Day() == day
}

// isoWeekDay returns the date of a weekday of an ISO week.
func isoWeekDay(year, week, day int, ok bool) (time.Time, bool) {
	if !ok || year < 1 || week < 1 || week > 53 || day < 1 || day > 7 {
		return time.Time{}, false
	}
	fourth := time.Date(year, time.January, 4, 0, 0, 0, 0, time.UTC) // always in week 1
	monday := fourth.AddDate(0, 0, -(int(fourth.Weekday())+6)%7)
	t := monday.AddDate(0, 0, (week-1)*7+day-1)
	isoYear, isoWeek := t.ISOWeek()
	return t, isoYear == year && isoWeek == week && t.Year() >= 1 && t.Year() <= 9999
}

// parseClockAndZone reads hh[:mm[:ss[.ffffff]]] and an offset of the same form.
func parseClockAndZone(s string) (clock, offset time.Duration, aware, ok bool) {
	zone := strings.IndexAny(s, "+-")
	if zone < 0 {
		zone = len(s)
	}
	c, clean, ok := parseClock(s, zone)
	if !ok || c.hour > 23 || c.minute > 59 || c.second > 59 {
		return 0, 0, false, false
	}
	if zone == len(s) {
		return c.duration(), 0, false, clean
	}
	z, clean, ok := parseClock(s[zone+1:], len(s)-zone-1)
	offset = z.duration().Truncate(time.Minute) // what is finer was lost in the old store
	if !ok || !clean || offset >= 24*time.Hour {
		return 0, 0, false, false
	}
	if s[zone] == '-' {
		offset = -offset
	}
	return c.duration(), offset, true, true
}

type clock struct{ hour, minute, second, micro int }

func (c clock) duration() time.Duration {
	return time.Duration(c.hour)*time.Hour + time.Duration(c.minute)*time.Minute +
		time.Duration(c.second)*time.Second + time.Duration(c.micro)*time.Microsecond
}

// parseClock reads a clock that ends at the given place of s; clean says that nothing is left over there.
func parseClock(s string, end int) (c clock, clean, ok bool) {
	p := digits{s: s}
	colons := true
parts:
	for i, v := range []*int{&c.hour, &c.minute, &c.second} {
		*v = p.take(2)
		if p.bad {
			return c, false, false
		}
		next := p.peek()
		p.at++
		if i == 0 {
			colons = next == ':'
		}
		switch {
		case p.at >= end:
			return c, next == 0, true
		case colons && next == ':':
		case next == '.' || next == ',':
			break parts
		case !colons:
			p.at--
		default:
			return c, false, false
		}
	}
	n := min(end-p.at, 6)
	c.micro = p.take(n)
	for range 6 - n {
		c.micro *= 10
	}
	for isDigit(p.peek()) {
		p.at++
	}
	return c, p.peek() == 0, !p.bad
}

// digits reads numbers of fixed width.
type digits struct {
	s   string
	at  int
	bad bool
}

func (p *digits) take(n int) int {
	v := 0
	for range n {
		c := p.peek()
		if !isDigit(c) {
			p.bad = true
			return 0
		}
		v = v*10 + int(c-'0')
		p.at++
	}
	return v
}

// peek returns the next byte, 0 at the end.
func (p *digits) peek() byte {
	if p.at < len(p.s) {
		return p.s[p.at]
	}
	return 0
}

func (p *digits) skip(c byte) bool {
	if p.peek() != c {
		return false
	}
	p.at++
	return true
}

func (p *digits) rest() int { return len(p.s) - p.at }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
