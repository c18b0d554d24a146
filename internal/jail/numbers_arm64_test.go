package jail_test

import "golang.org/x/sys/unix"

const (
	sysMmap      = unix.SYS_MMAP
	sysFcntl     = unix.SYS_FCNTL
	sysEpollWait = unix.SYS_EPOLL_PWAIT
	sysOpen      = 0 // there is none
	sysSeek      = unix.SYS_LSEEK
	highBit      = 1 << 32
)
