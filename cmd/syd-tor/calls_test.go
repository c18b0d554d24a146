package main

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"syd/internal/policy"
)

// tracer counts the system calls of a process from outside (ptrace(2)).
type tracer struct {
	pid    int
	gate   sync.Mutex    // whoever holds it keeps the process from entering epoll_wait, and from leaving it
	pause  time.Duration // the process enters epoll_wait so much later: time for others to answer it
	counts map[uint64]int
	waits  bool // the last call was epoll_wait
	stop   atomic.Bool
	done   chan error
}

// trace begins to count; it returns once the process is being traced.
func trace(t *testing.T, pid int, pause time.Duration) *tracer {
	t.Helper()
	tr := &tracer{pid: pid, pause: pause, counts: map[uint64]int{}, done: make(chan error, 1)}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // ptrace knows the thread
		defer runtime.UnlockOSThread()
		tr.done <- tr.run(ready)
	}()
	if err := <-ready; err != nil {
		t.Fatalf("ptrace of %d: %v", pid, err)
	}
	return tr
}

// ptraceEntry is the part of struct ptrace_syscall_info that a stop at the entry of a call fills.
type ptraceEntry struct {
	op   uint8
	_    [3]uint8
	arch uint32
	ip   uint64
	sp   uint64
	nr   uint64
	args [6]uint64
}

const (
	ptraceGetSyscallInfo = 0x420e // PTRACE_GET_SYSCALL_INFO (include/uapi/linux/ptrace.h, Linux 5.3)
	syscallInfoEntry     = 1      // PTRACE_SYSCALL_INFO_ENTRY
)

// The tracer looks again after the shortest time, and while nothing happens ever later, or it would leave the processor
// to nobody else where there is but one.
const (
	shortest = 20 * time.Microsecond
	longest  = 2 * time.Millisecond
)

func (tr *tracer) run(ready chan<- error) error {
	// PTRACE_O_TRACESYSGOOD tells the stops of calls from those of signals.
	if _, _, e := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tr.pid), 0, unix.PTRACE_O_TRACESYSGOOD, 0, 0); e != 0 {
		ready <- e
		return e
	}
	if err := unix.PtraceInterrupt(tr.pid); err != nil {
		ready <- err
		return err
	}
	ready <- nil
	interrupted, idle := true, shortest
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(tr.pid, &status, unix.WALL|unix.WNOHANG, nil)
		stop := tr.stop.Load()
		switch {
		case err != nil:
			return fmt.Errorf("wait4: %w", err)
		case pid == 0:
			if stop && !interrupted {
				interrupted = true
				if err := unix.PtraceInterrupt(tr.pid); err != nil {
					return fmt.Errorf("ptrace: %w", err)
				}
			}
			time.Sleep(idle) // a blocking wait could not be told to stop
			idle = min(2*idle, longest)
			continue
		case !status.Stopped():
			return fmt.Errorf("the traced process ended: %v", status)
		case stop:
			return unix.PtraceDetach(tr.pid)
		}
		interrupted, idle = false, shortest
		if status.StopSignal() == unix.SIGTRAP|0x80 {
			tr.count()
		}
		if err := unix.PtraceSyscall(tr.pid, 0); err != nil {
			return fmt.Errorf("ptrace: %w", err)
		}
	}
}

func (tr *tracer) count() {
	var info ptraceEntry
	_, _, e := unix.RawSyscall6(unix.SYS_PTRACE, ptraceGetSyscallInfo, uintptr(tr.pid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if e != 0 {
		return
	}
	enters := info.op == syscallInfoEntry
	if enters {
		tr.counts[info.nr]++
		tr.waits = info.nr == sysWait
	}
	if !tr.waits {
		return
	}
	tr.gate.Lock()
	tr.gate.Unlock() //lint:ignore SA2001 passing the gate is all
	if enters {
		time.Sleep(tr.pause)
	}
}

// end stops counting and returns how often each call was entered.
func (tr *tracer) end(t *testing.T) map[uint64]int {
	t.Helper()
	tr.stop.Store(true)
	if err := <-tr.done; err != nil {
		t.Fatal(err)
	}
	return tr.counts
}

// sysWait is what the relay waits with: epoll_wait(2), or epoll_pwait(2) where there is no other.
var sysWait = func() uint64 {
	a, _ := policy.ArchOf(runtime.GOARCH)
	for _, call := range []string{"epoll_wait", "epoll_pwait"} {
		if n, ok := policy.Number(a, call); ok {
			return uint64(n)
		}
	}
	panic("no call to wait with")
}()

func tracedForwarder(t *testing.T) (*forwarder, *tracer) {
	upstream, opt := families[0].listen(t)
	go echo(upstream)
	f := startForwarder(t, append(opt, "-d")...)
	if _, err := ask(f.addr, "warm"); err != nil {
		t.Fatal(err)
	}
	f.settled("open", 0)
	return f, trace(t, f.relays()[0], 5*time.Millisecond)
}

// TestCallsPerMessage holds the price of a small message: a wait and two splices, nothing else.
func TestCallsPerMessage(t *testing.T) {
	requireTracing(t)
	const trips = 200
	upstream, opt := families[0].listen(t)
	go echo(upstream)
	f := startForwarder(t, append(opt, "-d")...)
	c := f.dial()
	defer c.Close()
	b := make([]byte, 64)
	trip := func() {
		c.Write(b)
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
	}
	trip()
	tr := trace(t, f.relays()[0], 0)
	for range trips {
		trip()
	}
	counts := tr.end(t)
	splices, waits := counts[unix.SYS_SPLICE], counts[sysWait]
	other := 0
	for _, n := range counts {
		other += n
	}
	other -= splices + waits
	// One more splice where the trace began, or ended, inside a message.
	if splices < 4*trips-2 || splices > 4*trips+2 || other != 0 || waits > 2*trips+2 {
		t.Errorf("%d round trips: %d splices, %d waits, %d other calls, want %d, at most %d, none: %v", trips, splices, waits, other, 4*trips, 2*trips, counts)
	}
}

// TestCallsPerConnection holds the price of a connection that asks once: 15 calls and the waits between them.
func TestCallsPerConnection(t *testing.T) {
	requireTracing(t)
	const connections = 50
	f, tr := tracedForwarder(t)
	b := make([]byte, 64)
	for range connections {
		tr.gate.Lock() // the request is there before the relay looks, as under load
		c := f.dial()
		c.Write(b)
		tr.gate.Unlock()
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		c.CloseWrite()
		io.ReadAll(c)
		c.Close()
	}
	f.settled("open", 0)
	counts := tr.end(t)
	calls := 0
	for nr, n := range counts {
		if nr != sysWait {
			calls += n
		}
	}
	// A reply that comes later than usual costs a read that finds nothing, or a wait; one more each would be five
	// times that.
	if calls < 15*connections || calls > 15*connections+connections/5 {
		t.Errorf("%d calls for %d connections, want 15 each: %v", calls, connections, counts)
	}
	if waits := counts[sysWait]; waits > 4*connections+connections/5 {
		t.Errorf("%d waits for %d connections, want at most 4 each", waits, connections)
	}
}

// requireTracing skips the test where ptrace(2) is not there at all: under user emulation.
func requireTracing(t *testing.T) {
	t.Helper()
	if _, _, e := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, 0, 0, 0, 0, 0); e == unix.ENOSYS {
		t.Skip("no ptrace: user emulation")
	}
}
