package bench

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The smoke test starts this test binary in the bench's roles.
func TestMain(m *testing.M) {
	Dispatch()
	os.Exit(m.Run())
}

func TestSummarize(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want Summary
	}{
		{nil, Summary{}},
		{[]float64{math.NaN()}, Summary{}},
		{[]float64{3}, Summary{1, 3, 3, 3, 3, 3}},
		{[]float64{3, 1, 2}, Summary{3, 1, 2, 3, 1, 3}},
		{[]float64{4, 1, 3, 2}, Summary{4, 1, 2.5, 4, 1, 4}},
		{[]float64{9, 8, 7, 6, 5, 4, 3, 2, 1}, Summary{9, 1, 5, 9, 2, 8}},
		{[]float64{2, math.NaN(), 1}, Summary{2, 1, 1.5, 2, 1, 2}},
	} {
		in := slices.Clone(c.in)
		if got := Summarize(c.in); got != c.want {
			t.Errorf("Summarize(%v) = %+v, want %+v", in, got, c.want)
		}
		if len(c.in) == 3 && c.in[0] != 3 && !math.IsNaN(c.in[1]) {
			t.Errorf("Summarize changed its argument to %v", c.in)
		}
	}
}

func TestSpread(t *testing.T) {
	if got := Summarize([]float64{8, 10, 13}).Spread(); got != .5 {
		t.Errorf("spread = %v, want .5", got)
	}
	if got := (Summary{}).Spread(); got != 0 {
		t.Errorf("spread of nothing = %v, want 0", got)
	}
}

func TestMetrics(t *testing.T) {
	for bytes, want := range map[int64]float64{16 * fairBytes: .9, 15 * fairBytes: math.NaN()} {
		if got := fairness.Of(Sample{Done: 16, Bytes: bytes, Slowest: 9, Fastest: 10}); got != want && !(math.IsNaN(got) && math.IsNaN(want)) {
			t.Errorf("fairness of %d bytes in 16 streams = %v, want %v", bytes, got, want)
		}
	}
	s := Sample{Done: 1000, Bytes: 2 << 30, Elapsed: 2 * time.Second, CPU: time.Second, P50: 1500, Slowest: 9, Fastest: 10}
	for _, c := range []struct {
		m    Metric
		want float64
	}{{throughput, 1}, {cpuPerGiB, .5}, {rate, 500}, {cpuPerOp, 1000}, {p50, 1.5}} {
		if got := c.m.Of(s); got != c.want {
			t.Errorf("%s %s = %v, want %v", c.m.Name, c.m.Unit, got, c.want)
		}
	}
	// No meter, no figure: a direct run must not show 0 seconds.
	s.CPU = -1
	for _, m := range []Metric{cpuPerGiB, cpuPerOp} {
		if got := m.Of(s); !math.IsNaN(got) {
			t.Errorf("%s %s without a meter = %v, want NaN", m.Name, m.Unit, got)
		}
	}
}

func TestUsageUsec(t *testing.T) {
	got, err := usageUsec([]byte("usage_usec 1234567\nuser_usec 1\nsystem_usec 2\n"))
	if err != nil || got != 1234567*time.Microsecond {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := usageUsec([]byte("user_usec 1\n")); err == nil {
		t.Error("no error without a total")
	}
}

// TestMeter burns processor time and finds it again, by both kinds of meter that this machine allows.
func TestMeter(t *testing.T) {
	g := newGroup("syd-bench-test")
	defer g.remove()
	meters := []Meter{{Kind: "tree", PID: os.Getpid()}}
	if g.dir != "" {
		if v, err := g.Meter().Read(); err != nil || v != 0 {
			t.Errorf("%+v of an empty group: %v, %v", g.Meter(), v, err)
		}
	} else {
		t.Log("no control group can be made here: only the process tree is tested")
	}
	for _, m := range meters {
		before, err := m.Read()
		if err != nil {
			t.Fatal(err)
		}
		for start := time.Now(); time.Since(start) < 50*time.Millisecond; {
		}
		after, err := m.Read()
		if err != nil {
			t.Fatal(err)
		}
		// A busy machine may have given it less than half of the time; threads of the runtime may have added to it.
		if d := after - before; d < 5*time.Millisecond || d > 500*time.Millisecond {
			t.Errorf("%+v: %v after burning up to 50ms", m, d)
		}
	}
	if v, err := (Meter{}).Read(); v != 0 || err != nil {
		t.Errorf("zero meter: %v, %v", v, err)
	}
	if _, err := (Meter{Kind: "sundial"}).Read(); err == nil {
		t.Error("unknown kind: no error")
	}
}

func TestLook(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	g := &Group{root: os.Getpid()}
	h, err := g.Look()
	if err != nil {
		t.Fatal(err)
	}
	if h.Processes < 1 || h.Threads < 1 || h.Descriptors < 2 || h.Pipes < 1 || h.Switches == 0 {
		t.Errorf("implausible: %+v", h)
	}
	if m := h.Each[0].Memory; m.RSS == 0 || m.PSS == 0 || m.PSS > m.RSS || m.Private+m.Shared != m.RSS {
		t.Errorf("implausible memory: %+v", m)
	}
}

// results makes a small, complete set: direct at 10 GiB/s, and a peer at half of it with a given processor time.
func results(cpu map[string][]time.Duration) *Results {
	r := &Results{Setups: []SetupInfo{{"one core", "test"}}, Rounds: 3}
	add := func(peer string, bytes int64, cpu []time.Duration) {
		row := &Row{Setup: "one core", Scenario: bulk8.Name, Kind: Bulk, Peer: peer}
		for n, c := range cpu {
			row.Runs = append(row.Runs, Run{Round: n, Near: []int{n, n + 1},
				Sample: Sample{Bytes: bytes, Elapsed: time.Second, CPU: c, Slowest: 1, Fastest: 1}})
		}
		r.Rows = append(r.Rows, row)
	}
	add(Direct, 10*gib, []time.Duration{-1, -1, -1, -1})
	for _, name := range slices.Sorted(mapKeys(cpu)) {
		add(name, 5*gib, cpu[name])
	}
	return r
}

func mapKeys(m map[string][]time.Duration) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

const second = time.Second

func TestFigures(t *testing.T) {
	r := results(map[string][]time.Duration{
		Splice1M: {5 * second, 5 * second, 5 * second},
		HAProxy:  {10 * second, 10 * second, 20 * second},
		NoTrap:   {1 * second, 4 * second, 3 * second},
	})
	find := func(peer string, m Metric) Figure {
		for _, f := range r.Figures() {
			if f.Peer == peer && f.Metric == m.Name && f.Unit == m.Unit {
				return f
			}
		}
		t.Fatalf("no figure %s of %s", m.Name, peer)
		return Figure{}
	}
	if f := find(HAProxy, throughput); f.ToDirect.Median != .5 || f.ToBest != 1 {
		t.Errorf("throughput: %+v", f)
	}
	if f := find(HAProxy, cpuPerGiB); f.Value != (Summary{3, 2, 2, 4, 2, 4}) || f.ToBest != 2 || f.ToDirect.N != 0 {
		t.Errorf("processor time: %+v", f)
	}
	// Ours is compared with the best of the others, and is not itself the best to compare others with.
	if f := find(NoTrap, cpuPerGiB); f.ToBest != .6 {
		t.Errorf("ours to the best: %+v", f)
	}
	if f := find(Direct, cpuPerGiB); f.Value.N != 0 {
		t.Errorf("direct has processor time: %+v", f)
	}
}

func TestNoise(t *testing.T) {
	r := results(nil)
	if n := r.Noise("one core", bulk8.Name); n != 0 {
		t.Errorf("noise of equal runs: %v", n)
	}
	r.Rows[0].Runs[2].Sample.Bytes = 5 * gib
	if n := r.Noise("one core", bulk8.Name); n != .5 {
		t.Errorf("noise: %v, want .5", n)
	}
	var out strings.Builder
	r.WriteText(&out)
	if !strings.Contains(out.String(), "Too noisy to tell") {
		t.Error("the report does not say that it was noisy")
	}
}

func TestJudge(t *testing.T) {
	cpuMark := marks[1] // at most half of haproxy
	if cpuMark.bound != "at most half of haproxy" {
		t.Fatal("the marks have moved")
	}
	only8 := func(r *Results) []comparison { return cpuMark.of(r, NoTrap)[1:2] }
	for _, c := range []struct {
		name   string
		ours   []time.Duration
		result string
		noise  bool
	}{
		{"below", []time.Duration{4 * second, 4 * second, 4 * second}, met, false},
		{"at it", []time.Duration{5 * second, 5 * second, 5 * second}, met, false},
		{"above", []time.Duration{6 * second, 6 * second, 6 * second}, missed, false},
		{"around", []time.Duration{4 * second, 4 * second, 6 * second}, met, true},
		{"nothing", nil, notMeasured, false},
	} {
		r := results(map[string][]time.Duration{HAProxy: {10 * second, 10 * second, 10 * second}, NoTrap: c.ours})
		if result, noise := judge(only8(r)); result != c.result || noise != c.noise {
			t.Errorf("%s: %s, noise %t", c.name, result, noise)
		}
	}
	// One part missing: not met.
	r := results(map[string][]time.Duration{HAProxy: {10 * second}, NoTrap: {1 * second}})
	if result, _ := judge(cpuMark.of(r, NoTrap)); result != notMeasured {
		t.Errorf("2 of 3 parts missing: %s", result)
	}
	for _, v := range Judge(&Results{}) {
		if v.Result != notMeasured {
			t.Errorf("%s: %s without any measurement", v.Mark, v.Result)
		}
	}
}

func TestAbsoluteMarks(t *testing.T) {
	r := &Results{}
	x := RestRow{Peer: NoTrap, Watched: 61, Held: 1000, Start: one(5)}
	x.Rest.Each = []Process{{"monitor", Memory{}, 0}, {"relay", Memory{Private: 200 << 10}, 0}}
	x.Before.Each = x.Rest.Each
	x.Idle.Descriptors, x.Idle.Each = 2000, []Process{{"monitor", Memory{}, 0}, {"relay", Memory{Private: 200<<10 + 60<<10}, 0}}
	r.Rest = []RestRow{x}
	for name, f := range map[string]func(*Results, string) []comparison{"idle": idleMark, "rest": restMark} {
		if result, _ := judge(f(r, NoTrap)); result != met {
			t.Errorf("%s: %s", name, result)
		}
	}
	r.Rest[0].Wakeups = 1
	if result, _ := judge(restMark(r, NoTrap)); result != missed {
		t.Errorf("one wake-up: %s", result)
	}
	// Too short a watch without a wake-up proves nothing; with one it does.
	r.Rest[0].Wakeups, r.Rest[0].Watched = 0, 3
	if result, _ := judge(restMark(r, NoTrap)); result != notMeasured {
		t.Errorf("3 s without a wake-up: %s", result)
	}
	r.Rest[0].Idle.Pipes = 1000
	if result, _ := judge(idleMark(r, NoTrap)); result != missed {
		t.Errorf("a pipe for each: %s", result)
	}
	r.Growth = []GrowthRow{}
	for _, g := range growthSeries {
		r.Growth = append(r.Growth, GrowthRow{Peer: NoTrap, Series: g.name, ToFirst: one(1)},
			GrowthRow{Peer: NoTrap, Series: g.name, At: 1000, ToFirst: one(1.04)})
	}
	if result, _ := judge(growthMark(r, NoTrap)); result != met {
		t.Errorf("4 %% off: %s", result)
	}
	r.Growth[1].ToFirst = one(.94)
	if result, _ := judge(growthMark(r, NoTrap)); result != missed {
		t.Errorf("6 %% off: %s", result)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", .0425: ".043", .9951: "1.00", 1.234: "1.23", 12.34: "12.3", 123.4: "123", 99.96: "100"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}

// TestPlot checks that the plot is well-formed XML with a bar for each peer, also with names and machines that need escaping.
func TestPlot(t *testing.T) {
	r := results(map[string][]time.Duration{"a<b&c": {second, second, second}, NoTrap: {second, 2 * second, 3 * second}})
	r.Machine.CPU = `"x" & <y>`
	var out bytes.Buffer
	r.WritePlot(&out)
	d := xml.NewDecoder(&out)
	var text strings.Builder
	elements := map[string]int{}
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			elements[tok.Name.Local]++
		case xml.CharData:
			text.Write(tok)
		}
	}
	for _, want := range []string{"a<b&c", NoTrap, r.Machine.CPU, "not measured"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the plot does not say %q", want)
		}
	}
	// The background; throughput has direct and two peers, processor time two peers.
	if elements["rect"] != 1+3+2 {
		t.Errorf("%d rectangles, want 6", elements["rect"])
	}
}

// TestScenarioNames: rows are found by setup and name, so both must be unique.
func TestScenarioNames(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Setups {
		for _, sc := range s.Scenarios {
			if key := s.Name + "\x00" + sc.Name; seen[key] {
				t.Errorf("%s: %s appears twice", s.Name, sc.Name)
			} else {
				seen[key] = true
			}
			if metricsOf[sc.Kind] == nil || actions[sc.Kind] == nil {
				t.Errorf("%s: kind %q cannot be measured", sc.Name, sc.Kind)
			}
		}
	}
	for _, p := range Peers {
		if seen[p.Name] {
			t.Errorf("peer %s appears twice", p.Name)
		}
		seen[p.Name] = true
	}
	for _, name := range []string{Splice64, Splice1M, Naive, HAProxy, Bare, NoTrap, Full} {
		if !seen[name] {
			t.Errorf("no peer is called %q", name)
		}
	}
}

func TestNear(t *testing.T) {
	direct := &Row{Kind: Bulk, Runs: []Run{{Sample: Sample{Bytes: gib, Elapsed: second}}, {Sample: Sample{Bytes: 3 * gib, Elapsed: second}}}}
	if got := nearby(direct, near(1), throughput); got != 2 {
		t.Errorf("between 1 and 3 GiB/s: %v", got)
	}
	if got := nearby(direct, near(2), throughput); got != 3 {
		t.Errorf("the last one failed: %v, want the one before", got)
	}
}

// TestSmoke runs the harness with direct connections and the naive reference in a few hundred milliseconds: everything is
// measured, figures are plausible, and nothing is left behind.
func TestSmoke(t *testing.T) {
	if os.Getenv("SYD_TEST_EMULATED") != "" {
		t.Skip("under user emulation, what runs is the emulator")
	}
	dir, err := os.MkdirTemp("", "syd-bench-test-") // t.TempDir is closed to the forwarder's user
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	defer Sweep(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	naive := Peers[slices.IndexFunc(Peers, func(p Peer) bool { return p.Name == Naive })]
	absent := Peer{Name: "absent", Program: "no-such-forwarder", Args: func(place) ([]string, error) { return nil, nil }}
	broken := naive
	broken.Name, broken.Args = "broken", func(place) ([]string, error) { return []string{"one operand"}, nil }
	small := func(s Scenario, conns int) Scenario {
		s.Conns = conns
		return s
	}
	c := Config{Dir: dir, Rounds: 2, Peers: []Peer{naive, absent, broken}, length: 25 * time.Millisecond, Budget: time.Minute, Log: t.Logf,
		Setups: []Setup{
			{Name: "one core", OneCore: true, Scenarios: []Scenario{small(bulk8, 2), small(pp32, 2), small(churn8, 2), {Name: "up", Kind: Upload, Conns: 2},
				{Name: "answer", Kind: Answer, Conns: 1, Size: 1 << 20}}},
			{Name: "unix", UNIX: true, Scenarios: []Scenario{small(bulk8, 2)}},
		}}
	r, err := Measure(c)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != 2*(5+1) {
		t.Errorf("%d rows, want 12", len(r.Rows))
	}
	for _, row := range r.Rows {
		want := 2
		if row.Peer == Direct {
			want = 4
		}
		if len(row.Runs) != want || len(row.Failures) > 0 {
			t.Errorf("%s, %s, %s: %d runs, want %d; failures %q", row.Setup, row.Scenario, row.Peer, len(row.Runs), want, row.Failures)
		}
		for _, run := range row.Runs {
			s := run.Sample
			if s.Done <= 0 || s.Bytes <= 0 || s.Elapsed <= 0 {
				t.Errorf("%s, %s: nothing done: %+v", row.Scenario, row.Peer, s)
			}
			if (row.Peer == Direct) != (s.CPU < 0) {
				t.Errorf("%s, %s: processor time %v", row.Scenario, row.Peer, s.CPU)
			}
			if row.Kind == PingPong && (s.P50 <= 0 || s.P50 > s.P99 || s.P99 > s.P999) {
				t.Errorf("%s, %s: latencies out of order: %+v", row.Scenario, row.Peer, s)
			}
		}
	}
	for _, name := range []string{"absent", "broken"} {
		if !slices.ContainsFunc(r.Absent, func(a Absence) bool { return a.Peer == name && a.Why != "" }) {
			t.Errorf("%s is not reported: %+v", name, r.Absent)
		}
	}
	var text, md, js bytes.Buffer
	r.WriteText(&text)
	r.WriteMarkdown(&md, "bench.svg")
	if err := r.WriteJSON(&js); err != nil {
		t.Fatal(err)
	}
	var back Results
	if err := json.Unmarshal(js.Bytes(), &back); err != nil || len(back.Rows) != len(r.Rows) {
		t.Errorf("JSON does not come back: %v", err)
	}
	for _, out := range []string{text.String(), md.String()} {
		if !strings.Contains(out, Naive) || !strings.Contains(out, "no-such-forwarder") {
			t.Error("a report leaves a peer out")
		}
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(dir) + "-*"); len(left) > 0 {
		t.Errorf("control groups left: %v", left)
	}
}

// TestEnds: both ends of the traffic end with whoever started them.
func TestEnds(t *testing.T) {
	backend, err := startBackend(nil, nil, filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := startEnd(roleLoad, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]*end{"backend": backend, "load": l} {
		e.in.Close()
		done := make(chan error, 1)
		go func() { done <- e.cmd.Wait() }()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s outlives its starter", name)
			_ = e.cmd.Process.Kill()
		}
	}
}

// TestHold: connections are held and released, and a forwarder that refuses ends it with a reason.
func TestHold(t *testing.T) {
	dir := t.TempDir()
	e, err := startBackend(nil, nil, filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer e.stop()
	l, err := startEnd(roleLoad, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.stop()
	s, err := l.do(Op{Kind: Hold, Addr: filepath.Join(dir, "s"), Conns: 50, Window: 5 * time.Second})
	if err != nil || s.Done != 50 || s.Err != "" {
		t.Errorf("hold: %+v, %v", s, err)
	}
	if s, err = l.do(Op{Kind: Release}); err != nil || s.Done != 50 {
		t.Errorf("release: %+v, %v", s, err)
	}
	if s, err = l.do(Op{Kind: Hold, Addr: filepath.Join(dir, "none"), Conns: 1, Window: time.Second}); err != nil || s.Done != 0 || s.Err == "" {
		t.Errorf("hold on nothing: %+v, %v", s, err)
	}
	if s, err = l.do(Op{Kind: "fly"}); err != nil || s.Err == "" {
		t.Errorf("unknown kind: %+v, %v", s, err)
	}
}
