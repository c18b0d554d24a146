package bench

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// Memory is what one process holds, in bytes, from /proc/PID/smaps_rollup. Memory that the kernel holds for it (sockets,
// pipes) is not in it.
type Memory struct {
	RSS     uint64
	PSS     uint64
	Private uint64 // clean and dirty
	Shared  uint64 // clean and dirty
}

func (m Memory) plus(o Memory) Memory {
	return Memory{m.RSS + o.RSS, m.PSS + o.PSS, m.Private + o.Private, m.Shared + o.Shared}
}

// Holding is what a forwarder holds at one moment.
type Holding struct {
	Sum         Memory
	Each        []Process `json:",omitempty"` // in the order in which they were started
	Descriptors int
	Pipes       int // both ends of one count as one
	Processes   int
	Threads     int
	Switches    uint64 // context switches of all living threads since each began
}

// Process is one process of a Holding.
type Process struct {
	Name     string
	Memory   Memory
	Switches uint64
}

// maxEach bounds Holding.Each: forwarders that fork per connection would fill pages with it.
const maxEach = 4

// Look reads what the group holds. A process that ends meanwhile is left out; one that lives and cannot be read is an error.
func (g *Group) Look() (Holding, error) {
	var h Holding
	pids, err := g.PIDs()
	if err != nil {
		return h, err
	}
	pipes := map[string]bool{}
	for _, pid := range pids {
		p, err := procfs.NewProc(pid)
		if err != nil {
			continue
		}
		r, err := p.ProcSMapsRollup()
		if ended(err) {
			continue
		}
		if err != nil {
			return h, fmt.Errorf("memory of process %d: %w", pid, err)
		}
		// A process on its way out has no memory map any more, and nothing to count.
		if r.Rss == 0 {
			continue
		}
		m := Memory{RSS: r.Rss, PSS: r.Pss, Private: r.PrivateClean + r.PrivateDirty, Shared: r.SharedClean + r.SharedDirty}
		h.Sum = h.Sum.plus(m)
		h.Processes++
		if len(h.Each) < maxEach {
			name, _ := p.Comm()
			_, s := switches(pid)
			h.Each = append(h.Each, Process{name, m, s})
		}
		targets, err := p.FileDescriptorTargets()
		if err != nil && !ended(err) {
			return h, fmt.Errorf("descriptors of process %d: %w", pid, err)
		}
		h.Descriptors += len(targets)
		for _, t := range targets {
			if strings.HasPrefix(t, "pipe:") {
				pipes[t] = true
			}
		}
		n, s := switches(pid)
		h.Threads += n
		h.Switches += s
	}
	h.Pipes = len(pipes)
	return h, nil
}

// ended reports whether an error of reading /proc says that the process is gone: before the file was opened, or after.
func ended(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// switches counts the threads of a process and their context switches, voluntary and not.
func switches(pid int) (threads int, sum uint64) {
	all, err := procfs.AllThreads(pid)
	if err != nil {
		return 0, 0
	}
	for _, t := range all {
		if s, err := t.NewStatus(); err == nil {
			threads++
			sum += s.VoluntaryCtxtSwitches + s.NonVoluntaryCtxtSwitches
		}
	}
	return threads, sum
}

// Switches is the context switches of the whole group so far: at rest, each one is a wake-up.
func (g *Group) Switches() (uint64, error) {
	pids, err := g.PIDs()
	if err != nil {
		return 0, err
	}
	var sum uint64
	for _, pid := range pids {
		_, s := switches(pid)
		sum += s
	}
	return sum, nil
}
