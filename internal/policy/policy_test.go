package policy

import (
	"slices"
	"strings"
	"testing"
	"unicode"
)

// Calls that relay and monitor make: how many arguments each takes and which of them are pointers, from the manual
// pages. What is not listed in a row would be free without a word, and a free pointer is power.
var shape = map[string]struct {
	args     int
	pointers []int
}{
	"accept4":      {4, []int{1, 2}},
	"close":        {1, nil},
	"connect":      {3, []int{1}},
	"epoll_ctl":    {4, []int{3}},
	"epoll_pwait":  {6, []int{1, 4}},
	"epoll_wait":   {4, []int{1}},
	"exit":         {1, nil},
	"exit_group":   {1, nil},
	"fcntl":        {3, nil}, // the third is a number for the commands in the table
	"fcntl64":      {3, nil},
	"pipe2":        {2, []int{0}},
	"ppoll":        {5, []int{0, 2, 3}},
	"rt_sigreturn": {0, nil},
	"setsockopt":   {5, []int{3}},
	"shutdown":     {2, nil},
	"socket":       {3, nil},
	"splice":       {6, []int{1, 3}},
	"wait4":        {4, []int{1, 3}},
	"write":        {3, []int{1}},
}

// powerless are the arguments that may be anything, by name.
var powerless = []string{"fd", "sockfd", "fd_in", "fd_out", "len", "status", "unused"}

func TestRowsAreWellFormed(t *testing.T) {
	everyPolicy(t, func(t *testing.T, p *Policy) {
		if !slices.IsSortedFunc(p.Rows, func(a, b Row) int { return strings.Compare(a.Call, b.Call) }) {
			t.Error("not sorted by call")
		}
		for _, r := range p.Rows {
			if _, ok := Number(p.Arch, r.Call); !ok {
				t.Errorf("%s: no number", r.Call)
			}
			reason(t, r.Call, r.Why)
			for _, a := range r.Args {
				if a.Name == "" || a.Sym != constant && len(a.Any) != 0 {
					t.Errorf("%s: argument %+v", r.Call, a)
				}
				for _, v := range a.Any {
					if a.Mask != 0 && v&^a.Mask != 0 {
						t.Errorf("%s: %s: value %#x has bits that are not compared", r.Call, a.Name, v)
					}
				}
			}
			if r.Dead {
				continue
			}
			s, ok := shape[r.Call]
			if !ok || len(r.Args) != s.args {
				t.Errorf("%s: %d arguments, the call has %d", r.Call, len(r.Args), s.args)
				continue
			}
			for i, a := range r.Args {
				if a.Free() && (slices.Contains(s.pointers, i) || !slices.Contains(powerless, a.Name)) {
					t.Errorf("%s: %s carries power and is free", r.Call, a.Name)
				}
			}
		}
	})
}

// reason checks that a reason is one: a phrase in the voice of the others.
func reason(t *testing.T, what, why string) {
	t.Helper()
	if len(strings.Fields(why)) < 4 || unicode.IsUpper(rune(why[0])) && !strings.HasPrefix(why, "Go ") || strings.HasSuffix(why, ".") {
		t.Errorf("%s: reason %q", what, why)
	}
}

func TestSourceTablesAreSorted(t *testing.T) {
	for name, rows := range map[string][]Row{"relay": relay, "monitor": monitor} {
		for i := 1; i < len(rows); i++ {
			if rows[i-1].Call > rows[i].Call {
				t.Errorf("%s: %s comes after %s", name, rows[i].Call, rows[i-1].Call)
			}
		}
	}
	for i := 1; i < len(numbers); i++ {
		if numbers[i-1].call >= numbers[i].call {
			t.Errorf("numbers: %s comes after %s", numbers[i].call, numbers[i-1].call)
		}
	}
}

func TestDifferencesDiffer(t *testing.T) {
	for _, a := range Arches {
		for _, d := range a.Relay {
			reason(t, a.Name, d.Why)
			if d.Drop != "" && !slices.ContainsFunc(relay, func(r Row) bool { return r.Call == d.Drop }) {
				t.Errorf("%s: drops %s, which the common table does not have", a.Name, d.Drop)
			}
		}
	}
}

// libseccomp arranges the rules of a call as a tree whose branches it orders by the values it is given, and those
// of symbols are not the final ones. So where two rules part, the comparisons must exclude each other: then
// neither the order nor what follows a branch that failed further down can matter. Constants do; a symbol may
// turn out equal to anything. (Masks may overlap in the last condition: nothing is further down.)
func TestRulesPartAtConstants(t *testing.T) {
	everyPolicy(t, func(t *testing.T, p *Policy) {
		for i, a := range p.Rows {
			for _, b := range p.Rows[i+1:] {
				if a.Call == b.Call {
					part(t, a, b)
				}
			}
		}
	})
}

func part(t *testing.T, a, b Row) {
	for i := range min(len(a.Args), len(b.Args)) {
		x, y := a.Args[i], b.Args[i]
		if x.Sym == y.Sym && x.Mask == y.Mask && slices.Equal(x.Any, y.Any) {
			continue
		}
		last := i == len(a.Args)-1 && i == len(b.Args)-1
		disjoint := x.Mask == y.Mask && !slices.ContainsFunc(x.Any, func(v uint64) bool { return slices.Contains(y.Any, v) })
		if x.Free() || y.Free() || x.Sym != y.Sym || !disjoint && !last {
			t.Errorf("%s: rules part at %s, where both can match", a.Call, x.Name)
		}
		return
	}
	t.Errorf("%s: one rule contains the other", a.Call)
}
