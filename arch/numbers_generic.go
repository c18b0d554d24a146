//go:build !amd64 && !386 && !arm

package arch

import "golang.org/x/sys/unix"

// The table that Linux gives to every architecture it is ported to now (include/uapi/asm-generic/unistd.h).
const (
	sysFcntl     = unix.SYS_FCNTL
	sysEpollWait = unix.SYS_EPOLL_PWAIT // there is no epoll_wait
)
