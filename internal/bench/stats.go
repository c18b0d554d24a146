package bench

import (
	"math"
	"slices"
	"time"
)

// Summary is what is shown of a list of values.
type Summary struct {
	N      int
	Min    float64
	Median float64
	Max    float64
	// Low and High bound the median with a confidence of 95 % or more; with fewer than six values nothing does, and
	// they are Min and Max.
	Low, High float64
}

// Summarize returns the summary of v; of an even number of values, the median is the mean of the middle two. NaN values
// are left out, and a summary with N = 0 says that nothing was measured.
func Summarize(v []float64) Summary {
	s := slices.DeleteFunc(slices.Clone(v), math.IsNaN)
	if len(s) == 0 {
		return Summary{}
	}
	slices.Sort(s)
	m := len(s) / 2
	median := s[m]
	if len(s)%2 == 0 {
		median = (s[m-1] + s[m]) / 2
	}
	k := outside(len(s))
	return Summary{N: len(s), Min: s[0], Median: median, Max: s[len(s)-1], Low: s[k], High: s[len(s)-1-k]}
}

// outside is how many of n sorted values may be left out at each end so that the rest still spans the median of what
// they were drawn from with a confidence of 95 %: the k-th smallest lies above it when fewer than k of n tosses of a coin
// show heads.
func outside(n int) int {
	tail, term := 0.0, math.Pow(.5, float64(n)) // P(no heads)
	for k := range n {
		if tail += term; tail > .025 {
			return max(k-1, 0)
		}
		term *= float64(n-k) / float64(k+1)
	}
	return 0
}

// Spread is the distance from the smallest to the largest value as a part of the median.
func (s Summary) Spread() float64 {
	if s.N == 0 || s.Median == 0 {
		return 0
	}
	return (s.Max - s.Min) / s.Median
}

// Metric is one figure that is made of a sample.
type Metric struct {
	Name   string
	Unit   string
	Higher bool // better when higher
	Of     func(Sample) float64
}

const gib = 1 << 30

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// per is a/b; NaN where nothing was measured.
func per(a, b float64) float64 {
	if b == 0 || a < 0 {
		return math.NaN()
	}
	return a / b
}

// The metrics. A negative CPU means that it is not known, which per turns into NaN.
var (
	throughput = Metric{"throughput", "GiB/s", true, func(s Sample) float64 { return per(float64(s.Bytes)/gib, s.Elapsed.Seconds()) }}
	cpuPerGiB  = Metric{"cpu", "s/GiB", false, func(s Sample) float64 { return per(s.CPU.Seconds(), float64(s.Bytes)/gib) }}
	fairness   = Metric{"fairness", "slowest/fastest", true, evenness}
	rate       = Metric{"rate", "1/s", true, func(s Sample) float64 { return per(float64(s.Done), s.Elapsed.Seconds()) }}
	cpuPerOp   = Metric{"cpu", "µs", false, func(s Sample) float64 { return per(micros(s.CPU), float64(s.Done)) }}
	p50        = Metric{"p50", "µs", false, func(s Sample) float64 { return micros(s.P50) }}
	p99        = Metric{"p99", "µs", false, func(s Sample) float64 { return micros(s.P99) }}
	p999       = Metric{"p99.9", "µs", false, func(s Sample) float64 { return micros(s.P999) }}
)

// fairBytes is what a stream must have carried on average before a difference between streams means more than whose turn
// it was at the end: 32 turns of 1 MiB.
const fairBytes = 32 << 20

func evenness(s Sample) float64 {
	if s.Done < 2 || s.Bytes/s.Done < fairBytes {
		return math.NaN()
	}
	return per(float64(s.Slowest), float64(s.Fastest))
}

// metricsOf maps a kind of measurement to its figures; the first is the one whose spread without a forwarder tells noise.
var metricsOf = map[Kind][]Metric{
	Bulk:     {throughput, cpuPerGiB, fairness},
	Upload:   {throughput, cpuPerGiB, fairness},
	PingPong: {rate, cpuPerOp, p50, p99, p999},
	Churn:    {rate, cpuPerOp, p50, p99},
	Answer:   {rate, cpuPerOp, throughput, cpuPerGiB},
}
