package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/procfs"
)

// Meter reads the processor time of a forwarder and of everything it ever started. The zero Meter reads nothing.
//
// A control group counts in nanoseconds (v1) or microseconds (v2) and forgets no dead child, which matters for
// forwarders that fork per connection. Without one, the process tree is summed: living threads in nanoseconds from
// schedstat, dead children that were waited for in clock ticks, and those that were not waited for are lost.
type Meter struct {
	Kind string // "cpuacct", "cpu.stat" or "tree"
	Path string // of the control group
	PID  int    // root of the tree
}

// Read returns the time used so far.
func (m Meter) Read() (time.Duration, error) {
	switch m.Kind {
	case "":
		return 0, nil
	case "cpuacct":
		b, err := os.ReadFile(filepath.Join(m.Path, "cpuacct.usage"))
		if err != nil {
			return 0, err
		}
		ns, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
		return time.Duration(ns), err
	case "cpu.stat":
		b, err := os.ReadFile(filepath.Join(m.Path, "cpu.stat"))
		if err != nil {
			return 0, err
		}
		return usageUsec(b)
	case "tree":
		return treeCPU(m.PID)
	}
	return 0, fmt.Errorf("meter: unknown kind %q", m.Kind)
}

// Settle waits until the forwarder has stopped using the processor, 200 ms at most: the last closes of a connection
// come after the client's own.
func (m Meter) Settle() {
	if m.Kind == "" {
		return
	}
	last, _ := m.Read()
	for range 20 {
		time.Sleep(10 * time.Millisecond)
		now, _ := m.Read()
		if now-last < 20*time.Microsecond {
			return
		}
		last = now
	}
}

// usageUsec finds the total in a control group's cpu.stat (Documentation/admin-guide/cgroup-v2.rst, "CPU Interface Files").
func usageUsec(stat []byte) (time.Duration, error) {
	for line := range bytes.Lines(stat) {
		if rest, ok := bytes.CutPrefix(line, []byte("usage_usec ")); ok {
			us, err := strconv.ParseInt(string(bytes.TrimSpace(rest)), 10, 64)
			return time.Duration(us) * time.Microsecond, err
		}
	}
	return 0, errors.New("cpu.stat: no usage_usec")
}

// clockTick is USER_HZ, which is 100 on every architecture that this project knows.
const clockTick = 10 * time.Millisecond

func treeCPU(root int) (time.Duration, error) {
	pids, err := tree(root)
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, pid := range pids {
		threads, err := procfs.AllThreads(pid)
		if err != nil {
			continue // it has ended since; its parent's count of dead children has it
		}
		for _, t := range threads {
			if s, err := t.Schedstat(); err == nil {
				sum += time.Duration(s.RunningNanoseconds)
			}
		}
		if p, err := procfs.NewProc(pid); err == nil {
			if s, err := p.Stat(); err == nil {
				sum += time.Duration(s.CUTime+s.CSTime) * clockTick
			}
		}
	}
	return sum, nil
}

// tree lists root and its living descendants, root first.
func tree(root int) ([]int, error) {
	procs, err := procfs.AllProcs()
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, p := range procs {
		if s, err := p.Stat(); err == nil {
			children[s.PPID] = append(children[s.PPID], p.PID)
		}
	}
	pids := []int{root}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children[pids[i]]...)
	}
	return pids, nil
}

// Group is a control group of one forwarder, or, where none can be made, just its root process.
type Group struct {
	dir  string
	kind string
	root int
}

// groupParents are the places where a control group that counts processor time can be made, best first.
var groupParents = []struct{ dir, kind, file string }{
	{"/sys/fs/cgroup/cpuacct", "cpuacct", "cpuacct.usage"},
	{"/sys/fs/cgroup/cpu,cpuacct", "cpuacct", "cpuacct.usage"},
	{"/sys/fs/cgroup", "cpu.stat", "cpu.stat"},
}

// newGroup makes a control group called name; the zero Group is the answer where that is not allowed.
func newGroup(name string) *Group {
	for _, p := range groupParents {
		dir := filepath.Join(p.dir, name)
		if _, err := os.Stat(filepath.Join(p.dir, "cgroup.procs")); err != nil {
			continue
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, p.file)); err == nil {
			return &Group{dir: dir, kind: p.kind}
		}
		_ = os.Remove(dir)
	}
	return &Group{}
}

// Meter returns the meter of the group.
func (g *Group) Meter() Meter {
	if g.dir == "" {
		return Meter{Kind: "tree", PID: g.root}
	}
	return Meter{Kind: g.kind, Path: g.dir}
}

// PIDs lists the living processes of the group.
func (g *Group) PIDs() ([]int, error) {
	if g.dir == "" {
		return tree(g.root)
	}
	b, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	var pids []int
	for f := range bytes.FieldsSeq(b) {
		pid, err := strconv.Atoi(string(f))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// Sweep removes the control groups that a run with the scratch directory dir has left, if it was ended from outside.
func Sweep(dir string) {
	for _, p := range groupParents {
		left, _ := filepath.Glob(filepath.Join(p.dir, filepath.Base(dir)+"-*")) // the pattern is well-formed
		for _, g := range left {
			(&Group{dir: g}).remove()
		}
	}
}

// remove takes the control group away; its processes must have ended.
func (g *Group) remove() {
	if g.dir == "" {
		return
	}
	for range 50 {
		if os.Remove(g.dir) == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
