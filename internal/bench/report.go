package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// Figure is one metric of one peer in one scenario, over all rounds.
type Figure struct {
	Setup, Scenario, Peer string
	Metric, Unit          string
	Higher                bool
	Value                 Summary
	ToDirect              Summary // ratio to the direct runs around each; N = 0 for what direct does not have
	ToBest                float64 // median to the best median of a forwarder that is not ours; NaN-free: 0 is none
}

// Figures derives all figures from the rows, in their order.
func (r *Results) Figures() []Figure {
	var list []Figure
	for _, row := range r.Rows {
		direct := r.row(row.Setup, row.Scenario, Direct)
		for _, m := range metricsOf[row.Kind] {
			var v, ratio []float64
			for _, run := range row.Runs {
				x := m.Of(run.Sample)
				v = append(v, x)
				if row.Peer != Direct && direct != nil {
					ratio = append(ratio, per(x, nearby(direct, run.Near, m)))
				}
			}
			list = append(list, Figure{Setup: row.Setup, Scenario: row.Scenario, Peer: row.Peer, Metric: m.Name, Unit: m.Unit, Higher: m.Higher,
				Value: Summarize(v), ToDirect: Summarize(ratio)})
		}
	}
	ours := map[string]bool{Direct: true}
	for _, p := range Peers {
		ours[p.Name] = ours[p.Name] || p.Ours
	}
	for i := range list {
		f := &list[i]
		if f.Peer == Direct || f.Value.N == 0 {
			continue
		}
		best := math.NaN()
		for _, o := range list {
			if o.Setup != f.Setup || o.Scenario != f.Scenario || o.Metric != f.Metric || o.Unit != f.Unit || ours[o.Peer] || o.Value.N == 0 {
				continue
			}
			if math.IsNaN(best) || (o.Value.Median > best) == f.Higher {
				best = o.Value.Median
			}
		}
		if best > 0 {
			f.ToBest = f.Value.Median / best
		}
	}
	return list
}

func (r *Results) row(setup, scenario, peer string) *Row {
	for _, row := range r.Rows {
		if row.Setup == setup && row.Scenario == scenario && row.Peer == peer {
			return row
		}
	}
	return nil
}

// nearby is the mean of the direct runs around a measurement.
func nearby(direct *Row, near []int, m Metric) float64 {
	sum, n := 0.0, 0
	for _, i := range near {
		if i < len(direct.Runs) {
			sum += m.Of(direct.Runs[i].Sample)
			n++
		}
	}
	return per(sum, float64(n))
}

// noisy is the spread of the direct runs of a scenario above which differences between peers there mean little.
const noisy = 0.20

// Noise is the spread, (max−min)/median, of the first metric of the direct runs in a scenario.
func (r *Results) Noise(setup, scenario string) float64 {
	row := r.row(setup, scenario, Direct)
	if row == nil {
		return 0
	}
	var v []float64
	for _, run := range row.Runs {
		v = append(v, metricsOf[row.Kind][0].Of(run.Sample))
	}
	return Summarize(v).Spread()
}

// WriteJSON writes the raw samples, the figures made of them, and everything else.
func (r *Results) WriteJSON(w io.Writer) error {
	return json.NewEncoder(w).Encode(struct {
		*Results
		Figures []Figure
	}{r, r.Figures()})
}

// ReadJSON reads what WriteJSON wrote and judges it anew, by the marks of this program.
func ReadJSON(from io.Reader) (*Results, error) {
	r := &Results{}
	if err := json.NewDecoder(from).Decode(r); err != nil {
		return nil, err
	}
	r.Marks = Judge(r)
	return r, nil
}

// sheet is a table that is written as aligned text or as Markdown.
type sheet struct {
	head []string
	rows [][]string
}

func (s *sheet) add(cells ...string) { s.rows = append(s.rows, cells) }

func (s *sheet) text(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{s.head}, s.rows...) {
		fmt.Fprintln(t, "  "+strings.Join(row, "\t"))
	}
	t.Flush()
}

func (s *sheet) markdown(w io.Writer) {
	line := func(cells []string) { fmt.Fprintln(w, "| "+strings.Join(cells, " | ")+" |") }
	line(s.head)
	line(slices.Repeat([]string{"---"}, len(s.head)))
	for _, row := range s.rows {
		line(row)
	}
}

// number prints three significant digits, and no more decimals than help.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "-"
	case a >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case a >= 9.995:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.995 || a == 0:
		return fmt.Sprintf("%.2f", v)
	}
	return strings.TrimPrefix(fmt.Sprintf("%.3f", v), "0")
}

func interval(s Summary) string {
	if s.N == 0 {
		return "-"
	}
	return fmt.Sprintf("%s [%s %s]", number(s.Median), number(s.Min), number(s.Max))
}

// section is a part of the report: words, and perhaps a table.
type section struct {
	title string
	words []string
	table *sheet
	lines []string // instead of the table, where a terminal is too narrow for it
}

// legend explains the cells of the measurement tables.
const legend = "Cells: median [min max], then ×ratio to direct (median of the rounds' own ratios) where direct has the figure, and /ratio to the best forwarder that is not ours."

func (r *Results) sections() []section {
	list := []section{r.aboutMachine(), r.aboutMarks()}
	figures := r.Figures()
	for _, setup := range r.Setups {
		list = append(list, section{title: "Setup: " + setup.Name, words: []string{setup.What + "."}})
		for n := 0; n < len(r.Rows); n++ {
			row := r.Rows[n]
			if row.Setup != setup.Name || row.Peer != Direct {
				continue
			}
			list = append(list, r.measured(setup.Name, row, figures))
		}
	}
	return append(list, r.aboutRest()...)
}

func (r *Results) aboutMachine() section {
	m := r.Machine
	kind := "machine"
	if m.Virtual {
		kind = "virtual machine"
	}
	words := []string{
		fmt.Sprintf("%s, %d cores, %.0f GiB, %s; Linux %s, %s; %s.", m.CPU, m.Cores, m.MemoryGiB, kind, m.Kernel, m.Arch, m.Go),
		fmt.Sprintf("%s mode, %s: %d rounds, each measurement %s after %s of warming up, %.0f s in all. Load average at the start: %.2f.",
			r.Mode, r.Date, r.Rounds, r.Window.Round(1e6), r.Warm.Round(1e6), r.Seconds, m.Load),
		fmt.Sprintf("Hard limit of descriptors per process: %d. fs.pipe-user-pages-soft: %s.", m.Descriptors, m.PipePages),
	}
	if r.Users {
		words = append(words, "Each forwarder ran as an ordinary user of its own.")
	} else {
		words = append(words, "All forwarders ran as the one user there was.")
	}
	if worst, where := r.worstNoise(); worst > noisy {
		words = append(words, fmt.Sprintf("The machine was too noisy to tell small differences in some scenarios: direct runs were up to %.0f %% apart (%s).", 100*worst, where))
	}
	words = append(words, r.Notes...)
	t := &sheet{head: []string{"forwarder", "version", "what"}}
	for _, p := range r.Peers {
		t.add(p.Name, p.Version, p.Why)
	}
	for _, a := range r.Absent {
		where := a.Why
		if a.Setup != "" {
			where = a.Setup + ": " + a.Why
		}
		t.add(a.Peer, "absent", where)
	}
	return section{title: "Machine and run", words: words, table: t}
}

func (r *Results) worstNoise() (worst float64, where string) {
	for _, row := range r.Rows {
		if row.Peer == Direct {
			if n := r.Noise(row.Setup, row.Scenario); n > worst {
				worst, where = n, row.Setup+", "+row.Scenario
			}
		}
	}
	return worst, where
}

func (r *Results) measured(setup string, direct *Row, figures []Figure) section {
	s := section{title: direct.Scenario, table: &sheet{head: []string{"forwarder"}}}
	if n := r.Noise(setup, direct.Scenario); n > noisy {
		s.words = append(s.words, fmt.Sprintf("Too noisy to tell small differences: the direct runs are %.0f %% apart.", 100*n))
	}
	for _, m := range metricsOf[direct.Kind] {
		s.table.head = append(s.table.head, m.Name+" "+m.Unit)
	}
	for _, row := range r.Rows {
		if row.Setup != setup || row.Scenario != direct.Scenario {
			continue
		}
		if len(row.Runs) == 0 {
			if len(row.Failures) > 0 {
				s.words = append(s.words, fmt.Sprintf("%s failed: %s.", row.Peer, row.Failures[0]))
			}
			continue
		}
		if len(row.Failures) > 0 {
			s.words = append(s.words, fmt.Sprintf("%s failed %d of %d times: %s.", row.Peer, len(row.Failures), len(row.Failures)+len(row.Runs), row.Failures[0]))
		}
		cells := []string{row.Peer}
		for _, f := range figures {
			if f.Setup != setup || f.Scenario != direct.Scenario || f.Peer != row.Peer {
				continue
			}
			cell := interval(f.Value)
			if f.ToDirect.N > 0 {
				cell += " ×" + number(f.ToDirect.Median)
			}
			if f.ToBest > 0 {
				cell += " /" + number(f.ToBest)
			}
			cells = append(cells, cell)
		}
		s.table.add(cells...)
	}
	return s
}

func kib(bytes uint64) string { return number(float64(bytes) / 1024) }

func (r *Results) aboutRest() []section {
	var list []section
	if len(r.Rest) > 0 {
		fixed := &sheet{head: []string{"forwarder", "start to first served, ms", "RSS KiB", "PSS KiB", "private KiB", "descriptors", "processes/threads", "wake-ups at rest"}}
		parts := &sheet{head: []string{"forwarder", "process", "RSS KiB", "PSS KiB", "private KiB", "shared KiB", "wake-ups"}}
		idle := &sheet{head: []string{"forwarder", "idle connections", "PSS KiB", "private bytes/conn", "descriptors/conn", "pipes", "wake-ups", "descriptors after closing", "limit"}}
		for _, x := range r.Rest {
			if x.Failed != "" {
				fixed.add(x.Peer, "failed: "+x.Failed)
				continue
			}
			h := x.Rest
			fixed.add(x.Peer, interval(x.Start), kib(h.Sum.RSS), kib(h.Sum.PSS), kib(h.Sum.Private), fmt.Sprint(h.Descriptors),
				fmt.Sprintf("%d/%d", h.Processes, h.Threads), fmt.Sprintf("%d in %.0f s", x.Wakeups, x.Watched))
			for n, p := range h.Each {
				wake := "-"
				if n < len(x.EachWake) {
					wake = fmt.Sprint(x.EachWake[n])
				}
				parts.add(x.Peer, fmt.Sprintf("%d %s", n+1, p.Name), kib(p.Memory.RSS), kib(p.Memory.PSS), kib(p.Memory.Private), kib(p.Memory.Shared), wake)
			}
			perConn := func(after, before uint64) string {
				return number(per(float64(after)-float64(before), float64(x.Held)))
			}
			idle.add(x.Peer, fmt.Sprintf("%d of %d", x.Held, x.Asked), kib(x.Idle.Sum.PSS), perConn(x.Idle.Sum.Private, x.Before.Sum.Private),
				number(per(float64(x.Idle.Descriptors-x.Before.Descriptors), float64(x.Held))), fmt.Sprint(x.Idle.Pipes),
				fmt.Sprintf("%d in %.0f s", x.IdleWake, x.IdleFor), fmt.Sprintf("%d (%d before)", x.After.Descriptors, x.Before.Descriptors), x.Why)
		}
		list = append(list,
			section{title: "Fixed cost", words: []string{"Kernel memory of sockets and pipes is in none of these."}, table: fixed},
			section{title: "Fixed cost, process by process", table: parts},
			section{title: "Idle connections", words: []string{"Each connection has echoed one byte before."}, table: idle})
	}
	if len(r.Growth) > 0 {
		t := &sheet{head: []string{"forwarder", "cost", "at", "CPU", "to the first"}}
		for _, g := range r.Growth {
			at := fmt.Sprintf("%.0f idle connections beside", g.At)
			if g.Series == answerSeries {
				at = fmt.Sprintf("%.0f bytes", g.At)
			}
			cost := interval(g.Cost) + " " + g.Unit
			if g.Series == answerSeries {
				cost += fmt.Sprintf(" (%s ns per byte)", number(1000*g.Cost.Median/g.At))
			}
			t.add(g.Peer, g.Series, at, cost, "×"+interval(g.ToFirst)+strings.Join(g.Failures, "; "))
		}
		list = append(list, section{title: "Growth", table: t})
	}
	return list
}

// WriteText writes the report for a terminal.
func (r *Results) WriteText(w io.Writer) {
	for _, s := range r.sections() {
		fmt.Fprintf(w, "\n%s\n", s.title)
		for _, line := range s.words {
			fmt.Fprintf(w, "  %s\n", line)
		}
		for _, line := range s.lines {
			fmt.Fprintf(w, "  %s\n", line)
		}
		if len(s.lines) == 0 && s.table != nil && len(s.table.rows) > 0 {
			s.table.text(w)
		}
	}
	fmt.Fprintf(w, "\n%s\n", legend)
}

// WriteMarkdown writes the report with the plot, which lies beside it under the given name.
func (r *Results) WriteMarkdown(w io.Writer, plot string) {
	fmt.Fprintf(w, "# Bench\n\nWritten by `make bench`; figures hold for the machine named and for the run alone.\n%s\n\n![plot](%s)\n", legend, plot)
	for _, s := range r.sections() {
		level := "##"
		if s.table != nil && r.isScenario(s.title) {
			level = "###"
		}
		fmt.Fprintf(w, "\n%s %s\n\n", level, s.title)
		for _, line := range s.words {
			fmt.Fprintf(w, "%s\n", line)
		}
		if s.table != nil && len(s.table.rows) > 0 {
			if len(s.words) > 0 {
				fmt.Fprintln(w)
			}
			s.table.markdown(w)
		}
	}
}

func (r *Results) isScenario(title string) bool {
	return slices.ContainsFunc(r.Rows, func(row *Row) bool { return row.Scenario == title })
}
