//go:build 386 || arm

package jail

import "golang.org/x/sys/unix"

// The plain calls take 16-bit ids here.
const (
	sysSetresuid = unix.SYS_SETRESUID32
	sysSetresgid = unix.SYS_SETRESGID32
	sysSetgroups = unix.SYS_SETGROUPS32
	sysGeteuid   = unix.SYS_GETEUID32
	sysGetegid   = unix.SYS_GETEGID32
	sysFcntl     = unix.SYS_FCNTL64
)
