package bench

import (
	"fmt"
	"math"
	"strings"
)

// Verdict is how one mark came out. The mark holds for the column NoTrap; the others stand beside it.
type Verdict struct {
	Mark    string
	Bound   string
	Result  string // "met", "missed" or "not measured"
	Noise   bool   // the bound lies within the uncertainty of some comparison's median
	Figures map[string]string
	// Filter is what the C loop misses the bound by, or meets it, once a filter that allows everything is in force: no
	// confined forwarder that makes the same calls can be cheaper. Where the mark is held against that loop.
	Filter string `json:",omitempty"`
}

// The possible results.
const (
	met         = "met"
	missed      = "missed"
	notMeasured = "not measured"
)

// comparison is one figure against one bound.
type comparison struct {
	label string
	value Summary
	limit float64
	least bool // the limit is a minimum
}

func (c comparison) met() bool {
	if c.least {
		return c.value.Median >= c.limit
	}
	return c.value.Median <= c.limit
}

func (c comparison) close() bool { return c.value.Low < c.limit && c.limit < c.value.High }

func (c comparison) String() string {
	if c.value.N == 0 {
		return c.label + " not measured"
	}
	s := c.label + " " + number(c.value.Median)
	if c.value.Low > c.value.Min || c.value.High < c.value.Max {
		s = fmt.Sprintf("%s (%s to %s)", s, number(c.value.Low), number(c.value.High))
	}
	if c.value.N > 1 {
		s = fmt.Sprintf("%s [%s %s]", s, number(c.value.Min), number(c.value.Max))
	}
	if !c.met() {
		s += " (!)"
	}
	return s
}

// mark is one promise about speed or size.
type mark struct {
	name, bound string
	of          func(r *Results, column string) []comparison
	loop        bool // held against the C loop
}

// Marks in the order in which they are shown.
var marks = []mark{
	{"CPU per GiB, bulk", "at most the C splice loop with 1 MiB pipes", func(r *Results, c string) []comparison {
		return r.against(c, Splice1M, 1, cpuPerGiB, "one core", bulk1, bulk8, bulk64)
	}, true},
	{"CPU per GiB, bulk", "at most half of haproxy", func(r *Results, c string) []comparison {
		return r.against(c, HAProxy, .5, cpuPerGiB, "one core", bulk1, bulk8, bulk64)
	}, false},
	{"throughput, one core", "at least the best splicing forwarder", func(r *Results, c string) []comparison {
		return r.againstBest(c, true, 1, throughput, "one core", bulk1, bulk8, bulk64)
	}, false},
	{"throughput, one core", "within 20 % of the best copying forwarder", func(r *Results, c string) []comparison {
		return r.againstBest(c, false, .8, throughput, "one core", bulk1, bulk8, bulk64)
	}, false},
	{"throughput, all cores", "at least the best splicing forwarder", func(r *Results, c string) []comparison {
		return r.againstBest(c, true, 1, throughput, "all cores", bulk1, bulk8, bulk64)
	}, false},
	{"throughput, all cores", "within 20 % of the best copying forwarder", func(r *Results, c string) []comparison {
		return r.againstBest(c, false, .8, throughput, "all cores", bulk1, bulk8, bulk64)
	}, false},
	{"fairness", "slowest stream at least .98 of the fastest", func(r *Results, c string) []comparison {
		return r.alone(c, .98, fairness, "one core", even8, even64)
	}, false},
	{"CPU per 64 B round trip, 32 connections", "at most .92 × the C splice loop", func(r *Results, c string) []comparison {
		return r.against(c, Splice1M, .92, cpuPerOp, "one core", pp32)
	}, true},
	{"p50, 1 and 32 connections", "at most the best splicing forwarder", func(r *Results, c string) []comparison {
		return r.againstBest(c, true, 1, p50, "one core", pp1, pp32)
	}, false},
	{"p99, 1 and 32 connections", "at most the best splicing forwarder", func(r *Results, c string) []comparison {
		return r.againstBest(c, true, 1, p99, "one core", pp1, pp32)
	}, false},
	{"connect-echo-close, CPU per connection", "at most .91 × the C splice loop", func(r *Results, c string) []comparison {
		return r.against(c, Splice1M, .91, cpuPerOp, "one core", churn8)
	}, true},
	{"idle connection", "2 descriptors, no pipe, 32 bytes of memory per descriptor", idleMark, false},
	{"at rest", "no wake-up in 60 s; relay private memory 300 KiB; PSS of both 4 MiB", restMark, false},
	{"start to first accept", "10 ms (measured to the first echoed byte)", func(r *Results, c string) []comparison {
		if x := r.restOf(c); x != nil {
			return []comparison{{label: "ms", value: x.Start, limit: 10}}
		}
		return nil
	}, false},
	{"cost from 1 to as many connections as fit", "flat, ± 5 %", growthMark, false},
}

// against compares a metric of a column with a peer's, round by round.
func (r *Results) against(column, peer string, limit float64, m Metric, setup string, scenarios ...Scenario) []comparison {
	var list []comparison
	for _, sc := range scenarios {
		list = append(list, comparison{label: sc.short() + " ×", value: r.ratio(setup, sc.Name, m, column, peer), limit: limit, least: m.Higher})
	}
	return list
}

// againstBest compares with the peer that has the best median among those that splice, which all take part in the duels,
// or among those that copy.
func (r *Results) againstBest(column string, splices bool, limit float64, m Metric, setup string, scenarios ...Scenario) []comparison {
	var list []comparison
	for _, sc := range scenarios {
		where := setup
		if splices && r.row(duels(setup), sc.Name, column) != nil {
			where = duels(setup) // figures of two setups stem from two times
		}
		peer := r.best(splices, m, where, sc.Name)
		c := comparison{label: sc.short() + " ×", limit: limit, least: m.Higher}
		if peer != "" {
			c.label = fmt.Sprintf("%s (%s) ×", sc.short(), peer)
			c.value = r.ratio(setup, sc.Name, m, column, peer)
		}
		list = append(list, c)
	}
	return list
}

// best is the peer with the best median among those that splice, or among those that copy; "" if none was measured.
func (r *Results) best(splices bool, m Metric, setup, scenario string) (peer string) {
	best := math.NaN()
	for _, p := range Peers {
		row := r.row(setup, scenario, p.Name)
		if p.Ours || p.Splices != splices || row == nil || len(row.Runs) == 0 {
			continue
		}
		if v := Summarize(row.values(m)).Median; math.IsNaN(best) || (v > best) == m.Higher {
			best, peer = v, p.Name
		}
	}
	return peer
}

// closest is the duels of a setup if all of the peers have figures in it, and the setup itself otherwise.
func (r *Results) closest(setup, scenario string, peers ...string) string {
	for _, p := range peers {
		if row := r.row(duels(setup), scenario, p); row == nil || len(row.Runs) == 0 {
			return setup
		}
	}
	return duels(setup)
}

// alone holds a metric of a column against a limit.
func (r *Results) alone(column string, limit float64, m Metric, setup string, scenarios ...Scenario) []comparison {
	var list []comparison
	for _, sc := range scenarios {
		c := comparison{label: sc.short(), limit: limit, least: m.Higher}
		if row := r.row(setup, sc.Name, column); row != nil {
			c.value = Summarize(row.values(m))
		}
		list = append(list, c)
	}
	return list
}

// short names a scenario in a mark.
func (s Scenario) short() string {
	if s.Kind == Churn {
		return "at " + fmt.Sprint(s.Conns)
	}
	return fmt.Sprint(s.Conns)
}

func (row *Row) values(m Metric) []float64 {
	var v []float64
	for _, run := range row.Runs {
		v = append(v, m.Of(run.Sample))
	}
	return v
}

// ratio summarizes a/b over the rounds in which both were measured, of the duels if they had one.
func (r *Results) ratio(setup, scenario string, m Metric, a, b string) Summary {
	setup = r.closest(setup, scenario, a, b)
	ra, rb := r.row(setup, scenario, a), r.row(setup, scenario, b)
	if ra == nil || rb == nil {
		return Summary{}
	}
	byRound := map[int]float64{}
	for _, run := range rb.Runs {
		byRound[run.Round] = m.Of(run.Sample)
	}
	var v []float64
	for _, run := range ra.Runs {
		if x, ok := byRound[run.Round]; ok && x > 0 {
			v = append(v, per(m.Of(run.Sample), x))
		}
	}
	return Summarize(v)
}

func (r *Results) restOf(peer string) *RestRow {
	for i := range r.Rest {
		if r.Rest[i].Peer == peer && r.Rest[i].Failed == "" {
			return &r.Rest[i]
		}
	}
	return nil
}

// one is the summary of a single value.
func one(v float64) Summary { return Summarize([]float64{v}) }

func idleMark(r *Results, column string) []comparison {
	x := r.restOf(column)
	if x == nil || x.Held == 0 {
		return nil
	}
	n := float64(x.Held)
	grew := func(after, before float64) float64 { return (after - before) / n }
	return []comparison{
		// Half a hundredth for pipes that stay in the pool.
		{label: fmt.Sprintf("%d connections: descriptors each", x.Held), value: one(grew(float64(x.Idle.Descriptors), float64(x.Before.Descriptors))), limit: 2.005},
		{label: "pipes each", value: one(grew(float64(x.Idle.Pipes), float64(x.Before.Pipes))), limit: .005},
		{label: "private bytes of the relay per descriptor", value: relayGrew(x, grew), limit: 32},
	}
}

// relayGrew is what the relay, the second process, has grown by per descriptor.
func relayGrew(x *RestRow, grew func(after, before float64) float64) Summary {
	if len(x.Idle.Each) != 2 || len(x.Before.Each) != 2 {
		return Summary{}
	}
	return one(grew(float64(x.Idle.Each[1].Memory.Private), float64(x.Before.Each[1].Memory.Private)) / 2)
}

// restMark takes the second process for the relay: the first is the monitor, which started it.
func restMark(r *Results, column string) []comparison {
	x := r.restOf(column)
	if x == nil {
		return nil
	}
	wake := comparison{label: fmt.Sprintf("wake-ups in %.0f s", x.Watched), limit: 0}
	if len(x.EachWake) == 2 {
		wake.label += fmt.Sprintf(" (monitor %d, relay %d)", x.EachWake[0], x.EachWake[1])
	}
	if x.Watched >= 60 || x.Wakeups > 0 {
		wake.value = one(float64(x.Wakeups))
	} else {
		wake.label = fmt.Sprintf("none in %.0f s; in 60 s", x.Watched)
	}
	list := []comparison{wake}
	relay := comparison{label: "relay private KiB", limit: 300}
	if len(x.Rest.Each) == 2 {
		relay.value = one(float64(x.Rest.Each[1].Memory.Private) / 1024)
	}
	return append(list, relay, comparison{label: "PSS MiB", value: one(float64(x.Rest.Sum.PSS) / (1 << 20)), limit: 4})
}

func growthMark(r *Results, column string) []comparison {
	var list []comparison
	for _, g := range growthSeries {
		var rows []GrowthRow
		most := 0.0
		for _, x := range r.Growth {
			if x.Peer == column && x.Series == g.name {
				rows = append(rows, x)
				most = max(most, x.At)
			}
		}
		label, _, _ := strings.Cut(g.name, ":")
		c := comparison{label: fmt.Sprintf("%s, to %.0f connections: off by", label, most), limit: .05}
		c.value = flatness(rows)
		list = append(list, c)
	}
	return list
}

// Judge holds the results against every mark. A mark of which a part was not measured is met by nothing: it is missed if
// the rest already misses it, and not measured otherwise.
func Judge(r *Results) []Verdict {
	var list []Verdict
	for _, m := range marks {
		v := Verdict{Mark: m.name, Bound: m.bound, Figures: map[string]string{}}
		if m.loop {
			v.Filter = words(m.of(r, Filtered))
		}
		for _, column := range []string{Bare, NoTrap, Full} {
			cs := m.of(r, column)
			if w := words(cs); w != "" {
				v.Figures[column] = w
			}
			if column == NoTrap {
				v.Result, v.Noise = judge(cs)
			}
		}
		list = append(list, v)
	}
	return list
}

// words is what the comparisons say; "" if nothing was measured.
func words(cs []comparison) string {
	var list []string
	measured := false
	for _, c := range cs {
		list = append(list, c.String())
		measured = measured || c.value.N > 0
	}
	if !measured {
		return ""
	}
	return strings.Join(list, "; ")
}

func judge(cs []comparison) (result string, noise bool) {
	result = met
	if len(cs) == 0 {
		return notMeasured, false
	}
	for _, c := range cs {
		switch {
		case c.value.N == 0:
			if result == met {
				result = notMeasured
			}
			continue
		case !c.met():
			result = missed
		}
		noise = noise || c.close()
	}
	return result, noise
}

func (r *Results) aboutMarks() section {
	var lines []string
	t := &sheet{head: []string{"mark", "bound", "result", NoTrap, Bare, Full, "any filter"}}
	for _, v := range r.Marks {
		result := v.Result
		if v.Noise {
			result += ", but rounds disagree"
		}
		t.add(v.Mark, v.Bound, result, v.Figures[NoTrap], v.Figures[Bare], v.Figures[Full], v.Filter)
		lines = append(lines, fmt.Sprintf("%-12s  %s: %s", result, v.Mark, v.Bound))
		for _, column := range []string{NoTrap, Bare, Full} {
			if f := v.Figures[column]; f != "" {
				lines = append(lines, fmt.Sprintf("%12s  %-12s  %s", "", column, f))
			}
		}
		if v.Filter != "" {
			lines = append(lines, fmt.Sprintf("%12s  %-12s  %s", "", "any filter", v.Filter))
		}
	}
	return section{lines: lines, title: "Marks", words: []string{
		"They hold for " + NoTrap + " (confined, without the counter trap). Ratios are taken round by round: median (its 95 % confidence interval, from six rounds on) [min max]; (!) marks the part that misses. Rounds disagree where the bound lies inside the interval.",
		"Any filter: the C loop under a filter that allows everything against the C loop without, with the bound of the same mark. What a filter costs per call, no choice of calls wins back.",
	}, table: t}
}
