package jail_test

import "golang.org/x/sys/unix"

const (
	sysMmap      = unix.SYS_MMAP2
	sysFcntl     = unix.SYS_FCNTL64
	sysEpollWait = unix.SYS_EPOLL_WAIT
	sysOpen      = unix.SYS_OPEN
	sysSeek      = unix.SYS__LLSEEK
	highBit      = 0
)
