package policy

import "golang.org/x/sys/unix"

// Constants of the relay's system calls. The relay passes exactly these; anything else kills it. Each has one
// value on all architectures listed (asm-generic), so that one table serves them.
const (
	AcceptFlags = unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
	SocketType  = unix.SOCK_STREAM | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
	PipeFlags   = unix.O_NONBLOCK | unix.O_CLOEXEC
	SpliceFlags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK

	EventsMax   = 256      // events that one wait returns at most
	RetryMillis = 50       // the one timeout of a wait while something is short
	LargePipe   = 1 << 20  // bytes asked for the first pipes of a relay to a TCP address
	UnixPipe    = 64 << 10 // the same for a UNIX address
	SmallPipe   = 16 << 10 // bytes asked for when pipes are dear

	NodelayLen    = 4 // sizeof(int)
	LingerLen     = 8 // sizeof(struct linger)
	LingerOff     = 8 // the bit by which the address of the vault's struct linger {0, 0} differs from that of its {1, 0}
	PassRightsLen = 4 // sizeof(int)

	// SO_PASSRIGHTS is Linux 6.16's, include/uapi/asm-generic/socket.h. Set to 0, the socket refuses descriptors.
	SO_PASSRIGHTS = 83
)

// Pieces that more than one row needs.
var (
	fcntlRows = func(call string) []Row {
		return []Row{
			{Call: call, Args: []Arg{free("fd"), is("cmd", unix.F_GETPIPE_SZ), free("unused")},
				Why: "what a pipe really holds decides when a short count means drained; the answer is a number"},
			{Call: call, In: only(Inet, Inet6), Args: []Arg{free("fd"), is("cmd", unix.F_SETPIPE_SZ), is("size", LargePipe, SmallPipe)},
				Why: "larger pipes halve the cost per byte; any other command is out, F_SETOWN would aim signals"},
			{Call: call, In: only(Unix), Args: []Arg{free("fd"), is("cmd", unix.F_SETPIPE_SZ), is("size", UnixPipe, SmallPipe)},
				Why: "the default size for bulk, less when pipes are dear; any other command is out, F_SETOWN would aim signals"},
		}
	}
	waitArgs = []Arg{at("epfd", EpollFD), at("events", EventsPtr), is("maxevents", EventsMax),
		// Any other timeout makes the wait a clock.
		int32s("timeout", -1, 0, RetryMillis)}
	waitWhy = "the loop; its own instance into its own array, and no timeout of the caller's choice: that is a timer"
)

// relay is what the relay may do on every architecture, sorted by call. A free argument is one that carries no
// power: a number of a descriptor, all of which are sockets and pipes of this relay.
var relay = []Row{
	{Call: "accept4", Args: []Arg{at("sockfd", ListenFD), null("addr"), null("addrlen"), is("flags", AcceptFlags)},
		Why: "clients arrive at the one listener; the peer's address is of no use here and is not written anywhere"},
	{Call: "close", Args: []Arg{free("fd")},
		Why: "connections and pipes end; closing a wrong one only takes away from the relay"},
	{Call: "connect", Args: []Arg{free("sockfd"), at("addr", AddrPtr), at("addrlen", AddrLen)},
		Why: "to the one upstream: the address lies in sealed, read-only memory, and its length is part of it"},
	{Call: "epoll_ctl", Args: []Arg{at("epfd", EpollFD),
		is("op", unix.EPOLL_CTL_ADD, unix.EPOLL_CTL_DEL, unix.EPOLL_CTL_MOD), free("fd"), at("event", EventPtr)},
		Why: "sockets are watched; the event is read from one place, so no other memory is an argument"},
	{Call: "epoll_wait", Args: waitArgs, Why: waitWhy, Hot: 2},
	{Call: "exit_group", Args: []Arg{free("status")}, Why: "the end, with a status for the monitor"},
	fcntlRows("fcntl")[0],
	fcntlRows("fcntl")[1],
	fcntlRows("fcntl")[2],
	{Call: "pipe2", Args: []Arg{at("pipefd", PipePtr), is("flags", PipeFlags)},
		Why: "bytes pass through a pipe on their way from socket to socket; the numbers are written to one place"},
	{Call: "setsockopt", In: only(Inet, Inet6), Args: []Arg{free("sockfd"), is("level", unix.IPPROTO_TCP),
		is("optname", unix.TCP_NODELAY), at("optval", OnePtr), is("optlen", NodelayLen)},
		Why: "small messages leave at once; only ever on"},
	{Call: "setsockopt", Args: []Arg{free("sockfd"), is("level", unix.SOL_SOCKET),
		is("optname", unix.SO_LINGER), {Name: "optval", Sym: LingerPtr, Mask: ^uint64(LingerOff)}, is("optlen", LingerLen)},
		Why: "{1, 0}: a reset on one side becomes a reset on the other; {0, 0}: and on no other connection, whatever the listener hands down"},
	{Call: "setsockopt", In: only(Unix), Args: []Arg{free("sockfd"), is("level", unix.SOL_SOCKET),
		is("optname", SO_PASSRIGHTS), at("optval", ZeroPtr), is("optlen", PassRightsLen)},
		Why: "the upstream cannot hand the relay descriptors; only ever off"},
	{Call: "shutdown", Args: []Arg{free("sockfd"), is("how", unix.SHUT_WR)},
		Why: "half-close: the end of one direction is passed on"},
	{Call: "socket", In: only(Inet),
		Args: []Arg{is("domain", unix.AF_INET), is("type", SocketType), is("protocol", unix.IPPROTO_TCP)},
		Why:  "one kind of socket, for connect; by name TCP, as 0 would be, but MPTCP or SCTP never"},
	{Call: "socket", In: only(Inet6),
		Args: []Arg{is("domain", unix.AF_INET6), is("type", SocketType), is("protocol", unix.IPPROTO_TCP)},
		Why:  "one kind of socket, for connect; by name TCP, as 0 would be, but MPTCP or SCTP never"},
	{Call: "socket", In: only(Unix),
		Args: []Arg{is("domain", unix.AF_UNIX), is("type", SocketType), is("protocol", 0)},
		Why:  "one kind of socket, for connect"},
	{Call: "splice", Args: []Arg{free("fd_in"), null("off_in"), free("fd_out"), null("off_out"), free("len"),
		is("flags", SpliceFlags)}, Hot: 3,
		Why: "the work: bytes move between socket and pipe inside the kernel; without offsets, which address files"},
}
