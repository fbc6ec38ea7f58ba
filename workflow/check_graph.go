package workflow

import (
	"fmt"
	"strings"
)

// link leads from one task to another; it remembers the member that draws it, to name its path.
type link struct {
	from, to int
	member   linkMember
	place    int // in dependsOn or switch
}

type linkMember int

const (
	byNext linkMember = iota
	byDepends
	bySwitch
	byFailure
)

func (l link) path() string {
	switch l.member {
	case byDepends:
		return fmt.Sprintf("$.tasks[%d].dependsOn[%d]", l.to, l.place)
	case bySwitch:
		return fmt.Sprintf("$.tasks[%d].switch[%d].taskId", l.from, l.place)
	case byFailure:
		return fmt.Sprintf("$.tasks[%d].onFailure.taskId", l.from)
	}
	return fmt.Sprintf("$.tasks[%d].nextTaskId", l.from)
}

// drawLinks finds all links, and names those that lead nowhere.
func (c *checker) drawLinks() {
	n := len(c.d.Tasks)
	c.out, c.into = make([][]int, n), make([]int, n)
	drawn := make(map[[2]int]bool, n)
	draw := func(l link) {
		c.out[l.from] = append(c.out[l.from], len(c.links))
		c.links = append(c.links, l)
		if between := [2]int{l.from, l.to}; !drawn[between] {
			drawn[between] = true
			c.into[l.to]++
		}
	}
	to := func(l link, name, id string) {
		if i, ok := c.index[id]; ok {
			l.to = i
			draw(l)
		} else {
			c.unknownTask(l.path(), name, id)
		}
	}
	for i := range c.d.Tasks {
		t := &c.d.Tasks[i]
		if t.NextTaskID != nil && *t.NextTaskID != "" {
			to(link{from: i, member: byNext}, "nextTaskId", *t.NextTaskID)
		}
		for k, id := range t.DependsOn {
			if j, ok := c.index[id]; ok {
				draw(link{from: j, to: i, member: byDepends, place: k})
			} else {
				c.unknownTask(link{to: i, member: byDepends, place: k}.path(), "dependsOn", id)
			}
		}
		for k, one := range t.Switch {
			to(link{from: i, member: bySwitch, place: k}, "taskId", one.TaskID)
		}
		if t.OnFailure != nil && t.OnFailure.TaskID != "" {
			to(link{from: i, member: byFailure}, "onFailure.taskId", t.OnFailure.TaskID)
		}
	}
}

// maxCycles bounds how many cycles are named.
const maxCycles = 100

// cycles names cycles: it goes down from every task, without recursion, and where it meets a task that it came from there is one.
func (c *checker) cycles() {
	const open, done = 1, 2
	mark := make([]int, len(c.d.Tasks))
	type place struct{ task, next int } // next: of its links, the one that is followed next
	named := 0
	for start := range c.d.Tasks {
		if mark[start] != 0 {
			continue
		}
		walk := []place{{task: start}}
		mark[start] = open
		for len(walk) > 0 {
			top := &walk[len(walk)-1]
			if top.next == len(c.out[top.task]) {
				mark[top.task] = done
				walk = walk[:len(walk)-1]
				continue
			}
			l := c.links[c.out[top.task][top.next]]
			top.next++
			switch mark[l.to] {
			case open:
				c.cyclic = true
				if named++; named > maxCycles {
					return
				}
				from := len(walk) - 1
				for walk[from].task != l.to {
					from--
				}
				names := make([]string, 0, len(walk)-from)
				for _, p := range walk[from:] {
					names = append(names, c.d.Tasks[p.task].TaskID)
				}
				c.add(l.path(), "a cycle: %s", cycleText(names))
			case 0:
				mark[l.to] = open
				walk = append(walk, place{task: l.to})
			}
		}
	}
}

// cycleText writes a cycle; of a long one the middle is left out.
func cycleText(names []string) string {
	first := names[0]
	if len(names) > 20 {
		names = append(append(names[:10:10], fmt.Sprintf("… %d more …", len(names)-20)), names[len(names)-10:]...)
	}
	return strings.Join(names, " → ") + " → " + first
}

// bitset is a set of tasks by their places.
type bitset []uint64

func (b bitset) has(i int) bool { return b[i/64]>>(i%64)&1 == 1 }
func (b bitset) set(i int)      { b[i/64] |= 1 << (i % 64) }

func (b bitset) add(other bitset) {
	for i, w := range other {
		b[i] |= w
	}
}

// before reports whether a task comes before another on every order of events. Where there is a cycle, which is named, everything does.
func (c *checker) before(i, j int) bool {
	if c.cyclic {
		return true
	}
	if c.ancestors == nil {
		c.drawAncestors()
	}
	return c.ancestors[j].has(i)
}

// drawAncestors goes through the tasks in an order in which each comes after those before it.
func (c *checker) drawAncestors() {
	n := len(c.d.Tasks)
	c.ancestors = make([]bitset, n)
	for i := range c.ancestors {
		c.ancestors[i] = make(bitset, (n+63)/64)
	}
	waits := make([]int, n) // links that have not been followed yet
	for _, l := range c.links {
		waits[l.to]++
	}
	var ready []int
	for i, n := range waits {
		if n == 0 {
			ready = append(ready, i)
		}
	}
	for len(ready) > 0 {
		i := ready[len(ready)-1]
		ready = ready[:len(ready)-1]
		for _, k := range c.out[i] {
			to := c.links[k].to
			c.ancestors[to].set(i)
			c.ancestors[to].add(c.ancestors[i])
			if waits[to]--; waits[to] == 0 {
				ready = append(ready, to)
			}
		}
	}
}
