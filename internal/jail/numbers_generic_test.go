//go:build !amd64 && !386 && !arm

package jail_test

import "golang.org/x/sys/unix"

// Linux's common table of calls, with 64 bits.
const (
	sysMmap      = unix.SYS_MMAP
	sysFcntl     = unix.SYS_FCNTL
	sysEpollWait = unix.SYS_EPOLL_PWAIT
	sysOpen      = 0 // there is none
	sysSeek      = unix.SYS_LSEEK
	highBit      = 1 << 32
)
