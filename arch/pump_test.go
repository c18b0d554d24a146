package arch_test

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"syd/arch"
)

var seedFlag = flag.Uint64("pump.seed", 0, "seed of the pump's random test; 0 takes one from the clock")

// must is for calls that cannot fail on a working machine.
func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// await polls until the condition holds; over loopback that takes microseconds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
		time.Sleep(20 * time.Microsecond)
	}
}

// pipes stands among the address families for ends that are pipes. The relay has none such, but only they cut a
// stream the same way each time: sockets do so by timing, and by where in a page the data came to lie.
const pipes = 0

// connect returns both ends of a stream, non-blocking; one that is to be written, if it is a pipe. A narrow one
// takes some ten thousand bytes at most before the far end reads.
func connect(family int, narrow, written bool) (near, far int) {
	if family == pipes {
		size := 256
		if narrow {
			size = 4
		}
		r, w := newPipe(size)
		if written {
			return w, r
		}
		return r, w
	}
	if family == unix.AF_UNIX {
		p := must(unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0))
		if narrow {
			check(unix.SetsockoptInt(p[0], unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<10))
		}
		return p[0], p[1]
	}
	l := must(unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	defer unix.Close(l)
	near = must(unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	if narrow {
		check(unix.SetsockoptInt(l, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<10))
		check(unix.SetsockoptInt(near, unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<10))
	}
	check(unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	check(unix.Listen(l, 1))
	check(unix.Connect(near, must(unix.Getsockname(l))))
	far, _, err := unix.Accept4(l, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	check(err)
	check(unix.SetNonblock(near, true))
	for _, fd := range []int{near, far} {
		check(unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	}
	return near, far
}

// newPipe returns the ends of a pipe of so many pages.
func newPipe(pages int) (r, w int) {
	var p [2]int
	check(unix.Pipe2(p[:], unix.O_NONBLOCK|unix.O_CLOEXEC))
	must(unix.FcntlInt(uintptr(p[0]), unix.F_SETPIPE_SZ, pages*os.Getpagesize()))
	return p[0], p[1]
}

func waiting(fd int) int { return must(unix.IoctlGetInt(fd, unix.TIOCINQ)) }

func hasEvents(fd int, events int16) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	must(unix.Poll(p, 0))
	return p[0].Revents&events != 0
}

// stream is what all connections carry: its bytes tell their position, so a lost, doubled or moved one shows.
func stream(position int) byte { return byte(position*7 + position>>8*13) }

// rig is one direction under test: peer → src → pipe → dst → sink.
type rig struct {
	pump            func(*arch.Flow) arch.Outcome
	peer, sink      int // -1 once closed
	flow            arch.Flow
	fed, sent, read int // bytes written by peer, delivered to dst, read from sink
}

func newRig(pump func(*arch.Flow) arch.Outcome, from, to int, narrow bool, pages int) *rig {
	r := &rig{pump: pump}
	src, peer := connect(from, false, false)
	dst, sink := connect(to, narrow, true)
	pipeR, pipeW := newPipe(pages)
	r.peer, r.sink = peer, sink
	r.flow = arch.Flow{Src: int32(src), Dst: int32(dst), PipeR: int32(pipeR), PipeW: int32(pipeW)}
	return r
}

func (r *rig) close() {
	for _, fd := range []int{int(r.flow.Src), int(r.flow.Dst), int(r.flow.PipeR), int(r.flow.PipeW), r.peer, r.sink} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// unread is how many bytes wait at src.
func (r *rig) unread() int { return r.fed - r.sent - int(r.flow.Held) }

func (r *rig) feed(t *testing.T, sizes []int) {
	for _, n := range sizes {
		b := make([]byte, n)
		for i := range b {
			b[i] = stream(r.fed + i)
		}
		if got := must(unix.Write(r.peer, b)); got != n {
			t.Fatalf("peer wrote %d of %d bytes", got, n)
		}
		r.fed += n
	}
	await(t, "arrival at src", func() bool { return waiting(int(r.flow.Src)) == r.unread() })
}

// take reads up to n bytes at the sink and compares them with the stream.
func (r *rig) take(t *testing.T, n int) {
	b := make([]byte, n)
	n, err := unix.Read(r.sink, b)
	if err == unix.EAGAIN {
		return
	}
	check(err)
	for i, got := range b[:n] {
		if want := stream(r.read + i); got != want {
			t.Fatalf("byte %d of the stream is %#x, want %#x", r.read+i, got, want)
		}
	}
	r.read += n
}

// takeAll reads at the sink what was delivered to dst.
func (r *rig) takeAll(t *testing.T) {
	await(t, "arrival at the sink", func() bool {
		r.take(t, 1<<16)
		return r.read >= r.sent
	})
}

// run pumps once and holds the result against the contract of Pump.
func (r *rig) run(t *testing.T, budget, slots uint32) arch.Outcome {
	t.Helper()
	f := &r.flow
	f.Budget, f.Slots, f.Moved, f.Errno = budget, slots, math.MaxUint32, 0
	before := *f
	o := r.pump(f)
	r.sent += int(f.Moved)
	full := o == arch.Blocked || o == arch.DstFailed
	failed := o == arch.SrcFailed || o == arch.DstFailed
	switch {
	case o > arch.DstFailed:
		t.Errorf("outcome %d: no such", o)
	case full != (f.Held > 0):
		t.Errorf("outcome %d with %d bytes in the pipe", o, f.Held)
	case failed != (f.Errno != 0):
		t.Errorf("outcome %d with errno %d", o, f.Errno)
	case o == arch.Spent && f.Moved < budget:
		t.Errorf("spent after %d of %d bytes", f.Moved, budget)
	case r.unread() < 0:
		t.Errorf("%d bytes more than were fed", -r.unread())
	}
	before.Held, before.Moved, before.Errno = f.Held, f.Moved, f.Errno
	if before != *f {
		t.Errorf("arguments changed: %+v, were %+v", *f, before)
	}
	return o
}

// settle pumps until src has no more, with the sink reading: once as told, then without limits.
func (r *rig) settle(t *testing.T, budget, slots uint32, met func(arch.Outcome)) arch.Outcome {
	wasBlocked := false
	for range 100_000 {
		o := r.run(t, budget, slots)
		met(o)
		rest := o == arch.Ended || o == arch.SrcFailed || o == arch.DstFailed || o == arch.Drained && slots == 0
		if rest || t.Failed() {
			return o
		}
		if o == arch.Blocked && wasBlocked {
			r.takeAll(t)
			await(t, "room at dst", func() bool { return hasEvents(int(r.flow.Dst), unix.POLLOUT) })
		}
		wasBlocked = o == arch.Blocked
		budget, slots = math.MaxUint32, 0
	}
	t.Fatal("the pump does not come to rest")
	return 0
}

// TestPumpAgrees drives Pump and its specification through the same random histories, over real sockets and pipes,
// and compares results and bytes: between pipes each field after each call, between sockets the outcome, the errno and
// the sum of bytes each time that both came to rest.
func TestPumpAgrees(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-pump.seed=%d", seed)
	for _, ends := range []struct {
		name     string
		from, to int
	}{
		{"pipe to pipe", pipes, pipes},
		{"unix to unix", unix.AF_UNIX, unix.AF_UNIX},
		{"unix to tcp", unix.AF_UNIX, unix.AF_INET},
		{"tcp to unix", unix.AF_INET, unix.AF_UNIX},
		{"tcp to tcp", unix.AF_INET, unix.AF_INET},
	} {
		t.Run(ends.name, func(t *testing.T) {
			h := history{from: ends.from, to: ends.to, met: map[string]int{}}
			h.rng = rand.New(rand.NewPCG(seed, uint64(ends.from<<8|ends.to)))
			for i := 0; i < 3000 && (i < 300 || !h.metAll()) && !t.Failed(); i++ {
				h.run(t)
			}
			t.Log(h.met)
			if t.Failed() {
				return
			}
			for _, f := range feats {
				if h.met[f] == 0 && !h.impossible(f) {
					t.Errorf("never met: %s", f)
				}
			}
		})
	}
}

// feats are what the random histories must have met between each two families.
var feats = []string{
	"drained, told by EAGAIN", "drained, told by a short read", "drained through a full pipe", "blocked at once",
	"blocked after some bytes", "ended", "spent", "source reset", "destination gone", "bad source", "bad destination",
}

// history makes random sequences of events and pumps, the same for Pump and its specification.
type history struct {
	rng      *rand.Rand
	from, to int // address families
	met      map[string]int

	pages      int // of the pipe
	ours, spec *rig
}

// impossible tells what no history of these families can meet.
func (h *history) impossible(feat string) bool {
	switch feat {
	case "source reset":
		return h.from == pipes
	case "blocked at once", "blocked after some bytes":
		return h.from == unix.AF_INET && h.to == unix.AF_UNIX && looseUnix()
	}
	return false
}

// looseUnix tells whether splice(2) into a UNIX socket looks at the send buffer only once per 17 fragments, as it did
// until sendpage went (net/unix/af_unix.c unix_stream_sendpage, Linux 6.4). From TCP, where a fragment is up to
// 32 KiB, these histories never come so far; from UNIX sockets, whose fragments are small, they block there too.
func looseUnix() bool {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		panic(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		panic(err)
	}
	return major < 6 || major == 6 && minor < 5
}

func (h *history) metAll() bool {
	for _, f := range feats {
		if h.met[f] == 0 && !h.impossible(f) {
			return false
		}
	}
	return true
}

func (h *history) exact() bool { return h.from == pipes && h.to == pipes }

// both does something to both rigs.
func (h *history) both(do func(*rig)) {
	do(h.ours)
	do(h.spec)
}

func (h *history) run(t *testing.T) {
	h.pages = []int{1, 1, 2, 16, 64}[h.rng.IntN(5)]
	narrow := h.rng.IntN(2) == 0
	h.ours = newRig(arch.Pump, h.from, h.to, narrow, h.pages)
	h.spec = newRig(arch.PumpGeneric, h.from, h.to, narrow, h.pages)
	defer h.both((*rig).close)

	for range 2 + h.rng.IntN(8) {
		if h.ours.unread() < 20_000 && h.rng.IntN(3) > 0 {
			sizes := make([]int, 1+h.rng.IntN(6))
			most := []int{2, 300, 16_000}[h.rng.IntN(3)]
			for i := range sizes {
				sizes[i] = 1 + h.rng.IntN(most)
			}
			h.both(func(r *rig) { r.feed(t, sizes) })
		}
		if h.rng.IntN(3) == 0 {
			n := 1 + h.rng.IntN(20_000)
			h.both(func(r *rig) { r.take(t, n) })
		}
		h.pump(t)
	}
	if h.rng.IntN(2) == 0 {
		h.both(func(r *rig) { r.feed(t, []int{700}) })
	}
	ends[h.rng.IntN(len(ends))](t, h)
	h.pump(t)
	if h.ours.sink < 0 || h.ours.flow.Dst < 0 {
		return
	}
	h.both(func(r *rig) {
		o := r.settle(t, math.MaxUint32, 0, func(arch.Outcome) {})
		r.takeAll(t)
		if (o == arch.Drained || o == arch.Ended) && r.read != r.fed {
			t.Errorf("outcome %d, and %d bytes arrived of %d", o, r.read, r.fed)
		}
	})
}

// ends are the ways in which a history ends, each before its last pump.
var ends = []func(*testing.T, *history){
	func(*testing.T, *history) {},
	func(t *testing.T, h *history) {
		h.both(func(r *rig) {
			if h.from == pipes {
				check(unix.Close(r.peer))
				r.peer = -1
				return
			}
			check(unix.Shutdown(r.peer, unix.SHUT_WR))
			await(t, "end at src", func() bool { return hasEvents(int(r.flow.Src), unix.POLLRDHUP) })
		})
	},
	func(t *testing.T, h *history) { // source reset
		if h.from == pipes {
			return
		}
		h.both(func(r *rig) {
			reset(&r.peer, int(r.flow.Src))
			await(t, "reset at src", func() bool { return hasEvents(int(r.flow.Src), unix.POLLERR|unix.POLLHUP) })
		})
	},
	func(t *testing.T, h *history) { // destination gone
		h.both(func(r *rig) {
			if h.to == pipes {
				check(unix.Close(r.sink))
				r.sink = -1
				return
			}
			reset(&r.sink, int(r.flow.Dst))
			await(t, "reset at dst", func() bool { return hasEvents(int(r.flow.Dst), unix.POLLERR|unix.POLLHUP) })
		})
	},
	func(t *testing.T, h *history) { // bad source
		h.both(func(r *rig) { unix.Close(int(r.flow.Src)); r.flow.Src = -1 })
	},
	func(t *testing.T, h *history) { // bad destination
		h.both(func(r *rig) { unix.Close(int(r.flow.Dst)); r.flow.Dst = -1 })
	},
}

// reset closes fd so that its other end sees a reset: a UNIX socket says so if it held unread bytes.
func reset(fd *int, other int) {
	if _, err := unix.Write(other, []byte{0}); err != unix.EAGAIN { // full: there is something unread
		check(err)
	}
	check(unix.SetsockoptLinger(*fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	check(unix.Close(*fd))
	*fd = -1
}

// pump runs both once, to rest where the kernel's timing has a part in it, and compares them.
func (h *history) pump(t *testing.T) arch.Outcome {
	// As many slots as bytes wait, and one more: the border of what a short read proves.
	border := uint32(h.ours.unread() + h.rng.IntN(2))
	slots := []uint32{0, 0, border, uint32(h.pages), math.MaxUint32}[h.rng.IntN(5)]
	budget := []uint32{0, 1, 1 + uint32(h.rng.IntN(50_000)), 1 << 20, math.MaxUint32}[h.rng.IntN(5)]
	var ours, spec arch.Outcome
	if h.exact() {
		ours, spec = h.ours.run(t, budget, slots), h.spec.run(t, budget, slots)
		h.note(ours, slots)
	} else {
		ours = h.ours.settle(t, budget, slots, func(o arch.Outcome) { h.note(o, slots); slots = 0 })
		spec = h.spec.settle(t, budget, slots, func(arch.Outcome) {})
	}
	a, b := &h.ours.flow, &h.spec.flow
	equal := ours == spec && h.ours.sent == h.spec.sent && a.Errno == b.Errno
	if h.exact() {
		equal = equal && a.Held == b.Held && a.Moved == b.Moved
	}
	if !equal {
		t.Errorf("Pump: outcome %d, %d bytes sent, %+v\nspecification: outcome %d, %d bytes sent, %+v",
			ours, h.ours.sent, *a, spec, h.spec.sent, *b)
	}
	return ours
}

// note counts what an outcome shows.
func (h *history) note(o arch.Outcome, slots uint32) {
	f := &h.ours.flow
	feat := ""
	switch o {
	case arch.Drained:
		switch {
		case slots == math.MaxUint32 && f.Moved > 0:
			feat = "drained, told by a short read"
		case slots == 0 && int(f.Moved) > h.pages<<15: // a slot holds 32 KiB at most
			feat = "drained through a full pipe"
		case slots == 0:
			feat = "drained, told by EAGAIN"
		}
	case arch.Blocked:
		feat = "blocked after some bytes"
		if f.Moved == 0 {
			feat = "blocked at once"
		}
	case arch.Ended:
		feat = "ended"
	case arch.Spent:
		feat = "spent"
	case arch.SrcFailed:
		feat = "source reset"
		if f.Errno == uint32(unix.EBADF) {
			feat = "bad source"
		}
	case arch.DstFailed:
		feat = "destination gone"
		if f.Errno == uint32(unix.EBADF) {
			feat = "bad destination"
		}
	}
	if feat != "" {
		h.met[feat]++
	}
}

// TestPumpGoesOnAfterSignal interrupts both calls of the pump. A splice that waits for a TCP socket with a timeout is
// what a signal ends with EINTR (net/core/sock.c, sock_intr_errno); the relay's sockets never wait.
func TestPumpGoesOnAfterSignal(t *testing.T) {
	// A pump that waits holds its processor, and would hold up the collector for as long.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.NumCPU() + 2))
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	const size = 4096
	patience := unix.Timeval{Sec: 20}
	for name, pump := range map[string]func(*arch.Flow) arch.Outcome{
		"Pump": arch.Pump, "specification": arch.PumpGeneric,
	} {
		r := newRig(pump, unix.AF_INET, unix.AF_INET, true, 16)
		defer r.close()
		f := &r.flow
		f.Budget = math.MaxUint32

		check(unix.SetNonblock(int(f.Src), false))
		check(unix.SetsockoptTimeval(int(f.Src), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience))
		control := interrupted(func() int { return arch.Splice(f.Src, f.PipeW, size) }, func() {})
		if control != -int(unix.EINTR) {
			t.Errorf("control: splice from the source gave %d, want -EINTR", control)
		}
		got := interrupted(func() int { return int(pump(f)) }, func() {
			must(unix.Write(r.peer, make([]byte, size)))
			check(unix.Shutdown(r.peer, unix.SHUT_WR))
		})
		if o := arch.Outcome(got); o != arch.Ended || f.Moved != size {
			t.Errorf("%s: interrupted at the source: outcome %d, errno %d, %d bytes", name, o, f.Errno, f.Moved)
		}

		unread := int(f.Moved)
		for filler := make([]byte, size); ; {
			n, err := unix.Write(int(f.Dst), filler)
			if err == unix.EAGAIN {
				break
			}
			check(err)
			unread += n
		}
		check(unix.SetNonblock(int(f.Dst), false))
		check(unix.SetsockoptTimeval(int(f.Dst), unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience))
		f.Held = uint32(must(unix.Write(int(f.PipeW), make([]byte, size))))
		control = interrupted(func() int { return arch.Splice(f.PipeR, f.Dst, size) }, func() {})
		if control != -int(unix.EINTR) {
			t.Errorf("control: splice to the destination gave %d, want -EINTR", control)
		}
		got = interrupted(func() int { return int(pump(f)) }, func() {
			check(unix.SetNonblock(r.sink, false))
			check(unix.SetsockoptTimeval(r.sink, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
			unread += size
			for b := make([]byte, size); unread > 0; {
				unread -= must(unix.Read(r.sink, b))
			}
		})
		if o := arch.Outcome(got); o != arch.Ended || f.Moved != size {
			t.Errorf("%s: interrupted at the destination: outcome %d, errno %d, %d bytes", name, o, f.Errno, f.Moved)
		}
	}
}

// interrupted runs call, sends its thread signals while it runs, then runs end, and returns what call returned.
func interrupted(call func() int, end func()) int {
	thread, result := make(chan int), make(chan int)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		result <- call()
	}()
	tid := <-thread
	for range 20 {
		select {
		case got := <-result:
			return got
		case <-time.After(2 * time.Millisecond):
			check(unix.Tgkill(unix.Getpid(), tid, unix.SIGURG)) // Go's own, and harmless
		}
	}
	end()
	return <-result
}

// BenchmarkPump compares the assembly with its specification: calls that the kernel refuses at once, which show the
// cost of the code around them, and messages over real sockets, which show what it matters.
func BenchmarkPump(b *testing.B) {
	pumps := []struct {
		name string
		pump func(*arch.Flow) arch.Outcome
	}{{"assembly", arch.Pump}, {"specification", arch.PumpGeneric}}
	for _, p := range pumps {
		b.Run("refused/"+p.name, func(b *testing.B) {
			f := arch.Flow{Src: -1, Budget: math.MaxUint32}
			for b.Loop() {
				p.pump(&f)
			}
		})
	}
	for _, size := range []int{64, 16 << 10} {
		for _, p := range pumps {
			b.Run(fmt.Sprintf("tcp-%d/%s", size, p.name), func(b *testing.B) {
				r := newRig(p.pump, unix.AF_INET, unix.AF_INET, false, 256)
				defer r.close()
				r.flow.Budget, r.flow.Slots = math.MaxUint32, 256
				message := make([]byte, size)
				b.SetBytes(int64(size))
				for b.Loop() {
					must(unix.Write(r.peer, message))
					for moved := 0; moved < size; moved += int(r.flow.Moved) {
						r.pump(&r.flow)
					}
					for n := 0; n < size; {
						if got, err := unix.Read(r.sink, message); err == nil {
							n += got
						}
					}
				}
			})
		}
	}
}
