package relay

import "sync/atomic"

// Counters, by index. All count from the start of the relay, but for the four at the end, which tell the state.
const (
	Accepted       = iota // connections accepted
	Finished              // connections that ended with EOF both ways
	Refused               // connections that the external address did not take
	Reset                 // connections ended by a reset or an error
	Urgent                // of those, the ones reset for TCP urgent data
	BytesUp               // bytes delivered to the external address
	BytesDown             // bytes delivered to clients
	Pauses                // times the listener was left alone for want of descriptors or memory
	Retries               // connects tried again because a backlog was full
	Wakeups               // returns from epoll_wait
	ErrRefused            // errors by kind: connection refused
	ErrReset              // reset by peer, broken pipe
	ErrTimeout            // timed out
	ErrUnreachable        // network or host unreachable
	ErrShortage           // no descriptor, memory, port or backlog place
	ErrOther              // any other
	Open                  // connections now
	Pipes                 // pipes now
	PipesIdle             // of those, the ones that wait in the pool
	Descriptors           // descriptors now
	NumCounters
)

// CounterNames are the names under which the monitor prints the counters.
var CounterNames = [NumCounters]string{
	Accepted: "accepted", Finished: "finished", Refused: "refused", Reset: "reset", Urgent: "urgent",
	BytesUp: "bytes-up", BytesDown: "bytes-down", Pauses: "pauses", Retries: "retries", Wakeups: "wakeups",
	ErrRefused: "err-refused", ErrReset: "err-reset", ErrTimeout: "err-timeout",
	ErrUnreachable: "err-unreachable", ErrShortage: "err-shortage", ErrOther: "err-other",
	Open: "open", Pipes: "pipes", PipesIdle: "pipes-idle", Descriptors: "descriptors",
}

// Counters is one snapshot.
type Counters [NumCounters]uint64

// Stage tells how far a relay has come.
type Stage uint32

const (
	Starting Stage = iota
	Confined       // every confinement step is done, or was left off
	Accepting
	OwnerGone // ended because the owner exited
	Faulted   // ended because Fault failed with FaultErrno
)

// Fault names the call without which a relay cannot go on.
type Fault uint32

const (
	NoFault Fault = iota
	FaultAdopt
	FaultHandshake
	FaultEpoll
	FaultAccept
)

// FaultNames says in words what failed.
var FaultNames = [...]string{"nothing", "moving descriptors", "handshake with the monitor", "epoll", "accept4"}

// Shared is the page that a relay writes and the monitor reads. To the monitor it is hostile input: numbers to
// print, never an index or a length.
type Shared struct {
	Stage      uint32
	Fault      uint32
	FaultErrno uint32
	seq        uint32 // odd while counters is being written
	counters   Counters
	head       uint32     // records written so far
	Steps      [64]uint32 // results of the confinement steps, package jail
}

// Kind is what a Record tells of a connection.
type Kind uint32

const (
	Opened Kind = iota + 1
	Connected
	Closed  // EOF both ways
	Aborted // reset, or refused; Errno says why
)

// Record is one event in a connection's life. It is left only where the relay was given a ring.
type Record struct {
	Up, Down uint64 // bytes delivered so far to the external address, and to the client
	Conn     uint32 // number of the connection, from 1
	Kind     Kind
	Errno    uint32
	_        uint32
}

// RingSize is how many records the ring holds; the monitor reports those it was too slow for.
const RingSize = 1 << 14

//go:nosplit
func (w *Worker) publish() {
	s := w.shared
	w.counters[Descriptors] = uint64(len(w.sides)) - uint64(w.left)
	atomic.StoreUint32(&s.seq, s.seq+1)
	for i := range s.counters {
		s.counters[i] = w.counters[i]
	}
	atomic.StoreUint32(&s.seq, s.seq+1)
}

// Snapshot copies the counters as they were at the relay's last wait to c. It tells whether they are that: a relay that
// is changing them just then, or died in the middle, leaves some of both.
//
//go:nosplit
func (s *Shared) Snapshot(c *Counters) bool {
	before := atomic.LoadUint32(&s.seq)
	for i := range c {
		c[i] = s.counters[i]
	}
	return before&1 == 0 && atomic.LoadUint32(&s.seq) == before
}

//go:nosplit
func (w *Worker) record(kind Kind, conn uint32, errno int, up, down uint64) {
	if len(w.ring) == 0 {
		return
	}
	s := w.shared
	r := &w.ring[s.head%RingSize]
	r.Kind, r.Conn, r.Errno, r.Up, r.Down = kind, conn, uint32(errno), up, down
	atomic.StoreUint32(&s.head, s.head+1)
}

// Reader reads the records of one relay in order, without the Go runtime.
type Reader struct {
	Lost uint32 // records that were overwritten since Begin looked last, before they could be read

	region     *Region
	tail, head uint32
}

// Reader returns a reader of r's records from the first one on.
func (r *Region) Reader() Reader { return Reader{region: r} }

// Begin looks how far the relay has come. Next reads up to there, so that a relay that writes on and on holds nobody up.
//
//go:nosplit
func (r *Reader) Begin() {
	r.Lost = 0
	r.head = atomic.LoadUint32(&r.region.worker.shared.head)
	// The oldest of a full ring is the one that the relay may be writing over now.
	if behind := r.head - r.tail; behind >= RingSize {
		r.Lost = behind - RingSize + 1
		r.tail = r.head - RingSize + 1
	}
}

// Next copies the next record to rec; false: there are no more.
//
//go:nosplit
func (r *Reader) Next(rec *Record) bool {
	w := r.region.worker
	for r.tail != r.head && len(w.ring) == RingSize {
		n := r.tail
		r.tail++
		from := &w.ring[n%RingSize]
		rec.Up, rec.Down, rec.Conn, rec.Kind, rec.Errno = from.Up, from.Down, from.Conn, from.Kind, from.Errno
		if atomic.LoadUint32(&w.shared.head)-n < RingSize {
			return true
		}
		r.Lost++ // overwritten while it was read
	}
	return false
}
