package relay

import (
	"golang.org/x/sys/unix"

	"syd/arch"
)

// The decisions of the relay: pure functions from state, event and result to state and action. They make no
// system calls, so that a test can ask them anything; the calls that carry them out are in worker.go.

// flags is what the relay knows of one socket and of the direction that starts at it.
type flags uint16

const (
	inUse      flags = 1 << iota // the descriptor belongs to a connection
	upstream                     // it leads to the external address
	registered                   // it is in the epoll set
	watched                      // its registration asks for EPOLLOUT
	joined                       // it is connected: before, a shutdown would abort the connect
	readable                     // bytes, EOF or an error may be waiting
	hangup                       // EOF follows the last byte, and will not be announced again
	failed                       // EPOLLERR was seen
	ended                        // EOF was read
	closed                       // SHUT_WR was done: the peer's EOF was passed on
	blocked                      // the direction from here waits until its peer takes more
	retrying                     // its connect found a full backlog and will be tried again
	queued                       // it is in the ready or in the retry queue; survives the descriptor's reuse
)

// action is what must be done next; zero is nothing.
type action uint8

const (
	doRelease  action = 1 << iota // give the pipe of this direction back
	doWatch                       // ask for EPOLLOUT of the destination
	doShutdown                    // pass EOF on to the destination
	doQueue                       // go on with this direction in the next turn
	doFinish                      // both directions ended: close both sockets
	doReset                       // close both sockets with a reset
	doLastRead                    // before doReset, deliver what the other direction still has
)

// onEvents folds the events of one socket into its flags, and tells whether the connection must be reset: urgent
// data cannot be forwarded, because splice(2) never passes the mark (net/ipv4/tcp.c tcp_splice_read).
//
//go:nosplit
func onEvents(f flags, events uint32) (flags, bool) {
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		f |= readable
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0 {
		f |= hangup
	}
	if events&unix.EPOLLERR != 0 {
		f |= failed
	} else if events&unix.EPOLLOUT != 0 {
		f |= joined
	}
	return f, events&unix.EPOLLPRI != 0
}

// runnable tells whether a direction has anything to do: bytes in its pipe or at its source, and a destination
// that is not known to be full.
//
//go:nosplit
func runnable(f flags, held uint32) bool {
	return f&(inUse|blocked) == inUse && (held > 0 || f&(readable|ended) == readable)
}

// afterPump folds the outcome of a pump into both ends of its direction.
//
//go:nosplit
func afterPump(out arch.Outcome, moved uint32, src, dst flags) (flags, flags, action) {
	if moved > 0 {
		src |= joined
		dst |= joined
	}
	if src&failed != 0 && out != arch.Spent {
		// What was there before the error is delivered as far as it goes; a reset overtakes what is not read.
		return src, dst, doReset
	}
	switch out {
	case arch.Drained:
		return src &^ readable, dst, doRelease
	case arch.Blocked:
		return src | blocked, dst, doWatch
	case arch.Ended:
		src = src&^readable | ended | joined
		return passEnd(src, dst, doRelease)
	case arch.Spent:
		return src, dst, doRelease | doQueue
	case arch.DstFailed:
		if src&dst&joined != 0 {
			return src, dst, doLastRead | doReset
		}
	}
	return src, dst, doReset
}

// passEnd passes the EOF that was read from src on to dst, now or, while dst is still connecting, once it can.
//
//go:nosplit
func passEnd(src, dst flags, a action) (flags, flags, action) {
	switch {
	case src&ended == 0 || dst&closed != 0:
	case dst&ended != 0:
		a |= doFinish // closing says it to both
	case dst&joined == 0:
		a |= doWatch
	default:
		dst |= closed
		a |= doShutdown
	}
	return src, dst, a
}

// verdict is what an errno means for the call that it came from.
type verdict uint8

const (
	goOn     verdict = iota // nothing is wrong
	again                   // nothing to do now; the event will come again
	shortage                // no descriptor, memory or port now: stop accepting until one may be free
	refuse                  // this connection cannot be had
	broken                  // the relay cannot go on at all
)

// onAccept judges accept4(2). The errors of a connection that was waiting show up here too, and are its own. What
// is not known to pass by itself, as a refusal by a security module, is waited out like a shortage: the connection
// stays in the backlog, and trying at once would be a busy loop.
//
//go:nosplit
func onAccept(e int) verdict {
	switch e {
	case 0:
		return goOn
	case int(unix.EAGAIN), int(unix.EINTR), int(unix.ECONNABORTED), int(unix.ECONNRESET), int(unix.ETIMEDOUT), int(unix.EPROTO),
		int(unix.ENOPROTOOPT), int(unix.ENONET), int(unix.ENETDOWN), int(unix.ENETUNREACH), int(unix.EHOSTDOWN), int(unix.EHOSTUNREACH):
		return again
	case int(unix.EBADF), int(unix.EINVAL), int(unix.ENOTSOCK), int(unix.EOPNOTSUPP), int(unix.EFAULT):
		return broken
	}
	return shortage
}

// onConnect judges connect(2). A UNIX socket whose backlog is full gives EAGAIN, and nothing announces a free
// place; TCP gives it, or EADDRNOTAVAIL, when the local ports are used up.
//
//go:nosplit
func onConnect(e int) verdict {
	switch e {
	case 0, int(unix.EINPROGRESS):
		return goOn
	case int(unix.EAGAIN), int(unix.EADDRNOTAVAIL), int(unix.ENOBUFS), int(unix.ENOMEM):
		return shortage
	}
	return refuse
}

// kindOf sorts an errno into the counters' kinds of error.
//
//go:nosplit
func kindOf(e int) int {
	switch e {
	case int(unix.ECONNREFUSED), int(unix.ENOENT):
		return ErrRefused
	case int(unix.ECONNRESET), int(unix.EPIPE):
		return ErrReset
	case int(unix.ETIMEDOUT):
		return ErrTimeout
	case int(unix.ENETUNREACH), int(unix.EHOSTUNREACH), int(unix.ENETDOWN), int(unix.EHOSTDOWN):
		return ErrUnreachable
	case int(unix.EMFILE), int(unix.ENFILE), int(unix.ENOBUFS), int(unix.ENOMEM), int(unix.EAGAIN), int(unix.EADDRNOTAVAIL):
		return ErrShortage
	}
	return ErrOther
}
