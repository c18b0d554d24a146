package monitor

import (
	"math"
	"unsafe"

	"golang.org/x/sys/unix"

	"syd/arch"
	"syd/internal/exit"
	"syd/internal/relay"
)

// What the monitor says, put together without the Go runtime.

// numSignals is _NSIG, and one for 0.
const numSignals = 65

// Words of the kernel's, from package unix while there is a runtime. The last errno so far is EHWPOISON.
var (
	errnoTexts  = texts(unix.EHWPOISON+1, unix.Errno.Error)
	signalNames = texts(unix.Signal(numSignals), unix.SignalName)
)

func texts[T unix.Errno | unix.Signal](count T, text func(T) string) []string {
	all := make([]string, count)
	for i := range all {
		all[i] = text(T(i))
	}
	return all
}

// tell prints what happened to connections since the last time.
//
//go:nosplit
func (m *Monitor) tell() {
	if !m.config.Debug {
		return
	}
	rec := &m.record
	for _, r := range m.relays {
		r.news.Begin()
		for r.news.Next(rec) {
			kit.line.begin()
			kit.line.relay(r.pid)
			kit.line.str(" connection ")
			kit.line.num(uint64(rec.Conn))
			kit.line.str(": ")
			kit.line.describe(rec)
			kit.line.end(m.out)
		}
		if r.news.Lost > 0 {
			kit.line.begin()
			kit.line.relay(r.pid)
			kit.line.str(": ")
			kit.line.num(uint64(r.news.Lost))
			kit.line.str(" records lost: connections came faster than they could be told")
			kit.line.end(m.out)
		}
	}
}

//go:nosplit
func (l *line) describe(r *relay.Record) {
	switch r.Kind {
	case relay.Opened:
		l.str("opened")
	case relay.Connected:
		l.str("connected")
	case relay.Closed:
		l.str("closed, ")
		l.traffic(r)
	case relay.Aborted:
		l.str("reset, ")
		l.traffic(r)
		l.str(": ")
		l.errno(r.Errno)
	default:
		l.str("unknown record ")
		l.num(uint64(r.Kind))
	}
}

//go:nosplit
func (l *line) traffic(r *relay.Record) {
	l.num(r.Up)
	l.str(" bytes up, ")
	l.num(r.Down)
	l.str(" bytes down")
}

// printCounters prints one line of name=value for all relays together, and where there are several, before it
// one for each.
//
//go:nosplit
func (m *Monitor) printCounters() {
	for n, r := range m.relays {
		for range snapshotTurns {
			if r.region.Shared().Snapshot(&m.counters) {
				break
			}
			nap(snapshotTurn)
		}
		for i, c := range &m.counters {
			if n == 0 {
				m.total[i] = 0
			}
			m.total[i] += c
		}
		if len(m.relays) > 1 {
			kit.line.begin()
			kit.line.relay(r.pid)
			kit.line.str(":")
			kit.line.counters(&m.counters)
			kit.line.end(m.out)
		}
	}
	kit.line.begin()
	kit.line.str("counters:")
	kit.line.counters(&m.total)
	kit.line.end(m.out)
}

//go:nosplit
func (l *line) counters(c *relay.Counters) {
	for i := range c {
		l.str(" ")
		l.str(relay.CounterNames[i])
		l.str("=")
		l.num(c[i])
	}
}

// explain says why a relay ended, and returns the code that this means for the monitor: OK and nothing, if its owner
// is gone.
//
//go:nosplit
func (m *Monitor) explain(r *child, status unix.WaitStatus) exit.Code {
	l := &kit.line
	if status.Signaled() {
		l.relay(r.pid)
		l.str(" died of ")
		l.str(signalNames[status.Signal()])
		switch status.Signal() {
		case unix.SIGSYS:
			l.str(": a system call outside its policy")
		case unix.SIGSEGV:
			l.str(": memory that it does not have, a failed bounds check or a blocked counter")
		case unix.SIGKILL:
			l.str(": from outside, or memory ran out")
		default:
			l.str(": unexpected")
		}
		return exit.Software
	}
	shared := r.region.Shared()
	switch relay.Stage(shared.Stage) {
	case relay.OwnerGone:
		// The relay is not believed: the owner's descriptor tells.
		if poll(m.owner, unix.POLLIN, 0, 0, math.MaxUint64) > 0 {
			return exit.OK
		}
		l.relay(r.pid)
		l.str(" ended, and its owner did not")
		return exit.Software
	case relay.Faulted:
		l.relay(r.pid)
		l.str(": ")
		if f := shared.Fault; f < uint32(len(relay.FaultNames)) {
			l.str(relay.FaultNames[f])
		} else {
			l.str("unknown call")
		}
		l.str(": ")
		l.errno(shared.FaultErrno)
		return exit.OS
	}
	l.relay(r.pid)
	l.str(" exited with status ")
	l.num(uint64(status>>8) & 0xff)
	return exit.Software
}

// lineSize is room for the longest line, all counters at their highest.
const lineSize = 1024

// line is one line of stderr.
type line struct {
	text  [lineSize]byte
	n     int
	stuck bool // the last one was not taken
}

//go:nosplit
func (l *line) begin() {
	l.n = 0
	l.str("syd-tor: ")
}

// str appends s, as much of it as fits with a newline behind it.
//
//go:nosplit
func (l *line) str(s string) {
	for i := 0; i < len(s) && l.n < lineSize-1; i++ {
		l.text[l.n] = s[i]
		l.n++
	}
}

// tens are the powers of ten. With them no number is divided: 32-bit machines call the runtime for that.
var tens = [...]uint64{1e19, 1e18, 1e17, 1e16, 1e15, 1e14, 1e13, 1e12, 1e11, 1e10, 1e9, 1e8, 1e7, 1e6, 1e5, 1e4, 1e3, 1e2, 1e1, 1}

//go:nosplit
func (l *line) num(n uint64) {
	begun := false
	for i := range tens {
		digit := 0
		for ; n >= tens[i]; digit++ {
			n -= tens[i]
		}
		if begun = begun || digit > 0 || i == len(tens)-1; begun {
			l.str("0123456789"[digit : digit+1])
		}
	}
}

//go:nosplit
func (l *line) errno(e uint32) {
	if e < uint32(len(errnoTexts)) {
		l.str(errnoTexts[e])
		return
	}
	l.str("errno ")
	l.num(uint64(e))
}

//go:nosplit
func (l *line) relay(pid int) {
	l.str("relay ")
	l.num(uint64(pid))
}

// end writes the line, once fd says that it can be written: nobody who does not read stderr keeps the monitor from
// hearing. A line that is not taken in a second is lost, and those behind it at once, until one is taken.
//
//go:nosplit
func (l *line) end(fd int32) {
	l.text[l.n] = '\n'
	l.n++
	for l.n > 0 {
		seconds := 1
		if l.stuck {
			seconds = 0
		}
		l.stuck = !writable(fd, seconds)
		if l.stuck {
			return
		}
		r := arch.Write(fd, uintptr(unsafe.Pointer(&l.text)), uintptr(l.n))
		if r <= 0 || r > l.n {
			return
		}
		// The filter allows one address: the rest moves there.
		l.n -= r
		for i := range l.n {
			l.text[i] = l.text[i+r]
		}
	}
}

// writable waits until fd can be written, or the wait itself fails.
//
//go:nosplit
func writable(fd int32, seconds int) bool {
	return poll(fd, unix.POLLOUT, seconds, 0, math.MaxUint64) != 0
}

// post sends one byte.
//
//go:nosplit
func (l *line) post(fd int32) {
	l.text[0] = 0
	arch.Write(fd, uintptr(unsafe.Pointer(&l.text)), 1)
}
