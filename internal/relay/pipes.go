package relay

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"syd/arch"
	"syd/internal/policy"
)

// A pipe is lent to a direction from the splice that fills it to the one that empties it. Only a blocked
// destination keeps one for longer, so the pool is as large as the number of stalled directions, plus one.
//
// The first pipes are large, for bulk; the rest are small. Slots, not bytes, bound what a pipe pins: a slot may
// hold a 32 KiB fragment. So stalled readers pin at most maxLarge × 256 × 32 KiB in the large ones, and 128 KiB
// each beyond.
//
// Sizes are wishes: the kernel gives an ordinary user less once his pipes reach fs.pipe-user-pages-soft (pipe(7)).
// A UNIX address gets less because splice from a UNIX stream gains nothing from more, and streams stop being
// served evenly.
const (
	maxLarge = 16 // 16 MiB: a quarter of what pipe-user-pages-soft allows by default
	maxIdle  = 16 // pipes kept in the pool when nobody needs them
)

// none ends a list and marks the absence of a pipe, peer or spare.
const none = -1

type pipe struct {
	r, w  int32
	slots uint32
	next  int32 // in the idle or the unused list
}

// lend gives the direction from s an empty pipe. False: there is none to be had now.
//
//go:nosplit
func (w *Worker) lend(s *side) bool {
	if w.idle == none && !w.makePipe() {
		return false
	}
	s.pipe = w.takeIdle()
	return true
}

// takeIdle takes a pipe out of the pool, which is not empty.
//
//go:nosplit
func (w *Worker) takeIdle() int32 {
	i := w.idle
	w.idle = w.pipes[i].next
	w.counters[PipesIdle]--
	return i
}

// makePipe puts one more pipe into the pool.
//
//go:nosplit
func (w *Worker) makePipe() bool {
	if w.left < 2 {
		return false
	}
	if e := -arch.Pipe2(uintptr(unsafe.Pointer(&w.ends))); e != 0 {
		w.counters[ErrShortage]++
		return false
	}
	w.left -= 2
	i := w.unused
	if i == none {
		i = w.fresh // never used: memory is touched only as far as it is needed
		w.fresh++
	} else {
		w.unused = w.pipes[i].next
	}
	p := &w.pipes[i]
	p.r, p.w = w.ends[0], w.ends[1]
	size := uint32(policy.SmallPipe)
	if w.large < maxLarge {
		size = w.largePipe
	}
	arch.Fcntl(p.w, unix.F_SETPIPE_SZ, uintptr(size))
	p.slots = 0
	if got := arch.Fcntl(p.w, unix.F_GETPIPE_SZ, 0); got > 0 {
		p.slots = uint32(got) >> w.pageShift
	}
	if isLarge(p, w.pageShift) {
		w.large++
	}
	p.next = w.idle
	w.idle = i
	w.counters[Pipes]++
	w.counters[PipesIdle]++
	return true
}

//go:nosplit
func isLarge(p *pipe, pageShift uint32) bool { return p.slots<<pageShift > policy.SmallPipe }

// release takes the pipe of the direction from s back. One that still holds bytes is closed: they must never
// reach another connection.
//
//go:nosplit
func (w *Worker) release(s *side) {
	i := s.pipe
	if i == none {
		return
	}
	empty := s.held == 0
	s.pipe, s.held = none, 0
	w.starving = false
	if empty && w.counters[PipesIdle] < maxIdle {
		w.pipes[i].next = w.idle
		w.idle = i
		w.counters[PipesIdle]++
		return
	}
	w.dropPipe(i)
}

// dropPipe closes a pipe that is in no list.
//
//go:nosplit
func (w *Worker) dropPipe(i int32) {
	p := &w.pipes[i]
	w.close(p.r)
	w.close(p.w)
	if isLarge(p, w.pageShift) {
		w.large--
	}
	p.next = w.unused
	w.unused = i
	w.counters[Pipes]--
}
