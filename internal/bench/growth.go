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
	ToFirst  Summary // ratio to the first condition, round by round
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

// growthWindow is the length of a measurement: a few per cent are looked for.
func (b *bench) growthWindow() time.Duration {
	if b.Full {
		return max(b.res.Window, 300*time.Millisecond)
	}
	return b.res.Window
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
		i, err := d.starter.start(p)
		if err != nil {
			b.res.Absent = append(b.res.Absent, Absence{s.Name, p.Name, oneLine(err)})
			continue
		}
		if err := b.growWith(d, i, held); err != nil {
			return err
		}
		if err := b.growSize(d, i, sizes); err != nil {
			return err
		}
		if err := i.stop(); err != nil {
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

// growWith measures each series beside more and more idle connections, all conditions in each round.
func (b *bench) growWith(d *stand, i *instance, held []int) error {
	points := make([][]point, len(growthSeries))
	for n := range points {
		points[n] = make([]point, len(held))
	}
	for range b.Rounds {
		for h, idle := range held {
			if time.Now().After(b.deadline.Add(growthTime(b.Config))) {
				b.res.Notes = append(b.res.Notes, "growth: time was up")
				break
			}
			if idle > 0 {
				s, err := d.load.do(Op{Kind: Hold, Addr: i.addr, Conns: idle, Window: 20 * time.Second})
				if err != nil {
					return err
				}
				if s.Err != "" {
					points[0][h].failures = append(points[0][h].failures, fmt.Sprintf("%d of %d held: %s", s.Done, idle, s.Err))
				}
			}
			for n, g := range growthSeries {
				if err := b.grow(d, i, Op{Kind: g.sc.Kind, Conns: g.sc.Conns, Size: g.sc.Size}, g.metric, points[n], h); err != nil {
					return err
				}
			}
			if _, err := d.load.do(Op{Kind: Release}); err != nil {
				return err
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	for n, g := range growthSeries {
		b.addGrowth(i.peer.Name, g.name, g.metric.Unit, points[n], held)
	}
	return nil
}

// growSize measures what an answer costs as it grows.
func (b *bench) growSize(d *stand, i *instance, sizes []int) error {
	points := make([]point, len(sizes))
	for range b.Rounds {
		for n, size := range sizes {
			if err := b.grow(d, i, Op{Kind: Answer, Conns: 1, Size: size}, cpuPerOp, points, n); err != nil {
				return err
			}
		}
	}
	b.addGrowth(i.peer.Name, answerSeries, cpuPerOp.Unit, points, sizes)
	return nil
}

// grow takes one measurement into points[at].
func (b *bench) grow(d *stand, i *instance, op Op, m Metric, points []point, at int) error {
	op.Addr, op.Meter, op.Warm, op.Window = i.addr, i.group.Meter(), b.res.Warm, b.growthWindow()
	s, err := d.load.do(op)
	if err != nil {
		return err
	}
	p := &points[at]
	if s.Err != "" {
		p.failures = append(p.failures, s.Err)
		return nil
	}
	v := m.Of(s)
	p.cost = append(p.cost, v)
	if first := points[0].cost; len(first) > 0 {
		p.ratio = append(p.ratio, per(v, first[len(first)-1]))
	}
	return nil
}

func (b *bench) addGrowth(peer, series, unit string, points []point, at []int) {
	for n, p := range points {
		b.res.Growth = append(b.res.Growth, GrowthRow{Peer: peer, Series: series, Unit: unit, At: float64(at[n]),
			Cost: Summarize(p.cost), ToFirst: Summarize(p.ratio), Failures: p.failures})
	}
}

// flatness is the largest distance of a median ratio from 1; NaN if nothing was measured.
func flatness(rows []GrowthRow) float64 {
	worst := math.NaN()
	for _, r := range rows {
		if r.ToFirst.N == 0 {
			continue
		}
		if d := math.Abs(r.ToFirst.Median - 1); math.IsNaN(worst) || d > worst {
			worst = d
		}
	}
	return worst
}
