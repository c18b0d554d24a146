package arch

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A process leaves the Go runtime without a fork as well: Catch takes the signals that matter away from the runtime,
// Leave is the way out, and Alone ends the runtime's other threads. What runs from then on is nosplit, as after Fork.

// caught has a byte for each signal that the handler catch has seen.
var caught [65]uint8

// handlers returns the addresses of two signal handlers: catch sets the signal's byte in caught, and leave ends the
// thread that it runs on.
func handlers() (catch, leave uintptr)

// sigsetSize is sizeof(sigset_t) as the kernel counts: _NSIG/8.
const sigsetSize = 8

// Catch has s noted for Caught from now on, on whichever thread it arrives, in place of what the runtime did with it.
func Catch(s syscall.Signal) error {
	catch, _ := handlers()
	return handle(s, catch)
}

// Default lets the kernel do with s what it does by itself, signal(7).
func Default(s syscall.Signal) error { return handle(s, 0) }

// sigaction is room for the kernel's struct sigaction (include/linux/signal_types.h): four words or five. The handler
// comes first on every architecture here.
type sigaction [8]uintptr

// actionOf returns an action with that handler. All else is as the runtime has it for SIGURG, by which it preempts: the
// stack of signals, all of them blocked meanwhile, calls restarted, and the way back.
func actionOf(handler uintptr) (a sigaction, err error) {
	_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGURG), 0, uintptr(unsafe.Pointer(&a)), sigsetSize, 0, 0)
	if e != 0 {
		return a, e
	}
	a[0] = handler
	return a, nil
}

func handle(s syscall.Signal, handler uintptr) error {
	a, err := actionOf(handler)
	if err != nil {
		return err
	}
	if _, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&a)), 0, sigsetSize, 0, 0); e != 0 {
		return e
	}
	return nil
}

// Caught tells whether s was caught since it was last asked.
//
//go:nosplit
func Caught(s syscall.Signal) bool {
	was := caught[s] != 0
	caught[s] = 0
	return was
}

// leaveSignal ends threads: one that the runtime never blocks on any of them, whatever the mask that the program
// inherited (runtime/sigtab_linux_generic.go, _SigUnblock).
const leaveSignal = unix.SIGPROF

// leaving is what Alone has done with leaveSignal.
var leaving sigaction

// OpenTasks makes ready what Alone needs, and returns the descriptor of the list of this process's threads.
func OpenTasks() (int, error) {
	_, leave := handlers()
	var err error
	if leaving, err = actionOf(leave); err != nil {
		return -1, err
	}
	return unix.Open("/proc/self/task", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// How long Alone waits for threads to end: in turns of a tenth of a millisecond, up to 50 ms in which the list does
// not change. A thread that is still in it then has its signal before it, and runs nothing else any more; or it is
// the emulator's own, where an emulator runs the program.
const (
	leaveTurn  = 100_000 // nanoseconds
	leaveTurns = 500
)

// direntsSize holds the directory entries of 64 threads; there is another read for more.
const direntsSize = 2048

var (
	dirents [direntsSize]byte
	turn    [2]int // what Poll waits
)

// Leave blocks all signals on this thread and holds the runtime to it. The caller must be nosplit, as all that it
// calls from then on; it never returns.
//
// Requires: the main thread, see Fork.
//
//go:nosplit
func Leave() { beforeFork() }

// Alone ends all threads but this one, and closes tasks, which came from OpenTasks. Until then leaveSignal does what it
// always did: it may come from anywhere, at any time.
//
// Requires: Leave.
//
//go:nosplit
//go:norace
func Alone(tasks int) {
	Syscall6(unix.SYS_RT_SIGACTION, uintptr(leaveSignal), uintptr(unsafe.Pointer(&leaving)), 0, sigsetSize, 0, 0)
	self := Syscall6(unix.SYS_GETPID, 0, 0, 0, 0, 0, 0)
	before, same := uintptr(0), 0
	for same < leaveTurns {
		others, sum := signalOthers(uintptr(tasks), self)
		if others == 0 {
			break
		}
		if sum != before {
			before, same = sum, 0
		}
		same++
		turn[0], turn[1] = 0, leaveTurn
		Poll(0, 0, uintptr(unsafe.Pointer(&turn)), 0)
	}
	Close(int32(tasks))
}

// signalOthers sends leaveSignal to every thread in the list but self, and returns their number and the sum of theirs.
//
//go:nosplit
func signalOthers(tasks, self uintptr) (others int, sum uintptr) {
	const (
		reclen = 16 // struct linux_dirent64, getdents(2): where the length of the entry is, and where its name begins
		name   = 19
	)
	Syscall6(unix.SYS_LSEEK, tasks, 0, unix.SEEK_SET, 0, 0, 0)
	for {
		n := int(Syscall6(unix.SYS_GETDENTS64, tasks, uintptr(unsafe.Pointer(&dirents)), direntsSize, 0, 0, 0))
		if n <= 0 {
			return others, sum
		}
		for at := 0; at+name < n && n <= direntsSize; {
			tid := uintptr(0)
			for i := at + name; i < n && dirents[i] >= '0' && dirents[i] <= '9'; i++ {
				tid = tid*10 + uintptr(dirents[i]-'0')
			}
			if tid != 0 && tid != self {
				Syscall6(unix.SYS_TGKILL, self, tid, uintptr(leaveSignal), 0, 0, 0)
				others++
				sum += tid
			}
			at += int(dirents[at+reclen]) | int(dirents[at+reclen+1])<<8
		}
	}
}

// Poll is ppoll(2): count struct pollfd at fds, the time to wait at timeout, and at mask the signals that are blocked
// meanwhile; 0 for either is none. The time is two words, seconds and nanoseconds, and the kernel leaves there what
// was left of it (include/uapi/linux/time_types.h, __kernel_old_timespec). It returns the raw result.
//
//go:nosplit
//go:noinline
func Poll(fds, count, timeout, mask uintptr) int {
	return int(Syscall6(unix.SYS_PPOLL, fds, count, timeout, mask, sigsetSize, 0))
}

// Wait4 is wait4(2) without resource usage. It returns the raw result.
//
//go:nosplit
//go:noinline
func Wait4(pid int32, status, options uintptr) int {
	return int(Syscall6(unix.SYS_WAIT4, uintptr(pid), status, options, 0, 0, 0))
}

// Write is write(2). It returns the raw result.
//
//go:nosplit
//go:noinline
func Write(fd int32, buf, count uintptr) int {
	return int(Syscall6(unix.SYS_WRITE, uintptr(fd), buf, count, 0, 0, 0))
}
