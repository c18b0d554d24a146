// Package arch holds what differs per CPU: raw system calls, the two ways out of the Go runtime (the fork of the relay,
// and Alone), and the pump.
//
// What is nosplit here runs where no Go runtime is left: it allocates nothing, takes no locks and never enters the
// scheduler. It guarantees nothing about arguments: a wrong pointer is the kernel's EFAULT.
//
// A new architecture is one sys_ARCH.s (Syscall6, rawFork, two signal handlers) and one pump_ARCH.s; without the latter
// it builds with the tag purego.
package arch

import (
	"syscall"
	_ "unsafe" // for go:linkname
)

// maxErrno is the largest errno that a system call returns, negated (include/linux/err.h).
const maxErrno = 4095

// Syscall6 enters the kernel and returns what it left in the result register: a value, or -errno.
//
//go:noescape
func Syscall6(nr, a1, a2, a3, a4, a5, a6 uintptr) uintptr

// Errno returns the error in a raw result, 0 for success.
//
//go:nosplit
func Errno(r uintptr) syscall.Errno {
	if r > ^uintptr(maxErrno) {
		return syscall.Errno(-r)
	}
	return 0
}

// rawFork is clone(2) with flags and a new stack. The parent gets the child's pid or -errno; the child calls
// child on the new stack, with the register state that Go code expects, and never returns.
func rawFork(flags, stack uintptr, child func()) uintptr

// beforeFork blocks all signals and poisons the stack guard, afterFork undoes both in the parent; the linknames
// are those that gVisor uses, and the runtime keeps them for it (runtime/proc.go, go1.26).
//
//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

// iscgo is set in a binary that links the C library; the linkname is purego's, and kept for it (runtime/cgo.go).
//
//go:linkname iscgo runtime.iscgo
var iscgo bool

// Forkable tells whether Fork works in this binary: not where the C library is linked in. It keeps thread-local
// storage, and with it g, in memory that the child gives up, the main thread's too.
func Forkable() bool { return !iscgo }

// Fork starts a copy of this process which runs child on stack and nothing else: one thread, all signals
// blocked, no scheduler. It returns the pid in the parent. Child must be a nosplit top-level function that ends
// in Exit; stack is the address just above its stack, aligned to 16. clone(2) takes flags as they are.
//
// Requires: the main thread. ABI0 wrappers load g from thread-local storage, which for the main thread lies in
// the ELF image, and for others in heap that the child gives up.
//
//go:nosplit
//go:norace
func Fork(flags, stack uintptr, child func()) (pid int, errno syscall.Errno) {
	beforeFork()
	r := rawFork(flags, stack, child)
	afterFork()
	return int(r), Errno(r)
}
