// Package relay is the process that touches the network: it accepts connections from one listener and joins
// each to one external address with edge-triggered epoll(7) and splice(2).
//
// It runs without the Go runtime: functions are nosplit, nothing is allocated, no pointer is stored, and all
// state lies in a Region that was mapped before the fork. Payload never enters user space. What it does not do:
// look at the payload, know who connects, or wait for anything but events; at rest it is not woken.
//
// Read decide.go first, then this file, then pipes.go.
package relay

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"syd/arch"
	"syd/internal/policy"
)

// Descriptors of a relay, the same in every one: Adopt moves them there and closes all others.
const (
	ListenFD  = 0 // the listening socket
	EpollFD   = 1 // the relay's own epoll instance
	OwnerFD   = 2 // pidfd of the owner; readable: exit
	MonitorFD = 3 // socket to the monitor; a byte: begin to accept; hang-up: exit
	firstFD   = 4 // everything from here on is made and closed by the relay
)

const (
	// retryTicks bounds how long a connect is tried again while the backlog of a UNIX socket is full: as many times
	// policy.RetryMillis, 5 s. A busy relay has no clock: there busyWaits waits are one part of busyParts of that.
	retryTicks = 100
	busyWaits  = 16
	busyParts  = 16
	// budget is how many bytes a direction may move before others have their turn; at 16 MiB the slowest of 8
	// streams got 3/4 of the fastest, at 1 MiB all are even.
	budget = 1 << 20
)

// side is one socket of a connection, and the direction that starts at it; the table is indexed by descriptor.
// Its size is what an idle connection costs the relay, twice.
type side struct {
	moved uint64 // bytes delivered to the peer
	peer  int32  // the connection's other socket
	pipe  int32  // the pipe lent to this direction, or none
	held  uint32 // bytes in it
	conn  uint32 // number of the connection; events that carry another are of a descriptor closed since
	next  int32  // in the ready or retry queue
	flags flags
	since uint16 // the relay's age when its connect was put off
}

// queue is a list of sides, first in, first out.
type queue struct{ head, tail int32 }

// Worker is the state of one relay. It lies in its Region; its slices point into the same.
type Worker struct {
	flow  arch.Flow       // argument of the pump
	event unix.EpollEvent // argument of epoll_ctl
	ends  [2]int32        // argument of pipe2

	addr, addrLen     uintptr // the external address, in the vault
	one, linger, zero uintptr // values of socket options, in the vault
	domain, proto     int32
	clientProof       bool // a short read from a client proves it drained
	upstreamProof     bool // the same for the external address
	passRights        bool // turn SO_PASSRIGHTS off on the way to the external address
	exclusive         bool // other relays wait on the same listener
	keepDescriptors   [4]int32
	largePipe         uint32
	pageShift         uint32
	reserve           int32 // descriptors that accepting leaves for pipes

	left     int32  // descriptors that can still be made
	spare    int32  // a socket for the next connection, or none
	idle     int32  // pipes at rest
	unused   int32  // pipe records whose pipe was closed
	fresh    int32  // the first pipe record that never had one
	large    int32  // pipes larger than SmallPipe
	ready    queue  // directions that used up their budget, or found no pipe
	retry    queue  // connections whose connect found a full backlog
	started  bool   // the monitor said go
	paused   bool   // the listener is out of the epoll set
	short    bool   // something is short that no event announces
	starving bool   // no pipe can be had until one is released
	busy     uint32 // waits while something was short
	age      uint16 // grows by busyParts in policy.RetryMillis

	counters Counters
	shared   *Shared
	sides    []side
	pipes    []pipe
	ring     []Record
	events   [policy.EventsMax]unix.EpollEvent
}

// Run forwards until the owner or the monitor is gone. It does not return.
//
//go:nosplit
func (w *Worker) Run() {
	w.add(OwnerFD, unix.EPOLLIN, OwnerFD)
	w.add(MonitorFD, unix.EPOLLIN, MonitorFD)
	w.shared.Stage = uint32(Confined)
	arch.Shutdown(MonitorFD) // tells the monitor to look at the page
	for {
		w.publish()
		pending, timeout := w.pending(), w.timeout()
		n := arch.EpollWait(EpollFD, uintptr(unsafe.Pointer(&w.events)), policy.EventsMax, timeout)
		w.counters[Wakeups]++
		if n < 0 && -n != int(unix.EINTR) {
			w.fault(FaultEpoll, -n)
		}
		for i := 0; i < n && i < policy.EventsMax; i++ {
			w.dispatch(&w.events[i])
		}
		if pending {
			w.tick(timeout > 0 && n == 0)
		}
		w.turn()
		if !w.short {
			w.resume()
		}
	}
}

// timeout is how long epoll_wait may sleep: for ever, unless work is queued or something is short that no event
// announces.
//
//go:nosplit
func (w *Worker) timeout() int32 {
	switch {
	case w.ready.head != none && !w.starving:
		return 0
	case w.pending():
		return policy.RetryMillis
	}
	return -1
}

// pending tells whether something waits that no event announces.
//
//go:nosplit
func (w *Worker) pending() bool { return w.short || w.starving || w.retry.head != none }

// tick tries again what no event announces: after policy.RetryMillis all of it, on a busy relay some of it now and then,
// so that neither an idle relay nor a busy one leaves it waiting.
//
//go:nosplit
func (w *Worker) tick(elapsed bool) {
	w.busy++
	switch {
	case elapsed:
		w.age += busyParts
	case w.busy%busyWaits == 0:
		w.age++
	default:
		return
	}
	w.short, w.starving = false, false
	w.resume()
	last := w.retry.tail
	for w.retry.head != none {
		fd := w.retry.head
		w.reconnect()
		if fd == last || !elapsed && w.retry.tail == fd {
			break // all were tried, or a busy relay found that nothing changed
		}
	}
}

// turn gives each direction in the ready queue one more budget.
//
//go:nosplit
func (w *Worker) turn() {
	last := w.ready.tail
	for w.ready.head != none && !w.starving {
		fd := w.pop(&w.ready)
		if w.sides[fd].flags&retrying != 0 {
			w.push(&w.retry, fd) // reused since it was queued here
		} else {
			w.drive(fd)
		}
		if fd == last {
			break
		}
	}
}

//go:nosplit
func (w *Worker) dispatch(e *unix.EpollEvent) {
	fd, conn, events := e.Fd, uint32(e.Pad), e.Events
	if fd >= firstFD {
		w.socketEvent(fd, conn, events)
		return
	}
	switch fd {
	case ListenFD:
		w.accept()
	case OwnerFD:
		w.end(OwnerGone)
	case MonitorFD:
		w.monitorEvent(events)
	}
}

// monitorEvent begins to accept when the monitor says go, and ends the relay when the monitor is gone.
//
//go:nosplit
func (w *Worker) monitorEvent(events uint32) {
	if events&unix.EPOLLHUP != 0 || w.started {
		w.fault(FaultHandshake, int(unix.EPIPE))
	}
	w.started, w.paused = true, true
	w.control(unix.EPOLL_CTL_MOD, MonitorFD, 0, MonitorFD) // the byte stays unread; a hang-up is always reported
	w.shared.Stage = uint32(Accepting)
	w.resume()
}

//go:nosplit
func (w *Worker) socketEvent(fd int32, conn, events uint32) {
	s := &w.sides[fd]
	if s.flags&inUse == 0 || s.conn != conn {
		return // of a descriptor closed earlier in this batch, and perhaps used again
	}
	peer := s.peer
	p := &w.sides[peer]
	before := s.flags
	f, urgent := onEvents(before, events)
	s.flags = f
	if urgent {
		w.counters[Urgent]++
		w.reset(fd, int(unix.EPROTO))
		return
	}
	if f&^before&joined != 0 {
		w.record(Connected, conn, 0, 0, 0)
	}
	if f&failed != 0 && (f&ended != 0 || s.held > 0) {
		w.reset(fd, int(unix.ECONNRESET))
		return
	}
	if f&failed != 0 {
		w.release(p) // nobody will take what waits for fd, and its last bytes may need the pipe
	}
	if events&unix.EPOLLOUT != 0 && f&failed == 0 {
		p.flags &^= blocked
		if p.flags&ended != 0 && p.held == 0 {
			var a action
			p.flags, s.flags, a = passEnd(p.flags, s.flags, 0)
			w.carryOut(a, peer, fd)
		} else {
			w.drive(peer)
		}
		if s.conn != conn || s.flags&inUse == 0 {
			return
		}
	}
	w.drive(fd)
}

// drive moves what the direction from fd has, as far as it goes.
//
//go:nosplit
func (w *Worker) drive(fd int32) {
	s := &w.sides[fd]
	if !runnable(s.flags, s.held) {
		return
	}
	out, a, ok := w.pump(fd, s)
	if !ok {
		w.starving = true
		w.push(&w.ready, fd)
		return
	}
	peer := s.peer
	if a&doLastRead != 0 {
		if p := &w.sides[peer]; p.held == 0 && p.flags&(ended|blocked) == 0 {
			errno := int(w.flow.Errno)
			w.release(s)
			w.pump(peer, p)
			w.flow.Errno = uint32(errno)
		}
	}
	if a&doReset != 0 {
		errno := int(unix.ECONNRESET)
		if out == arch.SrcFailed || out == arch.DstFailed {
			errno = int(w.flow.Errno)
		}
		w.reset(fd, errno)
		return
	}
	w.carryOut(a, fd, peer)
}

// pump runs one pump of the direction from fd and folds its outcome into the state. False: there is no pipe.
//
//go:nosplit
func (w *Worker) pump(fd int32, s *side) (arch.Outcome, action, bool) {
	if s.pipe == none && !w.lend(s) {
		return 0, 0, false
	}
	pipe := &w.pipes[s.pipe]
	peer := &w.sides[s.peer]
	f := &w.flow
	f.Src, f.Dst, f.PipeR, f.PipeW = fd, s.peer, pipe.r, pipe.w
	f.Held, f.Budget, f.Slots = s.held, budget, 0
	proof := w.clientProof
	if s.flags&upstream != 0 {
		proof = w.upstreamProof
	}
	if proof && s.flags&(hangup|failed) == 0 {
		f.Slots = pipe.slots
	}
	out := arch.Pump(f)
	s.held = f.Held
	s.moved += uint64(f.Moved)
	if peer.flags&upstream != 0 {
		w.counters[BytesUp] += uint64(f.Moved)
	} else {
		w.counters[BytesDown] += uint64(f.Moved)
	}
	var a action
	before := s.flags & peer.flags & joined
	s.flags, peer.flags, a = afterPump(out, f.Moved, s.flags, peer.flags)
	if before == 0 && s.flags&peer.flags&joined != 0 {
		w.record(Connected, s.conn, 0, 0, 0)
	}
	return out, a, true
}

// carryOut does what the decisions ask for, for the direction from fd to peer.
//
//go:nosplit
func (w *Worker) carryOut(a action, fd, peer int32) {
	if a&doRelease != 0 {
		w.release(&w.sides[fd])
	}
	if a&doFinish != 0 {
		w.finish(fd)
		return
	}
	if a&doWatch != 0 {
		w.watch(peer)
	}
	if a&doShutdown != 0 {
		arch.Shutdown(peer) // fails only on a socket that was reset, which an event tells
	}
	if a&doQueue != 0 {
		w.push(&w.ready, fd)
	}
}

// accept takes one connection from the listener. The socket to the external address comes first, so that a
// shortage is met before a client is taken from the backlog.
//
//go:nosplit
func (w *Worker) accept() {
	if w.paused {
		return // a late event
	}
	if !w.makeRoom() { // pipes took the place
		w.pause(false)
		return
	}
	if w.spare == none {
		r := arch.Socket(w.domain, policy.SocketType, w.proto)
		if r < 0 {
			w.counters[kindOf(-r)]++
			w.pause(true)
			return
		}
		w.left--
		w.spare = int32(r)
		if w.proto == unix.IPPROTO_TCP {
			arch.Setsockopt(w.spare, unix.IPPROTO_TCP, unix.TCP_NODELAY, w.one, 4)
		} else if w.passRights {
			arch.Setsockopt(w.spare, unix.SOL_SOCKET, policy.SO_PASSRIGHTS, w.zero, 4)
		}
	}
	r := arch.Accept4(ListenFD)
	e := 0
	if r < 0 {
		e = -r
	}
	switch onAccept(e) {
	case shortage:
		w.counters[kindOf(e)]++
		w.pause(true)
		return
	case broken:
		w.fault(FaultAccept, e)
	case again:
		return
	}
	w.left--
	if w.exclusive {
		// Another relay that was taken over may have set it on the listener: what is in flight would go with each close.
		arch.Setsockopt(int32(r), unix.SOL_SOCKET, unix.SO_LINGER, w.zero, unix.SizeofLinger)
	}
	w.open(int32(r), w.spare)
	switch {
	case !w.makeRoom():
		w.pause(false)
	case w.exclusive && !w.paused:
		// The kernel wakes the first exclusive waiter: go to the end of the queue.
		w.control(unix.EPOLL_CTL_DEL, ListenFD, 0, ListenFD)
		w.paused = true
		w.resume()
	}
}

// open joins a client to the external address.
//
//go:nosplit
func (w *Worker) open(client, up int32) {
	w.spare = none
	w.counters[Accepted]++
	w.counters[Open]++
	conn := uint32(w.counters[Accepted])
	w.reuse(client, up, conn, inUse|joined)
	w.reuse(up, client, conn, inUse|upstream)
	w.record(Opened, conn, 0, 0, 0)
	w.connect(client, up)
}

// reuse makes the record of a descriptor that of a new connection. A queue may still hold the descriptor.
//
//go:nosplit
func (w *Worker) reuse(fd, peer int32, conn uint32, f flags) {
	s := &w.sides[fd]
	s.moved, s.peer, s.pipe, s.held, s.conn = 0, peer, none, 0, conn
	s.flags = s.flags&queued | f
}

// connect starts the way to the external address. On loopback it is there when connect(2) returns, so if a pipe
// is at hand the client's first bytes go out at once; while it is still connecting they wait in the pipe.
//
//go:nosplit
func (w *Worker) connect(client, up int32) {
	r := arch.Connect(up, w.addr, w.addrLen)
	e := -r
	switch onConnect(e) {
	case shortage:
		w.counters[Retries]++
		if c := &w.sides[client]; c.flags&retrying == 0 {
			c.flags |= retrying
			c.since = w.age
		}
		w.push(&w.retry, client)
		return
	case refuse:
		w.reset(up, e)
		return
	}
	c, u := &w.sides[client], &w.sides[up]
	c.flags &^= retrying
	conn := c.conn
	if e == 0 {
		u.flags |= joined
		w.record(Connected, conn, 0, 0, 0)
	}
	if w.idle != none {
		c.flags |= readable
		w.drive(client)
		if c.conn != conn || c.flags&inUse == 0 {
			return
		}
	}
	if !w.register(client) || !w.register(up) {
		w.reset(client, int(unix.ENOMEM))
		w.pause(true)
	}
}

// reconnect tries the first connection of the retry queue again.
//
//go:nosplit
func (w *Worker) reconnect() {
	client := w.pop(&w.retry)
	s := &w.sides[client]
	if w.age-s.since > retryTicks*busyParts {
		w.reset(s.peer, int(unix.EAGAIN))
		return
	}
	w.connect(client, s.peer)
}

// finish closes a connection whose directions both ended.
//
//go:nosplit
func (w *Worker) finish(fd int32) {
	w.counters[Finished]++
	w.closeBoth(fd, Closed, 0)
}

// reset ends a connection so that both ends see a reset. SO_LINGER with a time of 0 makes close(2) send it
// (socket(7)); a UNIX socket has none to send.
//
//go:nosplit
func (w *Worker) reset(fd int32, errno int) {
	s := &w.sides[fd]
	if s.flags&w.sides[s.peer].flags&joined == 0 {
		w.counters[Refused]++
	} else {
		w.counters[Reset]++
	}
	w.counters[kindOf(errno)]++
	arch.Setsockopt(fd, unix.SOL_SOCKET, unix.SO_LINGER, w.linger, unix.SizeofLinger)
	arch.Setsockopt(s.peer, unix.SOL_SOCKET, unix.SO_LINGER, w.linger, unix.SizeofLinger)
	w.closeBoth(fd, Aborted, errno)
}

//go:nosplit
func (w *Worker) closeBoth(fd int32, kind Kind, errno int) {
	s := &w.sides[fd]
	peer := s.peer
	p := &w.sides[peer]
	up, down := s.moved, p.moved
	if s.flags&upstream != 0 {
		up, down = down, up
	}
	w.record(kind, s.conn, errno, up, down)
	w.release(s)
	w.release(p)
	s.flags &= queued
	p.flags &= queued
	w.close(fd)
	w.close(peer)
	w.counters[Open]--
}

// makeRoom tells whether one more connection fits beside the reserve for pipes, which pipes that are there count
// towards. Pipes that nobody uses give way to it.
//
//go:nosplit
func (w *Worker) makeRoom() bool {
	if w.left+2*int32(w.counters[Pipes]) < w.reserve+2 {
		return false
	}
	for w.left < 2 && w.idle != none {
		w.dropPipe(w.takeIdle())
	}
	return w.left >= 2
}

// pause takes the listener out of the epoll set; clients wait in the backlog. Where the shortage is not the
// relay's own, no event will tell its end, and resume is tried after policy.RetryMillis.
//
//go:nosplit
func (w *Worker) pause(notOurs bool) {
	w.short = w.short || notOurs
	if !w.paused {
		w.control(unix.EPOLL_CTL_DEL, ListenFD, 0, 0)
		w.paused = true
		w.counters[Pauses]++
		if w.exclusive {
			// The wake-up may have been for a client that is still waiting, and only this relay got it. Shutdown for
			// writing changes nothing of a listening socket but wakes all who wait (net/ipv4/af_inet.c inet_shutdown,
			// net/unix/af_unix.c unix_shutdown, Linux 6.18).
			arch.Shutdown(ListenFD)
		}
	}
}

// resume puts the listener back if there is room.
//
//go:nosplit
func (w *Worker) resume() {
	if !w.started || !w.paused || !w.makeRoom() {
		return
	}
	events := uint32(unix.EPOLLIN)
	if w.exclusive {
		events |= unix.EPOLLEXCLUSIVE
	}
	w.paused = w.control(unix.EPOLL_CTL_ADD, ListenFD, events, 0) != 0
	w.short = w.short || w.paused
}

// baseEvents is what every socket is registered for, once.
const baseEvents = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET

//go:nosplit
func (w *Worker) register(fd int32) bool {
	s := &w.sides[fd]
	events := uint32(baseEvents)
	if s.flags&watched != 0 {
		events |= unix.EPOLLOUT
	}
	s.flags |= registered
	return w.control(unix.EPOLL_CTL_ADD, fd, events, s.conn) == 0
}

// watch asks for EPOLLOUT from fd's first blocked write on. EPOLL_CTL_MOD looks at the socket again, so a write
// that became possible meanwhile is reported.
//
//go:nosplit
func (w *Worker) watch(fd int32) {
	s := &w.sides[fd]
	if s.flags&watched != 0 {
		return
	}
	s.flags |= watched
	if s.flags&registered != 0 {
		w.control(unix.EPOLL_CTL_MOD, fd, baseEvents|unix.EPOLLOUT, s.conn)
	}
}

// add registers one of the relay's own descriptors.
//
//go:nosplit
func (w *Worker) add(fd int32, events, conn uint32) {
	if e := w.control(unix.EPOLL_CTL_ADD, fd, events, conn); e != 0 {
		w.fault(FaultEpoll, e)
	}
}

// control is epoll_ctl(2); it returns the errno.
//
//go:nosplit
func (w *Worker) control(op, fd int32, events, conn uint32) int {
	w.event.Events, w.event.Fd, w.event.Pad = events, fd, int32(conn)
	return -arch.EpollCtl(EpollFD, op, fd, uintptr(unsafe.Pointer(&w.event)))
}

//go:nosplit
func (w *Worker) close(fd int32) {
	arch.Close(fd)
	w.left++
}

// push appends fd to q, unless a queue holds it already.
//
//go:nosplit
func (w *Worker) push(q *queue, fd int32) {
	s := &w.sides[fd]
	if s.flags&queued != 0 {
		return
	}
	s.flags |= queued
	s.next = none
	if q.head == none {
		q.head = fd
	} else {
		w.sides[q.tail].next = fd
	}
	q.tail = fd
}

// pop takes the first of q, which is not empty.
//
//go:nosplit
func (w *Worker) pop(q *queue) int32 {
	fd := q.head
	s := &w.sides[fd]
	q.head = s.next
	s.flags &^= queued
	return fd
}

// end publishes the last counters and exits.
//
//go:nosplit
func (w *Worker) end(stage Stage) {
	w.publish()
	w.shared.Stage = uint32(stage)
	arch.Exit(0)
}

//go:nosplit
func (w *Worker) fault(f Fault, errno int) {
	w.shared.Fault, w.shared.FaultErrno = uint32(f), uint32(errno)
	w.end(Faulted)
}
