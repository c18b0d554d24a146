//go:build fakekernel

package arch

// Kernel stands in for the kernel: its methods are the functions of calls.go and answer as those do.
type Kernel interface {
	Accept4(listener int32) int
	Socket(domain, typ, proto int32) int
	Connect(fd int32, addr, length uintptr) int
	Setsockopt(fd, level, name int32, value, length uintptr) int
	Shutdown(fd int32) int
	Close(fd int32) int
	Pipe2(ends uintptr) int
	Fcntl(fd, cmd int32, arg uintptr) int
	Splice(from, to int32, n uint32) int
	EpollCtl(epfd, op, fd int32, event uintptr) int
	EpollWait(epfd int32, events, count uintptr, timeout int32) int
	Exit(code int32)
}

// Fake answers the relay's system calls in a build with the tag fakekernel, which only tests are: it has no other
// kernel and no pump in assembly. In all other builds neither this file nor a pointer to a call exists.
var Fake Kernel

func Accept4(listener int32) int               { return Fake.Accept4(listener) }
func Socket(domain, typ, proto int32) int      { return Fake.Socket(domain, typ, proto) }
func Connect(fd int32, a, n uintptr) int       { return Fake.Connect(fd, a, n) }
func Shutdown(fd int32) int                    { return Fake.Shutdown(fd) }
func Close(fd int32) int                       { return Fake.Close(fd) }
func Pipe2(ends uintptr) int                   { return Fake.Pipe2(ends) }
func Fcntl(fd, cmd int32, arg uintptr) int     { return Fake.Fcntl(fd, cmd, arg) }
func Splice(from, to int32, n uint32) int      { return Fake.Splice(from, to, n) }
func EpollCtl(ep, op, fd int32, e uintptr) int { return Fake.EpollCtl(ep, op, fd, e) }
func Exit(code int32)                          { Fake.Exit(code) }

func Setsockopt(fd, level, name int32, value, length uintptr) int {
	return Fake.Setsockopt(fd, level, name, value, length)
}

func EpollWait(epfd int32, events, count uintptr, timeout int32) int {
	return Fake.EpollWait(epfd, events, count, timeout)
}
