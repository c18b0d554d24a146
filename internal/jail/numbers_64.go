//go:build !386 && !arm

package jail

import "golang.org/x/sys/unix"

const (
	sysSetresuid = unix.SYS_SETRESUID
	sysSetresgid = unix.SYS_SETRESGID
	sysSetgroups = unix.SYS_SETGROUPS
	sysGeteuid   = unix.SYS_GETEUID
	sysGetegid   = unix.SYS_GETEGID
	sysFcntl     = unix.SYS_FCNTL
)
