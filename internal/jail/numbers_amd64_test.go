package jail_test

import "golang.org/x/sys/unix"

const (
	sysMmap      = unix.SYS_MMAP
	sysFcntl     = unix.SYS_FCNTL
	sysEpollWait = unix.SYS_EPOLL_WAIT
	sysOpen      = unix.SYS_OPEN
	sysSeek      = unix.SYS_LSEEK
	highBit      = 1 << 32
)
