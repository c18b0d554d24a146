package arch

import "golang.org/x/sys/unix"

// Flow is one direction of one connection for the length of one Pump.
type Flow struct {
	Src, Dst     int32  // sockets, O_NONBLOCK
	PipeR, PipeW int32  // a pipe that holds Held bytes of this direction and nothing else
	Held         uint32 // bytes in the pipe
	Slots        uint32 // a read of fewer bytes proves Src drained; 0 where only EAGAIN and EOF are proof
	Budget       uint32 // bytes after which Pump gives way to other connections
	Moved        uint32 // result: bytes delivered to Dst
	Errno        uint32 // result: the error of SrcFailed and DstFailed
}

// Names that the assembly finds in go_asm.h, which knows the constants of this package alone.
const (
	sysSplice = unix.SYS_SPLICE
	eintr     = int(unix.EINTR)
	eagain    = int(unix.EAGAIN)
)

// Chunk is what one splice asks of a socket: more than any pipe of the relay holds, so the pipe is the bound.
const Chunk = 1 << 20

// Outcome says why a Pump ended, and so what is known of the two sockets and the pipe.
type Outcome uint32

const (
	Drained   Outcome = iota // Src has no more for now; the pipe is empty
	Blocked                  // Dst takes no more for now; the pipe holds Held bytes
	Ended                    // EOF on Src; the pipe is empty, every byte was delivered
	Spent                    // over budget: Src may have more; the pipe is empty
	SrcFailed                // reading Src gave Errno; the pipe is empty
	DstFailed                // writing Dst gave Errno; the pipe holds Held bytes
)

// pumpGeneric moves bytes from Src through the pipe to Dst until one of the outcomes holds. It is the
// specification of the assembly pumps.
//
// The invariant it relies on: the pipe is empty before each read. splice(2) answers EAGAIN both for an empty
// socket and for a pipe with no free slot; with the pipe empty before, it can only be the socket. And each slot
// of a pipe holds at least a byte, so a read of fewer bytes than slots cannot have stopped for want of slots
// (net/ipv4/tcp.c tcp_splice_read, net/core/skbuff.c skb_splice_bits; 660,000 trials on TCP and UNIX sockets).
//
//go:nosplit
func pumpGeneric(f *Flow) Outcome {
	f.Moved = 0
	short := false
	for {
		for f.Held > 0 {
			n := Splice(f.PipeR, f.Dst, f.Held)
			if n > 0 {
				f.Held -= uint32(n)
				f.Moved += uint32(n)
				continue
			}
			switch -n {
			case eintr:
			case eagain:
				return Blocked
			default:
				f.Errno = uint32(-n)
				return DstFailed
			}
		}
		if short {
			return Drained
		}
		if f.Moved >= f.Budget {
			return Spent
		}
		n := Splice(f.Src, f.PipeW, Chunk)
		switch {
		case n > 0:
			f.Held = uint32(n)
			short = uint32(n) < f.Slots
		case n == 0:
			return Ended
		case -n == eintr:
		case -n == eagain:
			return Drained
		default:
			f.Errno = uint32(-n)
			return SrcFailed
		}
	}
}
