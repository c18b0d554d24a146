package bench

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// GrowthRow is one cost of one peer under one condition, and how it compares with the first condition of its series.
type GrowthRow struct {
	Peer     string
	Series   string // what is measured
	Unit     string
	At       float64 // idle connections beside it, or bytes of an answer
	Cost     Summary
	ToFirst  Summary // ratio to the first condition, measured in the same turn
	Failures []string
}

// grown are the peers whose growth is measured: the reference, and the column for which the marks hold.
var grown = []string{Splice1M, NoTrap}

// Series of growth with the number of connections that are open and idle beside the ones measured.
var growthSeries = []struct {
	name   string
	sc     Scenario
	metric Metric
}{
	{"per byte: bulk, 8 streams", bulk8, cpuPerGiB},
	{"per request: 64 B ping-pong, 32 connections", pp32, cpuPerOp},
	{"per connection: connect-echo-close", churn8, cpuPerOp},
}

const answerSeries = "per answer, 1 connection"

// growthPlan returns the numbers of idle connections and the sizes of answers.
func (b *bench) growthPlan() (held []int, sizes []int) {
	if b.Full {
		most, _ := b.fitting(10000)
		return []int{0, 1, 10, 100, 1000, most - 100}, []int{64, 1 << 10, 16 << 10, 256 << 10, 4 << 20, 64 << 20}
	}
	return []int{0, 2000}, []int{64, 4 << 10, 256 << 10, 64 << 20}
}

// growthWindow is the length of a measurement.
func (b *bench) growthWindow() time.Duration {
	if b.Full {
		return max(b.res.Window, 100*time.Millisecond)
	}
	return b.res.Window
}

// growthRounds is how often each condition is measured: a few per cent are looked for.
func (b *bench) growthRounds() int {
	if b.Full {
		return 6 * b.Rounds
	}
	return b.Rounds
}

func growthTime(c Config) time.Duration {
	if !c.Growth {
		return 0
	}
	if c.Full {
		return 4 * time.Minute
	}
	return 18 * time.Second
}

func (b *bench) growth() error {
	s := Setup{Name: "growth", What: "loopback, TCP upstream, one core", OneCore: true}
	d, err := b.erect(s)
	if err != nil {
		return err
	}
	defer d.close()
	held, sizes := b.growthPlan()
	for k := range b.Peers {
		p := &b.Peers[k]
		if !slices.Contains(grown, p.Name) {
			continue
		}
		b.Log("growth: %s", p.Name)
		if err := b.growWith(d, p, held); err != nil {
			return err
		}
		if err := b.growSize(d, p, sizes); err != nil {
			return err
		}
	}
	return nil
}

// point collects the rounds of one condition.
type point struct {
	cost, ratio []float64
	failures    []string
}

// growWith measures each series on two instances of a forwarder in turn, of which one holds more and more idle
// connections: what is compared follows each other closely.
func (b *bench) growWith(d *stand, p *Peer, held []int) error {
	var both [2]*instance
	for n := range both {
		i, err := d.starter.start(p)
		if err != nil {
			b.res.Absent = append(b.res.Absent, Absence{"growth", p.Name, oneLine(err)})
			return nil
		}
		defer i.stop()
		both[n] = i
	}
	points := make([][]point, len(growthSeries))
	for n := range points {
		points[n] = make([]point, len(held))
	}
	for h, idle := range held {
		if idle > 0 {
			s, err := d.load.do(Op{Kind: Hold, Addr: both[1].addr, Conns: idle, Window: 20 * time.Second})
			if err != nil {
				return err
			}
			if s.Err != "" {
				points[0][h].failures = append(points[0][h].failures, fmt.Sprintf("%d of %d held: %s", s.Done, idle, s.Err))
			}
		}
		for range b.growthRounds() {
			if time.Now().After(b.deadline.Add(growthTime(b.Config))) {
				b.res.Notes = append(b.res.Notes, "growth: time was up")
				break
			}
			for n, g := range growthSeries {
				op := Op{Kind: g.sc.Kind, Conns: g.sc.Conns, Size: g.sc.Size}
				var first point
				if err := b.grow(d, both[0], op, g.metric, &first); err != nil {
					return err
				}
				if err := b.grow(d, both[1], op, g.metric, &points[n][h]); err != nil {
					return err
				}
				points[n][h].compare(first)
			}
		}
		if _, err := d.load.do(Op{Kind: Release}); err != nil {
			return err
		}
	}
	for n, g := range growthSeries {
		b.addGrowth(p.Name, g.name, g.metric.Unit, points[n], held)
	}
	return nil
}

// growSize measures what an answer costs as it grows.
func (b *bench) growSize(d *stand, p *Peer, sizes []int) error {
	i, err := d.starter.start(p)
	if err != nil {
		return nil // which growWith has told
	}
	defer i.stop()
	points := make([]point, len(sizes))
	for range b.Rounds {
		for n, size := range sizes {
			if err := b.grow(d, i, Op{Kind: Answer, Conns: 1, Size: size}, cpuPerOp, &points[n]); err != nil {
				return err
			}
			points[n].compare(points[0])
		}
	}
	b.addGrowth(p.Name, answerSeries, cpuPerOp.Unit, points, sizes)
	return nil
}

// grow takes one measurement into p.
func (b *bench) grow(d *stand, i *instance, op Op, m Metric, p *point) error {
	op.Addr, op.Meter, op.Warm, op.Window = i.addr, i.group.Meter(), b.res.Warm, b.growthWindow()
	s, err := d.load.do(op)
	if err != nil {
		return err
	}
	if s.Err != "" {
		p.failures = append(p.failures, s.Err)
		return nil
	}
	p.cost = append(p.cost, m.Of(s))
	return nil
}

// compare sets the last cost against the last of another point.
func (p *point) compare(with point) {
	if n, m := len(p.cost), len(with.cost); n > 0 && m > 0 {
		p.ratio = append(p.ratio, per(p.cost[n-1], with.cost[m-1]))
	}
}

func (b *bench) addGrowth(peer, series, unit string, points []point, at []int) {
	for n, p := range points {
		b.res.Growth = append(b.res.Growth, GrowthRow{Peer: peer, Series: series, Unit: unit, At: float64(at[n]),
			Cost: Summarize(p.cost), ToFirst: Summarize(p.ratio), Failures: p.failures})
	}
}

// flatness is the largest distance of a median ratio from 1, with its confidence interval. The first condition counts for
// nothing: there the two instances are alike, and differ by noise.
func flatness(rows []GrowthRow) (worst Summary) {
	for _, r := range rows {
		x := r.ToFirst
		if d := math.Abs(x.Median - 1); x.N > 0 && r.At > 0 && (worst.N == 0 || d > worst.Median) {
			worst = Summary{N: x.N, Median: d}
			worst.Low, worst.High = distances(x.Low, x.High)
			worst.Min, worst.Max = distances(x.Min, x.Max)
		}
	}
	return worst
}

// distances returns the smallest and the largest distance from 1 in an interval.
func distances(low, high float64) (least, most float64) {
	a, b := math.Abs(low-1), math.Abs(high-1)
	if low <= 1 && high >= 1 {
		return 0, max(a, b)
	}
	return min(a, b), max(a, b)
}
