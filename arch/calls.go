//go:build !fakekernel

package arch

import "golang.org/x/sys/unix"

// The relay's system calls, one function each. They return the raw result: a value, or -errno. Pointers are
// given as numbers: they point into arenas and the vault, which the garbage collector knows nothing of.
//
// They are not inlined: the seven arguments of Syscall6 then take stack once, at the end of a chain of calls, and
// not in every function of it; the linker holds a nosplit chain below 800 bytes.

// SpliceFlags is what every splice of the relay says. Without SPLICE_F_NONBLOCK a full pipe would block; it
// does not speak of sockets, which are O_NONBLOCK themselves. Never SPLICE_F_MORE: it delays short data by 200 ms.
const SpliceFlags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK

// AcceptFlags makes accepted sockets what the relay expects of every socket.
const AcceptFlags = unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC

//go:nosplit
//go:noinline
func Accept4(listener int32) int {
	return int(Syscall6(unix.SYS_ACCEPT4, uintptr(listener), 0, 0, AcceptFlags, 0, 0))
}

//go:nosplit
//go:noinline
func Socket(domain, typ, proto int32) int {
	return int(Syscall6(unix.SYS_SOCKET, uintptr(domain), uintptr(typ), uintptr(proto), 0, 0, 0))
}

//go:nosplit
//go:noinline
func Connect(fd int32, addr, length uintptr) int {
	return int(Syscall6(unix.SYS_CONNECT, uintptr(fd), addr, length, 0, 0, 0))
}

//go:nosplit
//go:noinline
func Setsockopt(fd, level, name int32, value, length uintptr) int {
	return int(Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), value, length, 0))
}

//go:nosplit
//go:noinline
func Shutdown(fd int32) int {
	return int(Syscall6(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0, 0, 0, 0))
}

//go:nosplit
//go:noinline
func Close(fd int32) int {
	return int(Syscall6(unix.SYS_CLOSE, uintptr(fd), 0, 0, 0, 0, 0))
}

// Pipe2 makes a pipe of non-blocking, close-on-exec ends at *ends, two int32: read end, write end.
//
//go:nosplit
//go:noinline
func Pipe2(ends uintptr) int {
	return int(Syscall6(unix.SYS_PIPE2, ends, unix.O_NONBLOCK|unix.O_CLOEXEC, 0, 0, 0, 0))
}

//go:nosplit
//go:noinline
func Fcntl(fd, cmd int32, arg uintptr) int {
	return int(Syscall6(sysFcntl, uintptr(fd), uintptr(cmd), arg, 0, 0, 0))
}

// Splice moves up to n bytes from one descriptor to the other, one of them a pipe, without offsets.
//
//go:nosplit
//go:noinline
func Splice(from, to int32, n uint32) int {
	return int(Syscall6(sysSplice, uintptr(from), 0, uintptr(to), 0, uintptr(n), SpliceFlags))
}

// EpollCtl takes an event of the architecture's layout at event (unix.EpollEvent).
//
//go:nosplit
//go:noinline
func EpollCtl(epfd, op, fd int32, event uintptr) int {
	return int(Syscall6(unix.SYS_EPOLL_CTL, uintptr(epfd), uintptr(op), uintptr(fd), event, 0, 0))
}

// EpollWait waits for up to count events at events; timeout is in milliseconds, -1 for none. It is epoll_wait, or
// epoll_pwait with neither mask nor mask size where that is all there is.
//
//go:nosplit
//go:noinline
func EpollWait(epfd int32, events, count uintptr, timeout int32) int {
	return int(Syscall6(sysEpollWait, uintptr(epfd), events, count, uintptr(timeout), 0, 0))
}

// Exit ends the process. It does not return.
//
//go:nosplit
//go:noinline
func Exit(code int32) {
	for {
		Syscall6(unix.SYS_EXIT_GROUP, uintptr(code), 0, 0, 0, 0, 0)
	}
}
