package bed

import (
	"slices"
	"testing"

	"syd/testvm/kernel"
)

// TestResume takes over what passed at the same commit with the same QEMU, guest by guest, and nothing else.
func TestResume(t *testing.T) {
	suites := []Suite{{Name: "one", Users: []int{0}}, {Name: "two", Users: []int{0, 1000}}}
	guests := []Guest{
		{Row: kernel.Row{Name: "k1"}, Arch: "arm"},
		{Row: kernel.Row{Name: "k1"}, Arch: "arm", Variant: Variant{Name: "v"}},
		{Row: kernel.Row{Name: "k2"}, Arch: "arm"},
	}
	all := func(g Guest, s Status) []Cell {
		cells := g.cells(suites)
		for i := range cells {
			cells[i].Status = s
		}
		return cells
	}
	same := Results{Commit: "abc", QEMU: "10", Date: "2026-01-01"}
	for _, c := range []struct {
		name   string
		change func(*Results)
		left   []int
	}{
		{"all", func(r *Results) {}, nil},
		{"in any order", func(r *Results) { slices.Reverse(r.Cells) }, nil},
		{"one failed", func(r *Results) { r.Cells[4].Status = Failed }, []int{1}},
		{"one unavailable", func(r *Results) { r.Cells[8].Status = Unavailable }, []int{2}},
		{"one missing", func(r *Results) { r.Cells = r.Cells[1:] }, []int{0}},
		{"one not applicable", func(r *Results) { r.Cells[0].Status = NotApplicable }, nil},
		{"another commit", func(r *Results) { r.Commit = "abd" }, []int{0, 1, 2}},
		{"another QEMU", func(r *Results) { r.QEMU = "11" }, []int{0, 1, 2}},
		{"another suite", func(r *Results) { r.Cells[0].Suite = "three" }, []int{0}},
	} {
		earlier := same
		for _, g := range guests {
			earlier.Cells = append(earlier.Cells, all(g, Passed)...)
		}
		c.change(&earlier)
		now := same
		now.Date = "2026-01-02"
		left := now.Resume(earlier, guests, suites)
		now.Sort(guests)
		var want []string
		for _, i := range c.left {
			want = append(want, guests[i].String())
		}
		var got []string
		for _, g := range left {
			got = append(got, g.String())
		}
		if !slices.Equal(got, want) || len(now.Cells) != 3*(len(guests)-len(want)) {
			t.Errorf("%s: left %v with %d cells, want %v", c.name, got, len(now.Cells), want)
		}
		if len(now.Cells) > 0 && (now.Date != earlier.Date || !guests[0].has(now.Cells[0]) && !slices.Contains(c.left, 0)) {
			t.Errorf("%s: dated %s, begins with %+v", c.name, now.Date, now.Cells[0])
		}
	}
	dirty := Results{Commit: "abc-dirty", QEMU: "10"}
	earlier := Results{Commit: "abc-dirty", QEMU: "10", Cells: all(guests[0], Passed)}
	if left := dirty.Resume(earlier, guests, suites); len(left) != len(guests) {
		t.Errorf("of a tree that is no commit's, only %v were left", left)
	}
}
