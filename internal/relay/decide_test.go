package relay

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"syd/arch"
)

func TestSideSize(t *testing.T) {
	if size := unsafe.Sizeof(side{}); size != 32 {
		t.Errorf("a descriptor costs %d bytes, want 32", size)
	}
}

func TestOnEvents(t *testing.T) {
	for _, c := range []struct {
		name   string
		before flags
		events uint32
		after  flags
		urgent bool
	}{
		{"bytes", inUse, unix.EPOLLIN, inUse | readable, false},
		{"bytes and FIN in one edge", inUse, unix.EPOLLIN | unix.EPOLLRDHUP, inUse | readable | hangup, false},
		{"hang-up alone", inUse, unix.EPOLLHUP, inUse | readable | hangup, false},
		{"connected", inUse | upstream, unix.EPOLLOUT, inUse | upstream | joined, false},
		{"refused", inUse | upstream, unix.EPOLLOUT | unix.EPOLLERR | unix.EPOLLHUP, inUse | upstream | readable | hangup | failed, false},
		{"urgent data", inUse, unix.EPOLLIN | unix.EPOLLPRI, inUse | readable, true},
		{"nothing", inUse | blocked, 0, inUse | blocked, false},
	} {
		if f, urgent := onEvents(c.before, c.events); f != c.after || urgent != c.urgent {
			t.Errorf("%s: %b, %v, want %b, %v", c.name, f, urgent, c.after, c.urgent)
		}
	}
}

func TestAfterPump(t *testing.T) {
	const client, up = inUse | joined | readable, inUse | upstream
	for _, c := range []struct {
		name     string
		out      arch.Outcome
		moved    uint32
		src, dst flags
		src2     flags
		dst2     flags
		action   action
	}{
		{"drained", arch.Drained, 5, client, up, inUse | joined, up | joined, doRelease},
		{"nothing there", arch.Drained, 0, client, up, inUse | joined, up, doRelease},
		{"blocked while connecting", arch.Blocked, 0, client, up, client | blocked, up, doWatch},
		{"over budget", arch.Spent, 9, client, up, client, up | joined, doRelease | doQueue},
		{"EOF", arch.Ended, 5, client, up, inUse | joined | ended, up | joined | closed, doRelease | doShutdown},
		{"EOF while connecting", arch.Ended, 0, client, up, inUse | joined | ended, up, doRelease | doWatch},
		{"EOF after the other's", arch.Ended, 0, client, up | joined | ended, inUse | joined | ended, up | joined | ended, doRelease | doFinish},
		{"EOF from the external address proves the connect", arch.Ended, 0, up | readable, inUse | joined, up | joined | ended, inUse | joined | closed, doRelease | doShutdown},
		{"read error", arch.SrcFailed, 0, client, up, client, up, doReset},
		{"write error", arch.DstFailed, 0, client, up | joined, client, up | joined, doLastRead | doReset},
		{"refused, seen by the write", arch.DstFailed, 0, client, up, client, up, doReset},
		{"blocked after an error", arch.Blocked, 1, client | failed, up | joined, client | failed, up | joined, doReset},
		{"drained after an error", arch.Drained, 1, client | failed, up | joined, client | failed, up | joined, doReset},
		{"more to deliver after an error", arch.Spent, 1, client | failed, up | joined, client | failed, up | joined, doRelease | doQueue},
	} {
		src, dst, a := afterPump(c.out, c.moved, c.src, c.dst)
		if src != c.src2 || dst != c.dst2 || a != c.action {
			t.Errorf("%s: %b %b %b, want %b %b %b", c.name, src, dst, a, c.src2, c.dst2, c.action)
		}
	}
}

// TestPassEndOnce goes through all pairs of flags: EOF is passed on once, never before it was read, never to a
// socket that is still connecting, and a connection is finished only when both ended.
func TestPassEndOnce(t *testing.T) {
	for src := range flags(1 << 13) {
		for _, dst := range []flags{inUse, inUse | joined, inUse | joined | closed, inUse | ended | joined, inUse | ended | joined | closed, inUse | upstream} {
			_, dst2, a := passEnd(src, dst, 0)
			shut := a&doShutdown != 0
			switch {
			case shut && (src&ended == 0 || dst&closed != 0 || dst&joined == 0):
				t.Fatalf("src %b dst %b: shutdown", src, dst)
			case shut != (dst2&closed != dst&closed):
				t.Fatalf("src %b dst %b: shutdown %v, and closed went from %b to %b", src, dst, shut, dst&closed, dst2&closed)
			case a&doFinish != 0 && (src&ended == 0 || dst&ended == 0):
				t.Fatalf("src %b dst %b: finished", src, dst)
			case src&ended != 0 && dst&(joined|closed) == 0 && dst&ended == 0 && a&doWatch == 0:
				t.Fatalf("src %b dst %b: nobody will pass the end on", src, dst)
			}
		}
	}
}

func TestRunnable(t *testing.T) {
	for _, c := range []struct {
		f    flags
		held uint32
		want bool
	}{
		{inUse | readable, 0, true},
		{inUse, 7, true},
		{inUse, 0, false},
		{inUse | readable | ended, 0, false},
		{inUse | readable | blocked, 7, false},
		{readable, 7, false},
	} {
		if got := runnable(c.f, c.held); got != c.want {
			t.Errorf("runnable(%b, %d) = %v, want %v", c.f, c.held, got, c.want)
		}
	}
}

// TestVerdicts asks every errno for its verdict: none is left to chance, and shortage never counts as refusal.
func TestVerdicts(t *testing.T) {
	// accept(2), ERRORS: those of the connection that waited, and those that tell to try again.
	acceptAgain := map[unix.Errno]bool{unix.EAGAIN: true, unix.EINTR: true, unix.ECONNABORTED: true, unix.ECONNRESET: true, unix.ETIMEDOUT: true,
		unix.EPROTO: true, unix.ENOPROTOOPT: true, unix.ENONET: true, unix.ENETDOWN: true, unix.ENETUNREACH: true, unix.EHOSTDOWN: true, unix.EHOSTUNREACH: true}
	acceptBroken := map[unix.Errno]bool{unix.EBADF: true, unix.EINVAL: true, unix.ENOTSOCK: true, unix.EOPNOTSUPP: true, unix.EFAULT: true}
	connectShort := map[unix.Errno]bool{unix.EAGAIN: true, unix.EADDRNOTAVAIL: true, unix.ENOBUFS: true, unix.ENOMEM: true}
	for e := unix.Errno(1); e < 134; e++ {
		want := shortage
		if acceptAgain[e] {
			want = again
		} else if acceptBroken[e] {
			want = broken
		}
		if got := onAccept(int(e)); got != want {
			t.Errorf("onAccept(%v) = %d, want %d", e, got, want)
		}
		want = refuse
		if connectShort[e] {
			want = shortage
		} else if e == unix.EINPROGRESS {
			want = goOn
		}
		if got := onConnect(int(e)); got != want {
			t.Errorf("onConnect(%v) = %d, want %d", e, got, want)
		}
		if k := kindOf(int(e)); k < ErrRefused || k > ErrOther {
			t.Errorf("kindOf(%v) = %d", e, k)
		}
	}
	if onAccept(0) != goOn || onConnect(0) != goOn {
		t.Error("success is not goOn")
	}
}

// TestQueues checks order, that a descriptor is in one queue at most, and that reuse does not lose it.
func TestQueues(t *testing.T) {
	w := &Worker{sides: make([]side, 16), ready: queue{none, none}, retry: queue{none, none}}
	for _, fd := range []int32{5, 6, 5, 7} {
		w.push(&w.ready, fd)
	}
	w.push(&w.retry, 6) // it waits in the other queue
	w.reuse(6, 7, 1, inUse|retrying)
	for _, want := range []int32{5, 6, 7} {
		if got := w.pop(&w.ready); got != want {
			t.Fatalf("pop = %d, want %d", got, want)
		}
	}
	if w.ready.head != none || w.retry.head != none {
		t.Errorf("heads %d and %d, want none", w.ready.head, w.retry.head)
	}
	w.push(&w.ready, 9)
	if w.pop(&w.ready) != 9 {
		t.Error("a queue that was emptied does not fill again")
	}
}

func TestSnapshotIsWhole(t *testing.T) {
	s := &Shared{}
	w := &Worker{shared: s, sides: make([]side, 1)}
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for i := range uint64(20000) {
			for j := range w.counters {
				w.counters[j] = i
			}
			w.counters[Descriptors] = 0
			w.publish()
		}
	}()
	var c Counters
	for {
		for !s.Snapshot(&c) {
		}
		for i := range Descriptors {
			if c[i] != c[0] {
				t.Fatalf("counter %d is %d where the first is %d", i, c[i], c[0])
			}
		}
		select {
		case <-stop:
			return
		default:
		}
	}
}

// TestRecordsOfFullRing checks that the record in the place that is written next is not read: it may be half new.
func TestRecordsOfFullRing(t *testing.T) {
	w := &Worker{shared: &Shared{}, ring: make([]Record, RingSize)}
	r := &Region{worker: w}
	for conn := range uint32(RingSize) {
		w.record(Opened, conn, 0, 0, 0)
	}
	w.ring[0].Conn = 1 << 20 // the next record is being written
	want := uint32(1)
	reader := r.Reader()
	reader.Begin()
	for rec := (Record{}); reader.Next(&rec); want++ {
		if rec.Conn != want {
			t.Errorf("record of connection %d, want %d", rec.Conn, want)
		}
	}
	if reader.Lost != 1 || want != RingSize {
		t.Errorf("lost %d, read up to %d, want 1 and %d", reader.Lost, want, RingSize)
	}
}
