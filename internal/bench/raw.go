package bench

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The two ends of the traffic are single-threaded loops around raw system calls. A blocking epoll_pwait through the Go
// scheduler costs about 30 % of a small round trip in processor time, which would drown the differences between peers.
// A goroutine blocked in a raw call cannot be stopped for garbage collection: so the processes that use these have one
// working goroutine, and the collector is off while it runs (see Dispatch).

func epollWait(ep int, events []unix.EpollEvent, millis int) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&events[0])),
		uintptr(len(events)), uintptr(millis), 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

func epollCtl(ep, op, fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(ep), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&ev)), 0, 0)
	return errnoErr(errno)
}

// recv never blocks, whatever the mode of the socket.
func recv(fd int, p []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errnoErr(errno)
}

// send never blocks and never raises SIGPIPE.
func send(fd int, p []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return int(n), errnoErr(errno)
}

func accept(fd int) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return int(n), errnoErr(errno)
}

func closeFD(fd int) { unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

func errnoErr(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}
