package bed

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

func writeFile(name string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, b, 0o644)
}

// WriteJSON writes every cell.
func WriteJSON(w io.Writer, cells []Cell) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "\t")
	return e.Encode(cells)
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
func WriteText(w io.Writer, cells []Cell) error {
	t := tabulate(cells)
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
	_, err := fmt.Fprintln(w, tally(cells))
	return err
}

// WriteMarkdown writes the table for the documentation.
func WriteMarkdown(w io.Writer, cells []Cell) error {
	t := tabulate(cells)
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
	fmt.Fprintln(w)
	for i, n := range t.notes {
		fmt.Fprintf(w, "%d. %s\n", i+1, escape.Replace(n))
	}
	_, err := fmt.Fprintf(w, "\n%s.\n", tally(cells))
	return err
}

// Red reports whether the run as a whole failed: a failed cell, or a kernel of a stable suite that could not be had.
func Red(cells []Cell, stable func(kernel string) bool) bool {
	return slices.ContainsFunc(cells, func(c Cell) bool {
		return c.Status == Failed || c.Status == "" || c.Status == Unavailable && stable(c.Kernel)
	})
}
