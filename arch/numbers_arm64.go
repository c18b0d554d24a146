package arch

import "golang.org/x/sys/unix"

const (
	sysFcntl     = unix.SYS_FCNTL
	sysEpollWait = unix.SYS_EPOLL_PWAIT // there is no epoll_wait
)
