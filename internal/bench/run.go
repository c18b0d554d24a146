package bench

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Scenario is one thing that is measured of every peer.
type Scenario struct {
	Name  string
	Kind  Kind
	Conns int
	Size  int
	Full  bool // not in the quick mode
	// Stretch multiplies the length of the measurement, in the quick and in the full mode; 0 stands for 1. Forwarders
	// serve streams in turns of a megabyte and more: to tell how evenly, each stream must have had many.
	Stretch [2]int
}

// Setup is one place and way in which peers run.
type Setup struct {
	Name      string
	What      string
	OneCore   bool // clients, forwarder and upstream share one processor: total work is what is compared
	UNIX      bool // the upstream is a UNIX socket
	Veth      bool // forwarders stand in another network namespace
	Singly    bool // and segments are not merged on the way
	Full      bool
	Peers     []string // only these; none: all
	Rounds    int      // times those of the mode; 0 stands for 1
	Scenarios []Scenario
}

// rounds is how many rounds a setup has where the mode has n.
func (s Setup) rounds(n int) int { return n * max(s.Rounds, 1) }

// takes reports whether a peer takes part in a setup.
func (s Setup) takes(peer string) bool { return len(s.Peers) == 0 || slices.Contains(s.Peers, peer) }

var (
	bulk1  = Scenario{Name: "bulk, 1 stream", Kind: Bulk, Conns: 1}
	bulk8  = Scenario{Name: "bulk, 8 streams", Kind: Bulk, Conns: 8, Stretch: [2]int{3, 2}}
	bulk64 = Scenario{Name: "bulk, 64 streams", Kind: Bulk, Conns: 64, Stretch: [2]int{1, 8}}
	// The same for as long as fairness takes, see fairBytes.
	even8  = Scenario{Name: bulk8.Name, Kind: Bulk, Conns: 8, Stretch: [2]int{3, 6}}
	even64 = Scenario{Name: bulk64.Name, Kind: Bulk, Conns: 64, Stretch: [2]int{1, 24}}
	upload = Scenario{Name: "upload, 8 streams", Kind: Upload, Conns: 8, Full: true}
	pp1    = Scenario{Name: "64 B ping-pong, 1 connection", Kind: PingPong, Conns: 1, Size: 64}
	pp32   = Scenario{Name: "64 B ping-pong, 32 connections", Kind: PingPong, Conns: 32, Size: 64}
	pp256  = Scenario{Name: "64 B ping-pong, 256 connections", Kind: PingPong, Conns: 256, Size: 64}
	big1   = Scenario{Name: "4 KiB ping-pong, 1 connection", Kind: PingPong, Conns: 1, Size: 4096, Full: true}
	big32  = Scenario{Name: "4 KiB ping-pong, 32 connections", Kind: PingPong, Conns: 32, Size: 4096}
	big256 = Scenario{Name: "4 KiB ping-pong, 256 connections", Kind: PingPong, Conns: 256, Size: 4096, Full: true}
	churn8 = Scenario{Name: "connect-echo-close, 8 at a time", Kind: Churn, Conns: 8, Size: 64}
)

func (s Scenario) stretch(full bool) int {
	if full {
		return max(s.Stretch[1], 1)
	}
	return max(s.Stretch[0], 1)
}

func fullOnly(s Scenario) Scenario {
	s.Full = true
	return s
}

// longer makes a scenario's measurement n times as long as others.
func longer(s Scenario, n int) Scenario {
	s.Stretch = [2]int{n, n}
	return s
}

// rivals are the forwarders that the marks name, and all that splice.
var rivals = []string{Splice64, Splice1M, Filtered, HAProxy, HAProxySplice, SocketProxyd, Bare, NoTrap, Full}

// duels is the name of the setup in which what the marks compare in the setup of this name is measured again: fewer
// forwarders and shorter measurements, so that rivals follow each other closely, in many more rounds.
func duels(setup string) string { return setup + ", duels" }

// duelRounds is how many rounds the duels have for one of the mode's.
const duelRounds = 9

// Setups in the order in which they run.
var Setups = []Setup{
	{Name: duels("one core"), What: "loopback, TCP upstream, all on one core: what the marks compare, in many rounds", OneCore: true, Full: true,
		Peers: rivals, Rounds: duelRounds, Scenarios: []Scenario{longer(bulk1, 2), longer(bulk8, 3), longer(bulk64, 6), longer(pp1, 2), longer(pp32, 2), longer(churn8, 2)}},
	{Name: duels("all cores"), What: "the same, placed by the scheduler", Full: true,
		Peers: rivals, Rounds: duelRounds, Scenarios: []Scenario{longer(bulk1, 2), longer(bulk8, 3), longer(bulk64, 6)}},
	{Name: "one core", What: "loopback, TCP upstream; clients, forwarder and upstream share one core", OneCore: true,
		Scenarios: []Scenario{bulk1, even8, even64, upload, pp1, pp32, pp256, big1, big32, big256, churn8}},
	{Name: "all cores", What: "loopback, TCP upstream; the scheduler places everything", Scenarios: []Scenario{bulk1, bulk8, bulk64,
		fullOnly(pp1), fullOnly(pp32), fullOnly(churn8)}},
	{Name: "unix", What: "loopback to a UNIX upstream; one core", OneCore: true, UNIX: true,
		Scenarios: []Scenario{fullOnly(bulk1), bulk8, pp32, fullOnly(churn8)}},
	{Name: "veth", What: "over a veth pair (MTU 1500) between two network namespaces, twice (direct: once); one core", OneCore: true, Veth: true,
		Scenarios: []Scenario{fullOnly(bulk1), bulk8, pp32, fullOnly(churn8)}},
	{Name: "veth singly", What: "the same, segments never merged", OneCore: true, Veth: true, Singly: true, Full: true,
		Scenarios: []Scenario{bulk1, bulk8, pp32}},
}

// Config says what to run.
type Config struct {
	Dir    string // scratch, world-readable
	SydTor string // path of syd-tor; "": its columns are absent
	Full   bool
	Rounds int
	Budget time.Duration // for everything; the length of a measurement follows from it
	Peers  []Peer
	Setups []Setup
	Rest   bool // measure fixed cost, memory and idle wake-ups
	Growth bool
	Log    func(format string, args ...any) // progress
	Inside bool                             // in namespaces of its own
	length time.Duration                    // of a measurement; 0: what the budget allows
}

// Run is one measurement of one peer.
type Run struct {
	Round  int
	Sample Sample
	Near   []int // indexes of the direct runs before and after it
}

// Row is all measurements of one peer in one scenario.
type Row struct {
	Setup    string
	Scenario string
	Kind     Kind
	Peer     string
	Runs     []Run
	Failures []string `json:",omitempty"`
}

// Absence says why a peer has no figures in a setup ("": in all).
type Absence struct{ Setup, Peer, Why string }

// Results is everything that a run has found.
type Results struct {
	Machine Machine
	Date    string
	Mode    string
	Rounds  int
	Warm    time.Duration
	Window  time.Duration
	Seconds float64 // that the whole run took
	Users   bool    // each forwarder ran as an ordinary user of its own
	Setups  []SetupInfo
	Peers   []PeerInfo
	Rows    []*Row
	Rest    []RestRow   `json:",omitempty"`
	Growth  []GrowthRow `json:",omitempty"`
	Absent  []Absence   `json:",omitempty"`
	Notes   []string    `json:",omitempty"`
	Marks   []Verdict   `json:",omitempty"`
}

// SetupInfo and PeerInfo name what the rows speak of.
type SetupInfo struct{ Name, What string }

// PeerInfo names a peer that took part.
type PeerInfo struct{ Name, Version, Why string }

// directEvery is the number of peers between two direct runs.
const directEvery = 4

// bench is a run under way.
type bench struct {
	Config
	res      *Results
	deadline time.Time
	next     int
}

// Measure runs everything that c asks for. Absent peers and failed measurements are part of the results; an error means
// that the bench itself could not work, and comes with what was measured until then.
func Measure(c Config) (*Results, error) {
	began := time.Now()
	b := &bench{Config: c, deadline: began.Add(c.Budget)}
	b.res = &Results{Machine: describe(), Date: began.UTC().Format(time.DateOnly), Mode: "quick", Rounds: c.Rounds}
	if c.Full {
		b.res.Mode = "full"
	}
	b.res.Users = os.Geteuid() == 0 && canBecome(60000)
	b.present()
	err := b.measure()
	if err != nil {
		b.res.Notes = append(b.res.Notes, "ended early: "+oneLine(err))
	}
	b.res.Seconds = math.Round(time.Since(began).Seconds())
	b.res.Marks = Judge(b.res)
	return b.res, err
}

func (b *bench) measure() error {
	for _, s := range b.plan() {
		if err := b.setup(s); err != nil {
			return fmt.Errorf("setup %q: %w", s.Name, err)
		}
	}
	if b.Rest {
		if err := b.rest(); err != nil {
			return fmt.Errorf("at rest: %w", err)
		}
	}
	if b.Growth {
		if err := b.growth(); err != nil {
			return fmt.Errorf("growth: %w", err)
		}
	}
	return nil
}

// present sorts out the peers that are not here, and names the versions of those that are.
func (b *bench) present() {
	s := b.starter(Setup{})
	b.Peers = slices.DeleteFunc(slices.Clone(b.Peers), func(p Peer) bool {
		path, err := s.program(&p)
		if err != nil {
			b.res.Absent = append(b.res.Absent, Absence{Peer: p.Name, Why: err.Error()})
			return true
		}
		b.res.Peers = append(b.res.Peers, PeerInfo{p.Name, version(path, p.Version), p.Why})
		return false
	})
}

// plan drops what the mode leaves out and derives the length of a measurement from the time there is.
func (b *bench) plan() []Setup {
	var setups []Setup
	runs, units, starts, extra := 0, 0, 0, time.Duration(0)
	for _, s := range b.Setups {
		if s.Full && !b.Full {
			continue
		}
		if s.Veth && !b.Inside {
			b.res.Notes = append(b.res.Notes, fmt.Sprintf("setup %q left out: no network namespaces of our own", s.Name))
			continue
		}
		s.Scenarios = slices.DeleteFunc(slices.Clone(s.Scenarios), func(sc Scenario) bool { return sc.Full && !b.Full })
		setups = append(setups, s)
		peers := 0
		for i := range b.Peers {
			if s.takes(b.Peers[i].Name) && (!s.UNIX || b.Peers[i].UNIX) {
				peers++
			}
		}
		each := s.rounds(b.Rounds) * (peers + 1 + (peers+directEvery-1)/directEvery)
		runs += each * len(s.Scenarios)
		for _, sc := range s.Scenarios {
			units += each * sc.stretch(b.Full)
			extra += time.Duration(each) * (runCost + time.Duration(sc.Conns)*connCost)
		}
		starts += peers
	}
	left := b.Budget*9/10 - extra - time.Duration(starts)*startCost - restTime(b.Config) - growthTime(b.Config)
	per := left / time.Duration(max(units, 1))
	per = min(max(per, 60*time.Millisecond), 2*time.Second)
	if b.length > 0 {
		per = b.length
	}
	b.res.Warm, b.res.Window = per/5, per-per/5
	b.Log("%d measurements of %v", runs, b.res.Window.Round(time.Millisecond))
	return setups
}

// What a start and a measurement take beyond their windows.
const (
	startCost = 60 * time.Millisecond
	runCost   = 6 * time.Millisecond
	connCost  = 600 * time.Microsecond // per connection of a scenario; forks are dear
)

const (
	backendPort = 9050
	directPort  = 9051 // of the second backend, in the other namespace
)

// stand is what a setup needs around the peers.
type stand struct {
	veth    *veth
	backend *end
	farEnd  *end // where direct connections over the veth pair go
	load    *end
	direct  string
	starter *starter
}

func (b *bench) starter(s Setup) *starter {
	st := &starter{dir: b.Dir, sydTor: b.SydTor, users: b.res.Users, next: &b.next, host: "127.0.0.1", fixed: b.Inside}
	st.upstream = fmt.Sprintf("127.0.0.1:%d", st.port(backendPort))
	if s.UNIX {
		st.upstream = filepath.Join(b.Dir, "upstream")
	}
	if s.OneCore {
		all := cpus()
		st.cpus = all[len(all)-1:]
	}
	return st
}

// erect starts both ends of the traffic for a setup.
func (b *bench) erect(s Setup) (_ *stand, err error) {
	d := &stand{starter: b.starter(s)}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	d.direct = d.starter.upstream
	if s.UNIX {
		_ = os.Remove(d.direct)
	}
	if s.Veth {
		if d.veth, err = newVeth(s.Singly); err != nil {
			return nil, err
		}
		d.starter.far, d.starter.host = d.veth, farAddr
		d.starter.upstream = fmt.Sprintf("%s:%d", nearAddr, backendPort)
		d.direct = fmt.Sprintf("%s:%d", farAddr, directPort)
		if d.farEnd, err = startBackend(d.starter.cpus, d.veth, d.direct); err != nil {
			return nil, err
		}
	}
	if d.backend, err = startBackend(d.starter.cpus, nil, d.starter.upstream); err != nil {
		return nil, err
	}
	if d.load, err = startEnd(roleLoad, d.starter.cpus, nil); err != nil {
		return nil, err
	}
	return d, nil
}

func startBackend(list []int, ns *veth, addr string) (*end, error) {
	e, err := startEnd(roleBackend, list, ns, addr)
	if err != nil {
		return nil, err
	}
	line := make([]byte, 16)
	if n, err := e.out.Read(line); err != nil || string(line[:n]) != "ready\n" {
		e.stop()
		return nil, fmt.Errorf("backend on %s did not start", addr)
	}
	return e, nil
}

func (d *stand) close() {
	for _, e := range []*end{d.load, d.backend, d.farEnd} {
		if e != nil {
			e.stop()
		}
	}
	if d.veth != nil {
		d.veth.remove()
	}
}

// setup starts all peers, measures them in turn and ends them.
func (b *bench) setup(s Setup) error {
	d, err := b.erect(s)
	if err != nil {
		return err
	}
	defer d.close()
	b.res.Setups = append(b.res.Setups, SetupInfo{s.Name, s.What})
	instances := b.startAll(d, s)
	defer func() {
		for _, i := range instances {
			if err := i.stop(); err != nil {
				b.res.Notes = append(b.res.Notes, fmt.Sprintf("%s: %v", i.peer.Name, err))
			}
		}
	}()
	rows := map[string]*Row{}
	for _, sc := range s.Scenarios {
		for _, name := range append([]string{Direct}, names(instances)...) {
			r := &Row{Setup: s.Name, Scenario: sc.Name, Kind: sc.Kind, Peer: name}
			rows[sc.Name+"\x00"+name] = r
			b.res.Rows = append(b.res.Rows, r)
		}
	}
	rounds := s.rounds(b.Rounds)
	for round := range rounds {
		b.Log("%s: round %d of %d", s.Name, round+1, rounds)
		for _, sc := range s.Scenarios {
			if time.Now().After(b.deadline) {
				b.res.Notes = append(b.res.Notes, fmt.Sprintf("%s, %s: time was up before round %d", s.Name, sc.Name, round+1))
				continue
			}
			// Each round begins elsewhere, so that no peer always follows the same one.
			order := slices.Concat(instances[round%max(len(instances), 1):], instances[:round%max(len(instances), 1)])
			if err := b.turns(d, sc, round, order, rows); err != nil {
				return err
			}
		}
	}
	return nil
}

func names(list []*instance) []string {
	var n []string
	for _, i := range list {
		n = append(n, i.peer.Name)
	}
	return n
}

func (b *bench) startAll(d *stand, s Setup) []*instance {
	var list []*instance
	for k := range b.Peers {
		p := &b.Peers[k]
		if !s.takes(p.Name) {
			continue
		}
		if s.UNIX && !p.UNIX {
			b.res.Absent = append(b.res.Absent, Absence{s.Name, p.Name, "no UNIX upstream"})
			continue
		}
		i, err := d.starter.start(p)
		if err != nil {
			b.res.Absent = append(b.res.Absent, Absence{s.Name, p.Name, oneLine(err)})
			continue
		}
		list = append(list, i)
	}
	return list
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// turns measures each instance once, with direct runs before, between and after.
func (b *bench) turns(d *stand, sc Scenario, round int, order []*instance, rows map[string]*Row) error {
	op := Op{Kind: sc.Kind, Conns: sc.Conns, Size: sc.Size, Warm: b.res.Warm,
		Window: b.res.Window * time.Duration(sc.stretch(b.Full))}
	direct := rows[sc.Name+"\x00"+Direct]
	run := func(r *Row, addr string, m Meter) error {
		op.Addr, op.Meter = addr, m
		s, err := d.load.do(op)
		if err != nil {
			return err
		}
		if s.Err != "" {
			r.Failures = append(r.Failures, s.Err)
			return nil
		}
		r.Runs = append(r.Runs, Run{Round: round, Sample: s})
		return nil
	}
	for k, i := range order {
		if k%directEvery == 0 {
			if err := run(direct, d.direct, Meter{}); err != nil {
				return err
			}
		}
		r := rows[sc.Name+"\x00"+i.peer.Name]
		before := len(r.Runs)
		if err := run(r, i.addr, i.group.Meter()); err != nil {
			return err
		}
		if len(r.Runs) > before {
			r.Runs[before].Near = near(len(direct.Runs))
		}
	}
	return run(direct, d.direct, Meter{})
}

// near names the direct runs around a measurement that follows the first n of them. The one after is yet to come.
func near(n int) []int {
	if n == 0 {
		return []int{0}
	}
	return []int{n - 1, n}
}

// canBecome reports whether the user exists in this user namespace.
func canBecome(uid int) bool {
	f, err := os.CreateTemp("", "bench")
	if err != nil {
		return false
	}
	defer os.Remove(f.Name())
	defer f.Close()
	return f.Chown(uid, uid) == nil
}
