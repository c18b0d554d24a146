package bed

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"syd/testvm/kernel"
)

func writeFile(name string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, b, 0o644)
}

// Results is one run: what was tested, by what, and every cell.
type Results struct {
	Commit string `json:"commit"` // or unknown, see Dirty
	QEMU   string `json:"qemu"`
	Date   string `json:"date"` // of the start, UTC
	Cells  []Cell `json:"cells"`
}

// Dirty ends the name of a commit if the tree was not that of the commit.
const Dirty = "-dirty"

// Clean tells whether the results are of a commit.
func (r *Results) Clean() bool { return r.Commit != unknown && !strings.HasSuffix(r.Commit, Dirty) }

// unknown is the commit of a source archive, which has no history.
const unknown = "unknown"

// Describe returns Results without cells for the tree at root. A file that git does not know makes it dirty, too.
func Describe(ctx context.Context, root string, qemu *kernel.QEMU) Results {
	r := Results{QEMU: qemu.Version, Date: time.Now().UTC().Format(time.DateOnly), Commit: unknown}
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir = root
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	commit, err := git("describe", "--always", "--abbrev=12")
	if err != nil {
		return r
	}
	r.Commit = commit
	if changes, err := git("status", "--porcelain"); err != nil || changes != "" {
		r.Commit += Dirty
	}
	return r
}

// Resume takes the cells of the guests in which an earlier run, of the same tree with the same QEMU, had nothing red, and
// returns the guests that are left. From a tree that was not a commit's it takes nothing.
func (r *Results) Resume(earlier Results, guests []Guest, suites []Suite) (left []Guest) {
	if earlier.Commit != r.Commit || earlier.QEMU != r.QEMU || !r.Clean() {
		return guests
	}
	for _, g := range guests {
		wanted := g.cells(suites)
		var cells []Cell
		for _, c := range earlier.Cells {
			same := func(w Cell) bool { return w.Suite == c.Suite && w.User == c.User }
			if g.has(c) && (c.Status == Passed || c.Status == NotApplicable) && slices.ContainsFunc(wanted, same) {
				cells = append(cells, c)
			}
		}
		if len(cells) < len(wanted) {
			left = append(left, g)
			continue
		}
		r.Cells = append(r.Cells, cells...)
		r.Date = min(r.Date, earlier.Date)
	}
	return left
}

// Sort puts the cells in the order of the guests.
func (r *Results) Sort(guests []Guest) {
	place := func(c Cell) int { return slices.IndexFunc(guests, func(g Guest) bool { return g.has(c) }) }
	slices.SortStableFunc(r.Cells, func(a, b Cell) int { return place(a) - place(b) })
}

func (g Guest) has(c Cell) bool {
	return c.Arch == g.Arch && c.Kernel == g.Row.Name && c.Variant == g.Variant.Name
}

// WriteJSON writes every cell.
func (r Results) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "\t")
	return e.Encode(r)
}

// table is the cells as rows of guests and columns of suites; notes holds each reason once, numbered from 1.
type table struct {
	head  []string
	rows  [][]string
	notes []string
}

func tabulate(cells []Cell) table {
	t := table{head: []string{"architecture", "kernel", "version"}}
	var columns []string
	for _, c := range cells {
		if !slices.Contains(columns, c.program()) {
			columns = append(columns, c.program())
		}
	}
	t.head = append(t.head, columns...)
	for i := 0; i < len(cells); {
		first := cells[i]
		name := first.Kernel
		if first.Variant != "" {
			name += " " + first.Variant
		}
		row := make([]string, len(t.head))
		for j := range row {
			row[j] = "-"
		}
		copy(row, []string{first.Arch, name, first.Package})
		if first.Package == "" {
			row[2] = "-"
		}
		for ; i < len(cells) && cells[i].Arch == first.Arch && cells[i].Kernel == first.Kernel && cells[i].Variant == first.Variant; i++ {
			row[3+slices.Index(columns, cells[i].program())] = t.text(cells[i])
		}
		t.rows = append(t.rows, row)
	}
	return t
}

// text is what stands in a cell: counts for what passed, the number of a note for all else.
func (t *table) text(c Cell) string {
	s := string(c.Status)
	if c.Status == Passed {
		s = fmt.Sprintf("passed %d", c.Tests)
		if c.Cases > 0 {
			s += fmt.Sprintf("+%d", c.Cases)
		}
	}
	var why []string
	if c.Reason != "" {
		why = append(why, c.Reason)
	}
	for _, name := range c.Skipped {
		if reason, ok := find(MaySkip, &c, name); ok {
			why = append(why, fmt.Sprintf("%s not run: %s", name, reason))
		}
	}
	for _, w := range why {
		n := slices.Index(t.notes, w)
		if n < 0 {
			t.notes = append(t.notes, w)
			n = len(t.notes) - 1
		}
		s += fmt.Sprintf(" [%d]", n+1)
	}
	return s
}

// WriteText writes the table for a terminal.
func (r Results) WriteText(w io.Writer) error {
	t := tabulate(r.Cells)
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range append([][]string{t.head}, t.rows...) {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for i, n := range t.notes {
		fmt.Fprintf(w, "[%d] %s\n", i+1, n)
	}
	_, err := fmt.Fprintf(w, "%s, with QEMU %s\n", tally(r.Cells), r.QEMU)
	return err
}

// WriteMarkdown writes the table for the documentation.
func (r Results) WriteMarkdown(w io.Writer) error {
	t := tabulate(r.Cells)
	fmt.Fprintf(w, `# Test matrix

Written by %[1]smake test-vm-matrix%[1]s on %s, at commit %s, with QEMU %s, without hardware acceleration. A row is a guest: the
architecture of the programs, the kernel of testvm/kernel/kernels.txt, with what a variant takes away from it, and its
exact version. A column is a suite and the user that it ran as. A cell tells how many tests passed, + how many cases in
them. Passed means that every test of the binary ran and passed, or may skip for the reason of a note.

`, "`", r.Date, r.Commit, r.QEMU)
	escape := strings.NewReplacer("|", `\|`, "\n", " ")
	line := func(row []string) {
		for i := range row {
			row[i] = escape.Replace(row[i])
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
	}
	line(t.head)
	fmt.Fprintf(w, "|%s\n", strings.Repeat("---|", len(t.head)))
	for _, row := range t.rows {
		for i, s := range row {
			if strings.HasPrefix(s, string(Failed)) {
				row[i] = "**" + s + "**"
			}
		}
		line(row)
	}
	fmt.Fprint(w, "\n## Variants\n\n")
	for _, v := range Variants {
		if v.Name != "" {
			fmt.Fprintf(w, "- %s: %s\n", v.Name, v.Text)
		}
	}
	fmt.Fprint(w, "\n## Notes\n\n")
	for i, n := range t.notes {
		fmt.Fprintf(w, "%d. %s\n", i+1, escape.Replace(n))
	}
	_, err := fmt.Fprintf(w, "\n%s.\n", tally(r.Cells))
	return err
}

// Red reports whether the run as a whole failed: a failed cell, or a kernel of a stable suite that could not be had.
func Red(cells []Cell, stable func(kernel string) bool) bool {
	return slices.ContainsFunc(cells, func(c Cell) bool {
		return c.Status == Failed || c.Status == "" || c.Status == Unavailable && stable(c.Kernel)
	})
}
