package jail_test

import (
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// What the relay's policy allows by number of a descriptor, tried on the wrong descriptors: no filter stands in the
// way here, it is the kernel that must refuse, and alike in all modes.
func init() {
	attacks = append(attacks, []assault{
		// A number that was closed names another descriptor next, and gains nothing by it.
		{name: "reuse/listener", legal: true, control: refused(unix.EINVAL), play: func(t *target) {
			t.legit(unix.SYS_CLOSE, 0)
			tcp(t) // it is 0 now, and does not listen
			t.sys(unix.SYS_ACCEPT4, 0, 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		}},
		{name: "reuse/epoll", legal: true, control: refused(unix.EINVAL), play: func(t *target) {
			t.legit(unix.SYS_CLOSE, 1)
			tcp(t)
			t.sys(sysEpollWait, 1, t.filter.events, 256, 0)
		}},

		// Sockets that are not for connect(2): made anew, the listener would be a socket inside the sandbox.
		{name: "connect/listener", legal: true, control: refused(unix.EISCONN), play: func(t *target) {
			t.sys(unix.SYS_CONNECT, 0, t.filter.addr, t.filter.addrLen)
		}},
		{name: "connect/monitor", legal: true, control: refused(unix.EINVAL), play: func(t *target) {
			t.sys(unix.SYS_CONNECT, 3, t.filter.addr, t.filter.addrLen)
		}},
		{name: "connect/monitor-unix", legal: true, unix: true, control: refused(unix.EISCONN), play: func(t *target) {
			t.sys(unix.SYS_CONNECT, 3, t.filter.addr, t.filter.addrLen)
		}},

		// Descriptors that are not for splice(2).
		{name: "splice/into-owner", legal: true, control: refused(unix.EINVAL), play: splice(pipeR, 2)},
		{name: "splice/from-owner", legal: true, control: refused(unix.EINVAL), play: splice(2, pipeW)},
		{name: "splice/into-epoll", legal: true, control: refused(unix.EINVAL), play: splice(pipeR, 1)},
		{name: "splice/from-listener", legal: true, control: refused(unix.ENOTCONN), play: splice(0, pipeW)},
		{name: "epoll/itself", legal: true, control: refused(unix.EINVAL), play: call4(unix.SYS_EPOLL_CTL, 1, unix.EPOLL_CTL_ADD, 1)},
	}...)
	if text, _ := os.ReadFile("/proc/self/maps"); runtime.GOARCH == "amd64" && strings.Contains(string(text), "[vsyscall]") {
		// This page stays mapped in every process; the kernel asks the filter about what is called there.
		attacks = append(attacks, assault{name: "time/gate", control: success, play: func(t *target) { t.do(gateTime, 0) }})
	}
}

// A relay's first pipe has these numbers.
const (
	pipeR = 4
	pipeW = 5
)

func splice(from, to uintptr) func(*target) {
	return func(t *target) {
		t.legit(unix.SYS_PIPE2, t.filter.ends, unix.O_NONBLOCK|unix.O_CLOEXEC)
		t.sys(unix.SYS_SPLICE, from, 0, to, 0, 1, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	}
}

// call4 is call with the one event of epoll_ctl(2) behind its arguments.
func call4(nr uintptr, args ...uintptr) func(*target) {
	return func(t *target) { t.sys(nr, append(args, t.filter.event)...) }
}
