package monitor

import (
	"math"
	"unsafe"

	"golang.org/x/sys/unix"

	"syd/arch"
	"syd/internal/exit"
	"syd/internal/jail"
	"syd/internal/policy"
)

// The monitor without the Go runtime: one thread, no heap, nosplit functions that make the calls of its policy.

// heard are the signals that the monitor acts on: the first four end it, SIGUSR1 asks for the counters, and SIGCHLD
// comes with a relay's end.
var heard = [...]unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGCHLD}

const endings = 4

// unheard are signals with which the kernel ends or stops the monitor by itself. All others change nothing, as in any
// program in Go.
var unheard = [...]unix.Signal{unix.SIGABRT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU}

// maskOf is the bit of s in the kernel's sigset_t, which is little-endian on all architectures so far.
func maskOf(s unix.Signal) uint64 { return 1 << (s - 1) }

// kit is all memory that the monitor's system calls name: its filter allows no other.
var kit = struct {
	poll   unix.PollFd
	time   [2]int // that ppoll(2) waits, in seconds and nanoseconds
	mask   uint64 // signals that are blocked meanwhile
	status unix.WaitStatus
	line   line
}{}

// deaf are the signals that are blocked while the monitor waits for them. All are while it waits for anything else:
// what came then would be noted, and only be looked at with the next event.
var deaf uint64 = math.MaxUint64

// filterValues are the addresses in kit.
func filterValues() policy.Values {
	at := func(p unsafe.Pointer) uint64 { return uint64(uintptr(p)) }
	return policy.Values{
		PollPtr: at(unsafe.Pointer(&kit.poll)), TimePtr: at(unsafe.Pointer(&kit.time)), MaskPtr: at(unsafe.Pointer(&kit.mask)),
		StatusPtr: at(unsafe.Pointer(&kit.status)), LinePtr: at(unsafe.Pointer(&kit.line.text)),
	}
}

// Times that the monitor waits, in nanoseconds; longest, in seconds, is as good as for ever.
const (
	longest      = math.MaxInt32
	recordPeriod = 20_000_000 // between looks for news, where it tells each connection's life
	snapshotTurn = 10_000     // until a relay has finished writing its counters
	endTurn      = 10_000_000 // between looks whether relays have ended
)

// How often it waits.
const (
	snapshotTurns = 1000
	endTurns      = 100
)

// leave is the end of the Go runtime in this process.
//
//go:nosplit
func (m *Monitor) leave() {
	arch.Leave()
	m.alone()
}

// alone ends what is left of the runtime and confines what is left of the process.
//
//go:nosplit
func (m *Monitor) alone() {
	arch.Alone(m.tasks)
	if errno := jail.Last(); errno != 0 {
		kit.line.begin()
		kit.line.str("confinement step monitor-seccomp: ")
		kit.line.errno(uint32(errno))
		kit.line.end(m.out)
		arch.Exit(int32(exit.Unavailable))
	}
	m.watch()
}

// watch releases the relays, tells the owner that its listener is served, and waits.
//
//go:nosplit
func (m *Monitor) watch() {
	// Where this fails a relay is gone already, and why, the loop will tell; or the owner does not care.
	for _, r := range m.relays {
		kit.line.post(int32(r.socket))
	}
	kit.line.post(int32(m.config.SocketFD))
	arch.Close(int32(m.config.SocketFD))
	seconds, nanos := longest, 0
	if m.config.Debug {
		seconds, nanos = 0, recordPeriod
	}
	for {
		m.tell()
		if r := m.reap(); r != nil {
			m.ended(r, kit.status)
		}
		for i := range endings {
			if arch.Caught(heard[i]) {
				m.endedBy(heard[i])
			}
		}
		if arch.Caught(unix.SIGUSR1) {
			m.printCounters()
		}
		switch r := pause(m.owner, seconds, nanos); {
		case r > 0:
			m.finish()
			arch.Exit(int32(exit.OK))
		case r < 0 && r != -int(unix.EINTR):
			// Signals come in nowhere else.
			m.finish()
			kit.line.begin()
			kit.line.str("ppoll: ")
			kit.line.errno(uint32(-r))
			kit.line.end(m.out)
			arch.Exit(int32(exit.OS))
		}
	}
}

// pause waits for a signal, for a time, or until fd is readable, and then returns 1. -1 is no descriptor.
//
//go:nosplit
func pause(fd int32, seconds, nanos int) int { return poll(fd, unix.POLLIN, seconds, nanos, deaf) }

// nap waits for a time.
//
//go:nosplit
func nap(nanos int) { poll(-1, 0, 0, nanos, math.MaxUint64) }

//go:nosplit
func poll(fd int32, events int16, seconds, nanos int, mask uint64) int {
	kit.poll.Fd, kit.poll.Events = fd, events
	kit.time[0], kit.time[1] = seconds, nanos
	kit.mask = mask
	return arch.Poll(uintptr(unsafe.Pointer(&kit.poll)), 1, uintptr(unsafe.Pointer(&kit.time)), uintptr(unsafe.Pointer(&kit.mask)))
}

// reap returns a relay that has ended, with its status in kit; nil: none has. A process that was executed keeps the
// children of the program before it: they go by.
//
//go:nosplit
func (m *Monitor) reap() *child {
	for {
		pid := arch.Wait4(-1, uintptr(unsafe.Pointer(&kit.status)), unix.WNOHANG)
		if pid <= 0 {
			return nil
		}
		for _, r := range m.relays {
			if r.pid == pid && !r.ended {
				r.ended = true
				return r
			}
		}
	}
}

// finish ends the relays and tells what is left to tell. They go when their socket to the monitor does; one that does
// not in a second, because it is stopped, the kernel ends together with the monitor (PR_SET_PDEATHSIG).
//
//go:nosplit
func (m *Monitor) finish() {
	for _, r := range m.relays {
		arch.Close(int32(r.socket))
	}
	for range endTurns {
		for m.reap() != nil {
		}
		if m.allEnded() {
			break
		}
		pause(-1, 0, endTurn)
	}
	m.tell()
	if m.config.Stats {
		m.printCounters()
	}
}

//go:nosplit
func (m *Monitor) allEnded() bool {
	for _, r := range m.relays {
		if !r.ended {
			return false
		}
	}
	return true
}

// ended ends the monitor because a relay has ended.
//
//go:nosplit
func (m *Monitor) ended(r *child, status unix.WaitStatus) {
	m.finish()
	kit.line.begin()
	code := m.explain(r, status)
	if code != exit.OK {
		kit.line.end(m.out)
	}
	arch.Exit(int32(code))
}

// endedBy ends the monitor because of a signal. SIGTERM is how syd(1) asks for it once its program has ended, and not
// worth a line.
//
//go:nosplit
func (m *Monitor) endedBy(s unix.Signal) {
	m.finish()
	if s != unix.SIGTERM {
		kit.line.begin()
		kit.line.str("ended by ")
		kit.line.str(signalNames[s])
		kit.line.end(m.out)
	}
	arch.Exit(int32(exit.Signal(s)))
}
