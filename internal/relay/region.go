package relay

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"syd/arch"
	"syd/internal/config"
	"syd/internal/policy"
	"syd/internal/vault"
)

// stackSize is ample: the linker holds a nosplit chain below 800 bytes.
const stackSize = 16 << 10

// MinDescriptors is the smallest descriptor limit that a relay can work with: its own four, one connection, and
// room for a pipe and a spare socket.
const MinDescriptors = 16

// maxDescriptors bounds the tables where the descriptor limit is absurd, as it is in some containers.
const maxDescriptors = 1 << 20

// Region is the memory of one relay, mapped by the monitor before the fork. What the relay writes is private to
// it after the fork, but for the shared page and the ring.
type Region struct {
	worker *Worker
	stack  uintptr // the address above the stack
	maps   [][]byte
}

// Plan is what a relay is told at its birth.
type Plan struct {
	Listener, Epoll, Owner, Monitor int // descriptors in the monitor; the relay moves them
	Upstream                        config.Upstream
	Vault                           *vault.Vault
	Descriptors                     int  // the relay's descriptor limit
	Exclusive                       bool // other relays wait on the same listener
	Records                         bool // leave a Record of each event in a connection's life
}

// NewRegion maps and fills the memory of one relay.
func NewRegion(p Plan) (*Region, error) {
	if p.Descriptors < MinDescriptors {
		return nil, fmt.Errorf("a limit of %d descriptors is too low, want at least %d", p.Descriptors, MinDescriptors)
	}
	limit := min(p.Descriptors, maxDescriptors)
	r := &Region{}
	worker, err := r.mmap(unsafe.Sizeof(Worker{}), unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	shared, err := r.mmap(unsafe.Sizeof(Shared{}), unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	sides, err := r.mmap(uintptr(limit)*unsafe.Sizeof(side{}), unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	pipes, err := r.mmap(uintptr(limit/2)*unsafe.Sizeof(pipe{}), unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	if err := r.mapStack(); err != nil {
		return nil, err
	}
	w := (*Worker)(worker)
	r.worker = w
	w.shared = (*Shared)(shared)
	w.sides = unsafe.Slice((*side)(sides), limit)
	w.pipes = unsafe.Slice((*pipe)(pipes), limit/2)
	if p.Records {
		ring, err := r.mmap(RingSize*unsafe.Sizeof(Record{}), unix.MAP_SHARED)
		if err != nil {
			return nil, err
		}
		w.ring = unsafe.Slice((*Record)(ring), RingSize)
	}
	return r, w.init(p, limit)
}

func (w *Worker) init(p Plan, limit int) error {
	page := unix.Getpagesize()
	for w.pageShift = 0; 1<<w.pageShift < page; w.pageShift++ {
	}
	w.addr, w.addrLen = p.Vault.Addr(), p.Vault.AddrLen()
	w.one, w.linger, w.zero = p.Vault.One(), p.Vault.Linger(), p.Vault.Zero()
	w.domain, w.proto = int32(p.Upstream.Family), int32(p.Upstream.Protocol())
	w.keepDescriptors = [4]int32{ListenFD: int32(p.Listener), EpollFD: int32(p.Epoll), OwnerFD: int32(p.Owner), MonitorFD: int32(p.Monitor)}
	w.exclusive = p.Exclusive
	w.largePipe = policy.LargePipe
	w.upstreamProof = true
	if p.Upstream.Family == unix.AF_UNIX {
		w.largePipe = policy.UnixPipe
		w.passRights = hasPassRights()
		w.upstreamProof = w.passRights
	}
	proto, err := unix.GetsockoptInt(p.Listener, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return fmt.Errorf("getsockopt SO_PROTOCOL: %w", err)
	}
	w.clientProof = proto == unix.IPPROTO_TCP

	w.spare, w.idle, w.unused = none, none, none
	w.ready, w.retry = queue{none, none}, queue{none, none}
	w.left = int32(limit) - firstFD
	w.reserve = min(max(int32(limit)/8, 2), 128)
	return nil
}

// hasPassRights tells whether a UNIX socket can refuse descriptors: while it may hold some, a short read proves
// nothing, because splice(2) stops at a buffer that carries them.
func hasPassRights() bool {
	s, err := unix.Socket(unix.AF_UNIX, policy.SocketType, 0)
	if err != nil {
		return false
	}
	defer unix.Close(s)
	return unix.SetsockoptInt(s, unix.SOL_SOCKET, policy.SO_PASSRIGHTS, 0) == nil
}

// mmap maps size bytes for the relay, rounded up to pages.
func (r *Region) mmap(size uintptr, share int) (unsafe.Pointer, error) {
	page := uintptr(unix.Getpagesize())
	size = (size + page - 1) &^ (page - 1)
	m, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, share|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("mmap of %d bytes: %w", size, err)
	}
	r.maps = append(r.maps, m)
	return unsafe.Pointer(&m[0]), nil
}

// mapStack maps the relay's stack between two guard pages.
func (r *Region) mapStack() error {
	page := unix.Getpagesize()
	size := max(stackSize, page)
	m, err := unix.Mmap(-1, 0, size+2*page, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("mmap of the stack: %w", err)
	}
	if err := unix.Mprotect(m[page:page+size], unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return fmt.Errorf("mprotect of the stack: %w", err)
	}
	r.maps = append(r.maps, m)
	const redZone = 64 // room that some ABIs take above the frame of the first function
	r.stack = uintptr(unsafe.Pointer(&m[page])) + uintptr(size) - redZone
	return nil
}

// Worker is the relay's state, for the child.
func (r *Region) Worker() *Worker { return r.worker }

// Stack is the address above the relay's stack.
func (r *Region) Stack() uintptr { return r.stack }

// Shared is the page that the relay reports in.
func (r *Region) Shared() *Shared { return r.worker.shared }

// Limit is how many descriptors the relay counts on.
func (r *Region) Limit() int { return len(r.worker.sides) }

// FilterValues are the addresses and descriptors that the relay's system calls name: its filter allows no others.
func (r *Region) FilterValues() policy.Values {
	w := r.worker
	at := func(p unsafe.Pointer) uint64 { return uint64(uintptr(p)) }
	return policy.Values{
		ListenFD: ListenFD, EpollFD: EpollFD,
		AddrPtr: uint64(w.addr), AddrLen: int(w.addrLen),
		OnePtr: uint64(w.one), LingerPtr: uint64(w.linger), ZeroPtr: uint64(w.zero),
		EventPtr: at(unsafe.Pointer(&w.event)), EventsPtr: at(unsafe.Pointer(&w.events)), PipePtr: at(unsafe.Pointer(&w.ends)),
	}
}

// Maps lists the mappings that the relay needs besides the ELF image and the vault.
func (r *Region) Maps() [][]byte { return r.maps }

// Close unmaps the region, once its relay is gone or never came to be.
func (r *Region) Close() {
	for _, m := range r.maps {
		unix.Munmap(m)
	}
}

// Adopt moves the relay's descriptors to their places and closes all others, so that no splice can name one and
// the count of free descriptors is true.
//
//go:nosplit
func (w *Worker) Adopt() {
	for to := int32(0); to < firstFD; to++ {
		from := w.keepDescriptors[to]
		if from == to {
			continue
		}
		r := arch.Syscall6(unix.SYS_DUP3, uintptr(from), uintptr(to), unix.O_CLOEXEC, 0, 0, 0)
		if e := arch.Errno(r); e != 0 {
			w.fault(FaultAdopt, int(e))
		}
	}
	r := arch.Syscall6(unix.SYS_CLOSE_RANGE, firstFD, uintptr(^uint32(0)), 0, 0, 0, 0)
	if e := arch.Errno(r); e != 0 {
		w.fault(FaultAdopt, int(e))
	}
}
