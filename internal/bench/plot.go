package bench

import (
	"fmt"
	"io"
	"math"

	svg "github.com/ajstarks/svgo"
)

// panel is one bar chart of the plot.
type panel struct {
	title    string
	setup    string
	scenario Scenario
	metric   Metric
}

// panels are the figures that the plot shows; each has one bar per forwarder.
var panels = []panel{
	{"CPU per GiB, 8 streams (s)", "one core", bulk8, cpuPerGiB},
	{"Throughput, 8 streams (GiB/s)", "one core", bulk8, throughput},
	{"CPU per 64 B round trip, 32 connections (µs)", "one core", pp32, cpuPerOp},
	{"p99 of it (µs)", "one core", pp32, p99},
	{"CPU per connection opened, used and closed (µs)", "one core", churn8, cpuPerOp},
	{"Throughput, 8 streams, all cores (GiB/s)", "all cores", bulk8, throughput},
}

// Sizes of the plot in pixels.
const (
	panelWidth = 520
	barHeight  = 16
	labelWidth = 120
	valueWidth = 70
	headHeight = 44
	gap        = 24
	columns    = 2
)

// bar is one bar: a median with its smallest and largest value.
type bar struct {
	label string
	value Summary
	ours  bool
}

// WritePlot draws the plot as SVG. A bar that would be more than four times as long as the median bar is cut, and says so
// by its number alone.
func (r *Results) WritePlot(w io.Writer) {
	figures := r.Figures()
	charts := make([][]bar, len(panels))
	most := 0
	for i, p := range panels {
		for _, f := range figures {
			if f.Setup == p.setup && f.Scenario == p.scenario.Name && f.Metric == p.metric.Name && f.Unit == p.metric.Unit && f.Value.N > 0 {
				charts[i] = append(charts[i], bar{f.Peer, f.Value, f.Peer == Bare || f.Peer == NoTrap || f.Peer == Full})
			}
		}
		most = max(most, len(charts[i]))
	}
	panelHeight := headHeight + most*barHeight
	rows := (len(panels) + columns - 1) / columns
	c := svg.New(w)
	width, height := columns*(panelWidth+gap)+gap, rows*(panelHeight+gap)+2*gap+30
	c.Startview(width, height, 0, 0, width, height)
	c.Rect(0, 0, width, height, "fill:white")
	c.Gstyle("font-family:sans-serif;font-size:11px;fill:#222")
	c.Text(gap, gap, fmt.Sprintf("%s, %d cores, Linux %s; %s mode, %d rounds: medians, lines from min to max",
		r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel, r.Mode, r.Rounds), "font-size:13px")
	for i, bars := range charts {
		x := gap + i%columns*(panelWidth+gap)
		y := 2*gap + 10 + i/columns*(panelHeight+gap)
		drawPanel(c, x, y, panels[i].title, panels[i].metric, bars)
	}
	c.Gend()
	c.End()
}

func drawPanel(c *svg.SVG, x, y int, title string, m Metric, bars []bar) {
	better := "lower is better"
	if m.Higher {
		better = "higher is better"
	}
	c.Text(x, y+12, title, "font-weight:bold")
	c.Text(x, y+27, better, "fill:#666")
	if len(bars) == 0 {
		c.Text(x, y+headHeight, "not measured")
		return
	}
	scale := float64(panelWidth-labelWidth-valueWidth) / axis(bars)
	length := func(v float64) int { return min(int(math.Round(v*scale)), panelWidth-labelWidth-valueWidth) }
	for i, b := range bars {
		top := y + headHeight + i*barHeight
		fill := "fill:#9ab"
		if b.ours {
			fill = "fill:#c63"
		}
		c.Text(x+labelWidth-6, top+barHeight-5, b.label, "text-anchor:end")
		c.Rect(x+labelWidth, top+2, max(length(b.value.Median), 1), barHeight-4, fill)
		from, to := length(b.value.Min), length(b.value.Max)
		c.Line(x+labelWidth+from, top+barHeight/2, x+labelWidth+to, top+barHeight/2, "stroke:#222;stroke-width:1")
		c.Text(x+labelWidth+max(length(b.value.Median), to)+5, top+barHeight-5, number(b.value.Median))
	}
}

// axis is the value at the right border.
func axis(bars []bar) float64 {
	var medians []float64
	longest := 0.0
	for _, b := range bars {
		medians = append(medians, b.value.Median)
		longest = max(longest, b.value.Max)
	}
	return max(min(longest, 4*Summarize(medians).Median), math.SmallestNonzeroFloat64)
}
