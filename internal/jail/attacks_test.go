package jail_test

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// end is how a victim must end.
type end struct {
	signal unix.Signal  // it is killed at an attack
	errno  unix.Errno   // its last move fails so
	or     []unix.Errno // its last move may fail so: what a control cannot do on every machine
	status int          // it exits with this
}

func (e end) String() string {
	switch {
	case e.signal != 0:
		return unix.SignalName(e.signal)
	case e.errno != 0:
		return unix.ErrnoName(e.errno)
	case e.status != 0:
		return fmt.Sprintf("exit %d", e.status)
	}
	return "success"
}

var (
	killed  = end{signal: unix.SIGSYS}
	fault   = end{signal: unix.SIGSEGV}
	success = end{}
)

func refused(e unix.Errno) end       { return end{errno: e} }
func successOr(es ...unix.Errno) end { return end{or: es} }

// pending is how a connect of a non-blocking socket begins.
var pending = successOr(unix.EINPROGRESS)

// assault is one attack: a row of attacks.
type assault struct {
	name    string
	arches  []string // nil: all
	without bool     // this architecture has no such thing, whatever arches says
	unix    bool     // the external address is a socket with a path
	play    func(*target)
	control end  // without confinement: the attack works, or the test proves nothing
	all     end  // with all steps; the zero value stands for killed
	legal   bool // it is no attack: it ends alike in all modes
	alone   map[string]end
	visits  bool // in the control a connection arrives where none should
}

// allEnd is what every step together makes of it.
func (a *assault) allEnd() end {
	switch {
	case a.legal:
		return a.control
	case a.all.signal == 0:
		return killed
	}
	return a.all
}

func attackByName(name string) (*assault, bool) {
	i := slices.IndexFunc(attacks, func(a assault) bool { return a.name == name })
	if i < 0 {
		return nil, false
	}
	return &attacks[i], true
}

const (
	streamType = unix.SOCK_STREAM | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
	atCWD      = ^uintptr(-unix.AT_FDCWD - 1)
	rw         = unix.PROT_READ | unix.PROT_WRITE
	anonymous  = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	minusOne   = ^uintptr(0)
)

func tcp(t *target) uint32 {
	return t.legit(unix.SYS_SOCKET, unix.AF_INET, streamType, unix.IPPROTO_TCP)
}

// dial is the relay's own connect, to what the vault holds by then.
func dial(t *target, s uint32) {
	t.sys(unix.SYS_CONNECT, ref(s), t.filter.addr, t.filter.addrLen)
}

// overwritePort makes the address that of the other server: they differ in nothing else.
func overwritePort(t *target, at uintptr) {
	t.do(store, 0, at+2, uintptr(t.elsePort>>8))
	t.do(store, 0, at+3, uintptr(t.elsePort&0xff))
}

func vaultPage(t *target) uintptr { return t.vault.Addr() &^ uintptr(t.page-1) }

// call is an attack that is one system call.
func call(nr uintptr, args ...uintptr) func(*target) {
	return func(t *target) { t.sys(nr, args...) }
}

func socketOf(domain, typ, proto uintptr) func(*target) {
	return call(unix.SYS_SOCKET, domain, typ, proto)
}

// attacks is the list. Where alone names steps, they are carried out without all others, but for those that they
// need themselves; "seccomp" alone is tried for every attack, and must do what all do unless it is named.
var attacks = []assault{
	// What the policy allows works in all modes, or the rest proves nothing.
	{name: "everyday/connect", legal: true, control: pending, play: func(t *target) { dial(t, tcp(t)) }},
	{name: "everyday/connect-unix", legal: true, unix: true, control: success,
		play: func(t *target) { dial(t, t.legit(unix.SYS_SOCKET, unix.AF_UNIX, streamType, 0)) }},
	{name: "everyday/wait", legal: true, control: success, play: func(t *target) { t.sys(sysEpollWait, 1, t.filter.events, 256, 0) }},

	// Where to connect.
	{name: "connect/other-pointer", control: pending, visits: true, alone: map[string]end{"landlock-tcp": refused(unix.EACCES)},
		play: func(t *target) { t.sys(unix.SYS_CONNECT, ref(tcp(t)), t.put(t.other), 16) }},
	{name: "connect/longer", control: pending,
		play: func(t *target) { t.sys(unix.SYS_CONNECT, ref(tcp(t)), t.filter.addr, 28) }},
	{name: "connect/shorter", control: refused(unix.EINVAL),
		play: func(t *target) { t.sys(unix.SYS_CONNECT, ref(tcp(t)), t.filter.addr, 8) }},
	{name: "connect/high-half", without: highBit == 0, control: pending,
		play: func(t *target) { t.sys(unix.SYS_CONNECT, ref(tcp(t)), t.filter.addr, highBit|16) }},
	{name: "connect/unix", unix: true, control: success, visits: true,
		alone: map[string]end{"mountns,userns,identity,root": refused(unix.ENOENT), "landlock-unix": refused(unix.EACCES)},
		play: func(t *target) {
			s := t.legit(unix.SYS_SOCKET, unix.AF_UNIX, streamType, 0)
			t.sys(unix.SYS_CONNECT, ref(s), t.put(t.other), uintptr(len(t.other)))
		}},

	{name: "connect/abstract", unix: true, control: success,
		alone: map[string]end{"workdir,netns": refused(unix.ECONNREFUSED), "landlock-scope": refused(unix.EPERM)},
		play: func(t *target) {
			s := t.legit(unix.SYS_SOCKET, unix.AF_UNIX, streamType, 0)
			t.sys(unix.SYS_CONNECT, ref(s), t.put(t.abstract), uintptr(len(t.abstract)))
		}},

	// The page with the address, rewritten first.
	{name: "vault/store", control: fault, all: fault, alone: map[string]end{"seccomp": fault},
		play: func(t *target) { overwritePort(t, t.sealed()) }},
	{name: "vault/mprotect", control: pending, visits: true, alone: map[string]end{"vault": refused(unix.EPERM), "seal": refused(unix.EPERM)},
		play: func(t *target) {
			s := tcp(t)
			t.sys(unix.SYS_MPROTECT, vaultPage(t), uintptr(t.page), rw)
			overwritePort(t, t.sealed())
			dial(t, s)
		}},
	{name: "vault/munmap", control: success, alone: map[string]end{"vault": refused(unix.EPERM)},
		play: func(t *target) { t.sys(unix.SYS_MUNMAP, vaultPage(t), uintptr(t.page)) }},
	{name: "vault/mmap-over", control: success, alone: map[string]end{"vault": refused(unix.EPERM)},
		play: func(t *target) {
			t.sys(sysMmap, vaultPage(t), uintptr(t.page), rw, anonymous|unix.MAP_FIXED, minusOne, 0)
		}},
	{name: "vault/mremap-over", control: success, alone: map[string]end{"vault": refused(unix.EPERM)},
		play: func(t *target) {
			const mayMoveFixed = 1 | 2 // MREMAP_MAYMOVE | MREMAP_FIXED
			t.sys(unix.SYS_MREMAP, t.spare(), uintptr(t.page), uintptr(t.page), mayMoveFixed, vaultPage(t))
		}},
	{name: "vault/mremap-away", control: success, alone: map[string]end{"vault": refused(unix.EPERM)},
		play: func(t *target) {
			const mayMoveFixed = 1 | 2
			t.sys(unix.SYS_MREMAP, vaultPage(t), uintptr(t.page), uintptr(t.page), mayMoveFixed, t.spare())
		}},
	{name: "vault/madvise", control: success, alone: map[string]end{"vault": refused(unix.EPERM)},
		play: func(t *target) { t.sys(unix.SYS_MADVISE, vaultPage(t), uintptr(t.page), unix.MADV_DONTNEED) }},
	{name: "proc-mem", control: success, alone: filesClosed,
		play: func(t *target) {
			fd := t.sys(unix.SYS_OPENAT, atCWD, t.text("/proc/self/mem"), unix.O_RDWR)
			t.seekTo(fd, t.spare())
			t.sys(unix.SYS_WRITE, ref(fd), t.put([]byte{1}), 1)
		}},
	// What is read-only can be written this way where the kernel forces it (CONFIG_PROC_MEM_ALWAYS_FORCE).
	{name: "vault/proc-mem", control: successOr(unix.EINPROGRESS, unix.EIO), visits: true, alone: map[string]end{
		"landlock-fs": refused(unix.EACCES), "mountns,userns,identity,root": refused(unix.ENOENT)},
		play: func(t *target) {
			s := tcp(t)
			fd := t.sys(unix.SYS_OPENAT, atCWD, t.text("/proc/self/mem"), unix.O_RDWR)
			t.seekTo(fd, t.sealed()+2)
			t.sys(unix.SYS_WRITE, ref(fd), t.put([]byte{byte(t.elsePort >> 8), byte(t.elsePort)}), 2)
			dial(t, s)
		}},
	{name: "vault/pipe2-into", control: refused(unix.EFAULT),
		play: func(t *target) { t.sys(unix.SYS_PIPE2, t.sealed(), unix.O_NONBLOCK|unix.O_CLOEXEC) }},

	// Sockets of another kind.
	{name: "socket/inet6", control: successOr(unix.EAFNOSUPPORT), play: socketOf(unix.AF_INET6, streamType, unix.IPPROTO_TCP)},
	{name: "socket/unix", control: success, play: socketOf(unix.AF_UNIX, streamType, 0)},
	{name: "socket/any-protocol", control: success, play: socketOf(unix.AF_INET, streamType, 0)},
	{name: "socket/blocking", control: success, play: socketOf(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP)},
	{name: "socket/mptcp", control: successOr(unix.EPROTONOSUPPORT, unix.ENOPROTOOPT), play: socketOf(unix.AF_INET, streamType, unix.IPPROTO_MPTCP)},
	{name: "socket/sctp", control: successOr(unix.EPROTONOSUPPORT, unix.ESOCKTNOSUPPORT), play: socketOf(unix.AF_INET, streamType, unix.IPPROTO_SCTP)},
	{name: "socket/udp", control: success, play: socketOf(unix.AF_INET, unix.SOCK_DGRAM, 0)},
	{name: "socket/raw", control: success, alone: map[string]end{"capabilities": refused(unix.EPERM), "userns": refused(unix.EPERM)},
		play: socketOf(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
	{name: "socket/packet", control: successOr(unix.EAFNOSUPPORT), play: socketOf(unix.AF_PACKET, unix.SOCK_RAW, 0)},
	{name: "socket/vsock", control: successOr(unix.EAFNOSUPPORT), play: socketOf(unix.AF_VSOCK, unix.SOCK_STREAM, 0)},
	{name: "socket/netlink", control: success, play: socketOf(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)},
	{name: "socket/alg", control: successOr(unix.EAFNOSUPPORT), play: socketOf(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)},
	{name: "socket/pair", control: success,
		play: func(t *target) { t.sys(unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_STREAM, 0, t.put(make([]byte, 8))) }},
	{name: "udp/connect", control: success, alone: map[string]end{"landlock-udp": refused(unix.EACCES)},
		play: func(t *target) {
			s := t.sys(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM, 0)
			t.sys(unix.SYS_CONNECT, ref(s), t.put(t.other), 16)
		}},

	// The same by another door.
	{name: "socketcall/connect", arches: []string{"386"}, control: pending, visits: true,
		alone: map[string]end{"landlock-tcp": refused(unix.EACCES)},
		play: func(t *target) {
			s := t.legit(unix.SYS_SOCKET, unix.AF_INET, streamType, unix.IPPROTO_TCP)
			args := t.words(0, t.put(t.other), 16)
			t.do(store, 0, args, ref(s)) // its number is below 256
			t.sys(102, 3, args)          // SYS_CONNECT
		}},
	{name: "socketcall/socket", arches: []string{"386"}, control: success,
		play: func(t *target) { t.sys(102, 1, t.words(unix.AF_INET, streamType, unix.IPPROTO_TCP)) }},
	{name: "socketcall/bad", arches: []string{"386"}, control: refused(unix.EINVAL),
		play: func(t *target) { t.sys(102, 99, 0) }},
	{name: "int80", arches: []string{"amd64"}, control: success, play: func(t *target) { t.do(int80, 0, 20) }}, // getpid
	{name: "x32", arches: []string{"amd64"}, control: successOr(unix.ENOSYS), play: call(0x40000000 | 39)},

	// Files.
	{name: "open", without: sysOpen == 0, control: success, alone: filesClosed,
		play: func(t *target) { t.sys(sysOpen, t.text("/proc/self/status"), unix.O_RDONLY) }},
	{name: "openat", control: success, alone: filesClosed,
		play: func(t *target) { t.sys(unix.SYS_OPENAT, atCWD, t.text("/proc/self/status"), unix.O_RDONLY) }},
	{name: "openat2", control: success, alone: filesClosed,
		play: func(t *target) {
			how := unix.OpenHow{Flags: unix.O_RDONLY}
			b := unsafe.Slice((*byte)(unsafe.Pointer(&how)), unix.SizeofOpenHow)
			t.sys(unix.SYS_OPENAT2, atCWD, t.text("/proc/self/status"), t.put(b), unix.SizeofOpenHow)
		}},
	{name: "open/parent", control: success, alone: map[string]end{"landlock-fs": refused(unix.EACCES), "mountns,userns,identity,root": refused(unix.ENOENT)},
		play: func(t *target) {
			t.sys(unix.SYS_OPENAT, atCWD, t.text("../../../../../proc/self/status"), unix.O_RDONLY)
		}},
	{name: "open/create", control: success, alone: map[string]end{"landlock-fs": refused(unix.EACCES), "mountns,userns,identity,root": refused(unix.ENOENT)},
		play: func(t *target) {
			t.sys(unix.SYS_OPENAT, atCWD, t.text(t.elsePath+".made"), unix.O_CREAT|unix.O_WRONLY, 0o600)
			t.sys(unix.SYS_UNLINKAT, atCWD, t.text(t.elsePath+".made"), 0)
		}},
	{name: "open/shadow", control: success, alone: map[string]end{
		"capabilities":          success, // root's id is power by itself
		"identity,capabilities": refused(unix.EACCES), "landlock-fs": refused(unix.EACCES)},
		play: func(t *target) { t.sys(unix.SYS_OPENAT, atCWD, t.text(t.private), unix.O_RDWR) }},
	{name: "mount", control: success, alone: map[string]end{"capabilities": refused(unix.EPERM)},
		play: func(t *target) {
			t.sys(unix.SYS_UNSHARE, unix.CLONE_NEWNS)
			none := t.text("none")
			t.sys(unix.SYS_MOUNT, none, t.text("/"), 0, unix.MS_REC|unix.MS_PRIVATE, 0)
			t.sys(unix.SYS_MOUNT, none, t.text("/proc"), t.text("tmpfs"), 0, 0)
		}},
	{name: "file-size", control: success, alone: map[string]end{"rlimits": refused(unix.EFBIG)},
		play: func(t *target) {
			fd := t.sys(unix.SYS_OPENAT, atCWD, t.text(t.private), unix.O_WRONLY)
			t.sys(unix.SYS_WRITE, ref(fd), t.put([]byte{1}), 1)
		}},
	{name: "hostname", control: success, alone: map[string]end{"userns": refused(unix.EPERM), "capabilities": refused(unix.EPERM)},
		play: func(t *target) { // the one that it has
			var u unix.Utsname
			if err := unix.Uname(&u); err != nil {
				panic(err)
			}
			name := unix.ByteSliceToString(u.Nodename[:])
			t.sys(unix.SYS_SETHOSTNAME, t.text(name), uintptr(len(name)))
		}},
	{name: "shared-memory", control: success, alone: map[string]end{"ipcns": refused(unix.ENOENT), "userns,identity,capabilities": refused(unix.EACCES)},
		play: func(t *target) { t.sys(unix.SYS_SHMGET, t.segment, 0, 0o600) }},
	{name: "memfd", control: success, play: func(t *target) { t.sys(unix.SYS_MEMFD_CREATE, t.text("x"), 0) }},

	// The listener, other sockets, descriptors.
	{name: "bind", control: success, alone: map[string]end{"landlock-tcp": refused(unix.EACCES)},
		play: func(t *target) { t.sys(unix.SYS_BIND, ref(tcp(t)), t.put(loopback(0)), 16) }},
	{name: "listen", control: success, play: func(t *target) { t.sys(unix.SYS_LISTEN, ref(tcp(t)), 8) }},
	{name: "accept/other-socket", control: refused(unix.EAGAIN),
		play: func(t *target) {
			s := tcp(t)
			t.sys(unix.SYS_LISTEN, ref(s), 8)
			t.sys(unix.SYS_ACCEPT4, ref(s), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		}},
	{name: "accept/other-number", control: refused(unix.EINVAL),
		play: func(t *target) { t.sys(unix.SYS_ACCEPT4, ref(tcp(t)), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC) }},
	{name: "sendmsg/descriptor", control: success, play: sendDescriptor},
	{name: "fcntl/owner", control: success, play: call(sysFcntl, 0, unix.F_SETOWN, 1)},
	{name: "fcntl/flags", control: success, play: call(sysFcntl, 0, unix.F_SETFL, 0)},
	{name: "dup", control: success, play: call(unix.SYS_DUP, 0)},
	{name: "setsockopt/reuse", control: success,
		play: func(t *target) {
			t.sys(unix.SYS_SETSOCKOPT, ref(tcp(t)), unix.SOL_SOCKET, unix.SO_REUSEADDR, t.words(1), 4)
		}},
	{name: "setsockopt/linger-elsewhere", control: success,
		play: func(t *target) {
			t.sys(unix.SYS_SETSOCKOPT, ref(tcp(t)), unix.SOL_SOCKET, unix.SO_LINGER, t.put(make([]byte, 8)), 8)
		}},
	{name: "shutdown/read", control: refused(unix.ENOTCONN),
		play: func(t *target) { t.sys(unix.SYS_SHUTDOWN, ref(tcp(t)), unix.SHUT_RD) }},
	{name: "write", control: success, play: func(t *target) { t.sys(unix.SYS_WRITE, 3, t.put(make([]byte, 1)), 1) }},
	{name: "read", control: refused(unix.EBADF), play: func(t *target) { t.sys(unix.SYS_READ, 99, t.put(make([]byte, 1)), 1) }},
	{name: "splice/offset", control: refused(unix.EBADF),
		play: func(t *target) {
			t.sys(unix.SYS_SPLICE, 99, t.put(make([]byte, 8)), 98, 0, 1, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		}},
	{name: "vmsplice", control: refused(unix.EBADF), play: func(t *target) { t.sys(unix.SYS_VMSPLICE, 99, t.words(0, 0), 1, 0) }},
	{name: "epoll/other", control: refused(unix.EBADF),
		play: func(t *target) { t.sys(unix.SYS_EPOLL_CTL, 99, unix.EPOLL_CTL_DEL, 0, t.put(make([]byte, 16))) }},

	// Processes and threads.
	{name: "fork", control: success, alone: map[string]end{"identity,capabilities,rlimits": refused(unix.EAGAIN)},
		play: func(t *target) { t.do(fork, unix.SYS_CLONE, uintptr(unix.SIGCHLD)) }},
	{name: "thread", control: success, alone: map[string]end{"identity,capabilities,rlimits": refused(unix.EAGAIN)},
		play: func(t *target) {
			const flags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM
			t.do(thread, 0, flags, t.spare()+uintptr(t.page)-64)
		}},
	{name: "exec", control: end{status: executed}, alone: map[string]end{"landlock-fs": refused(unix.EACCES), "mountns,userns,identity,root": refused(unix.ENOENT)},
		play: func(t *target) {
			t.sys(unix.SYS_EXECVE, t.text("/proc/self/exe"), t.words(t.text("x"), 0), t.words(t.text(executedEnv+"=1"), 0))
		}},
	{name: "kill/monitor", control: success, alone: map[string]end{"pidns": refused(unix.ESRCH), "landlock-scope": refused(unix.EPERM), "identity,capabilities": refused(unix.EPERM)},
		play: func(t *target) { t.sys(unix.SYS_KILL, uintptr(t.monitor), 0) }},
	{name: "ptrace/monitor", control: success, alone: map[string]end{"pidns": refused(unix.ESRCH), "userns": refused(unix.EPERM), "capabilities,identity": refused(unix.EPERM)},
		play: func(t *target) { t.sys(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(t.monitor), 0, 0) }},
	{name: "process_vm_readv", control: success, alone: map[string]end{"pidns": refused(unix.ESRCH), "userns": refused(unix.EPERM)},
		play: func(t *target) { across(t, unix.SYS_PROCESS_VM_READV) }},
	{name: "process_vm_writev", control: success, alone: map[string]end{"pidns": refused(unix.ESRCH), "userns": refused(unix.EPERM)},
		play: func(t *target) { across(t, unix.SYS_PROCESS_VM_WRITEV) }},
	{name: "pidfd_getfd", control: success, alone: map[string]end{"userns": refused(unix.EPERM), "identity,capabilities": refused(unix.EPERM)},
		play: call(unix.SYS_PIDFD_GETFD, 2, 1, 0)}, // the monitor's standard output: here it is the owner, too
	{name: "sigaction", control: success, play: func(t *target) {
		t.sys(unix.SYS_RT_SIGACTION, uintptr(unix.SIGSEGV), 0, t.put(make([]byte, 64)), 8)
	}},
	{name: "setuid", control: success, play: call(unix.SYS_SETUID, 0)},
	{name: "prctl/counter-back", control: success, alone: map[string]end{"tsc": success}, arches: []string{"amd64", "386"}, // why seccomp guards it
		play: call(unix.SYS_PRCTL, unix.PR_SET_TSC, unix.PR_TSC_ENABLE)},

	// Doors into the kernel.
	{name: "io_uring", control: successOr(unix.ENOSYS, unix.EPERM), play: func(t *target) { t.sys(unix.SYS_IO_URING_SETUP, 4, t.put(make([]byte, 256))) }},
	{name: "userfaultfd", control: successOr(unix.ENOSYS, unix.EPERM), play: call(unix.SYS_USERFAULTFD, 0)},
	{name: "bpf", control: successOr(unix.ENOSYS, unix.EPERM), play: func(t *target) {
		// BPF_MAP_CREATE of an array of one.
		attr := t.put([]byte{2, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0})
		t.sys(unix.SYS_BPF, 0, attr, 16)
	}},
	{name: "perf", control: successOr(unix.ENOSYS, unix.ENOENT, unix.EOPNOTSUPP, unix.EACCES), play: func(t *target) {
		attr := make([]byte, 128)
		attr[0], attr[4] = 1, 128 // PERF_TYPE_SOFTWARE, its size
		t.sys(unix.SYS_PERF_EVENT_OPEN, t.put(attr), 0, minusOne, minusOne, 0)
	}},
	{name: "keys", control: successOr(unix.ENOSYS, unix.ENOKEY), play: call(unix.SYS_KEYCTL, 0, ^uintptr(2), 0)},
	{name: "seccomp", control: success, play: func(t *target) {
		action := uint32(unix.SECCOMP_RET_ALLOW)
		t.sys(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, t.put(unsafe.Slice((*byte)(unsafe.Pointer(&action)), 4)))
	}},

	// Memory.
	{name: "exec-memory/mmap", control: success, alone: map[string]end{"mdwe": refused(unix.EACCES)},
		play: func(t *target) {
			t.sys(sysMmap, 0, uintptr(t.page), rw|unix.PROT_EXEC, anonymous, minusOne, 0)
		}},
	{name: "exec-memory/mprotect", control: success, alone: map[string]end{"mdwe": refused(unix.EACCES), "seal": refused(unix.EPERM)},
		play: func(t *target) {
			t.sys(unix.SYS_MPROTECT, t.spare(), uintptr(t.page), unix.PROT_READ|unix.PROT_EXEC)
		}},
	{name: "memory/mmap", control: success, play: func(t *target) { t.sys(sysMmap, 0, uintptr(t.page), rw, anonymous, minusOne, 0) }},
	{name: "memory/brk", control: success, play: call(unix.SYS_BRK, 0)},
	{name: "guard/vault-below", control: fault, all: fault, alone: map[string]end{"seccomp": fault},
		play: func(t *target) { t.do(load, 0, vaultPage(t)-1) }},
	{name: "guard/vault-above", control: fault, all: fault, alone: map[string]end{"seccomp": fault},
		play: func(t *target) { t.do(load, 0, vaultPage(t)+uintptr(t.page)) }},
	{name: "guard/stack-above", control: fault, all: fault, alone: map[string]end{"seccomp": fault},
		play: func(t *target) { t.do(load, 0, t.stack+64) }},
	{name: "guard/stack-below", control: fault, all: fault, alone: map[string]end{"seccomp": fault},
		play: func(t *target) { t.do(load, 0, t.stack+64-uintptr(max(16<<10, t.page))-1) }},
	{name: "read/heap", control: success, all: fault, alone: map[string]end{"memory": fault, "seccomp": success},
		play: func(t *target) { t.do(load, 0, t.heap) }},
	{name: "read/environment", control: success, all: fault, alone: map[string]end{"memory": fault, "seccomp": success},
		play: func(t *target) { t.do(load, 0, t.environ) }},

	// Time.
	{name: "time/counter", without: runtime.GOARCH == "arm", control: success, all: fault, alone: map[string]end{"tsc": fault, "seccomp": success},
		play: func(t *target) { t.do(counter, 0) }},
	{name: "time/counter-p", arches: []string{"amd64", "386"}, control: success, all: fault, alone: map[string]end{"tsc": fault, "seccomp": success},
		play: func(t *target) { t.do(counterP, 0) }},
	{name: "time/coarse", control: success, all: fault, alone: map[string]end{"vdso": fault, "seccomp": success},
		play: func(t *target) { t.do(load, 0, t.clock) }},
	{name: "time/clock_gettime", control: success, play: func(t *target) {
		t.sys(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, t.put(make([]byte, 16)))
	}},
	{name: "time/wait", control: success, play: func(t *target) { t.sys(sysEpollWait, 1, t.filter.events, 256, 10) }},
	{name: "time/sleep", control: success, play: func(t *target) { t.sys(unix.SYS_NANOSLEEP, t.words(0, 1), 0) }},
	{name: "random", control: success, play: func(t *target) { t.sys(unix.SYS_GETRANDOM, t.put(make([]byte, 8)), 8, unix.GRND_NONBLOCK) }},
}

// filesClosed is what becomes of opening /proc/self/status with one layer.
var filesClosed = map[string]end{
	"landlock-fs":                  refused(unix.EACCES),
	"mountns,userns,identity,root": refused(unix.ENOENT),
	"mountns,root":                 refused(unix.ENOENT),
}

// seekTo sets the offset of a descriptor to an address.
func (t *target) seekTo(fd uint32, at uintptr) {
	if unsafe.Sizeof(at) == 8 {
		t.sys(sysSeek, ref(fd), at, unix.SEEK_SET)
		return
	}
	t.sys(sysSeek, ref(fd), 0, at, t.put(make([]byte, 8)), unix.SEEK_SET)
}

func sendDescriptor(t *target) {
	rights := unix.UnixRights(0)
	control := t.put(rights)
	iov := t.words(t.put(make([]byte, 1)), 1)
	header := unix.Msghdr{Iovlen: 1}
	header.SetControllen(len(rights))
	b := slices.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&header)), unsafe.Sizeof(header)))
	*(*uintptr)(unsafe.Pointer(&b[unsafe.Offsetof(header.Iov)])) = iov
	*(*uintptr)(unsafe.Pointer(&b[unsafe.Offsetof(header.Control)])) = control
	t.sys(unix.SYS_SENDMSG, 3, t.put(b), 0)
}

func across(t *target, nr uintptr) {
	local := t.words(t.put(make([]byte, 8)), 8)
	remote := t.words(t.heap, 8)
	t.sys(nr, uintptr(t.monitor), local, 1, remote, 1, 0)
}

// modes lists what an attack meets, with its end.
func (a *assault) modes() map[string]end {
	m := map[string]end{"none": a.control, "all": a.allEnd(), "seccomp": a.allEnd()}
	for layers, e := range a.alone {
		m[layers] = e
	}
	return m
}

func TestAttacks(t *testing.T) {
	needConfinement(t)
	for _, a := range attacks {
		if a.without || a.arches != nil && !slices.Contains(a.arches, runtime.GOARCH) {
			continue
		}
		modes := a.modes()
		names := make([]string, 0, len(modes))
		for name := range modes {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			o := order{Attack: a.name, Unix: a.unix}
			switch name {
			case "none":
			case "all":
				o.All = true
			default:
				o.Layers = strings.Split(name, ",")
				if slices.ContainsFunc(o.Layers, func(l string) bool { return !expected(l) }) {
					continue // TestPresence holds the kernel to the same table
				}
				if slices.ContainsFunc(o.Layers, needsNoNewPrivs) {
					o.Layers = append(o.Layers, "no-new-privs")
				}
			}
			want := modes[name]
			if name == "all" {
				want = a.allOn()
			}
			t.Run(a.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				r := runOrder(t, o)
				judge(t, &a, r, want, name)
			})
		}
	}
}

// allOn is allEnd where one layer of those that give it may be missing on this kernel.
func (a *assault) allOn() end {
	e := a.allEnd()
	if strings.HasPrefix(a.name, "time/counter") && !expected("tsc") {
		return success
	}
	return e
}

func needsNoNewPrivs(name string) bool {
	return name == "seccomp" || strings.HasPrefix(name, "landlock-")
}

func judge(t *testing.T, a *assault, r *outcome, want end, mode string) {
	t.Helper()
	var absent []string
	for _, m := range r.Missing {
		if expected(m) {
			absent = append(absent, m)
		}
	}
	if len(absent) > 0 {
		t.Fatalf("steps do not hold: %v", absent)
	}
	if (r.Visitors > 0) != (a.visits && mode == "none" && r.Status == through) {
		t.Errorf("%d connections arrived where none should", r.Visitors)
	}
	errno := unix.Errno(0)
	if r.Result < 0 && r.Result >= -4095 {
		errno = unix.Errno(-r.Result)
	}
	got := fmt.Sprintf("signal %d, status %d, move %d, result %d (%v)", r.Signal, r.Status, r.At, r.Result, errno)
	switch {
	case want.signal != 0:
		if r.Signal != int(want.signal) {
			t.Fatalf("%s; want %v", got, want)
		}
		if r.At < r.First {
			t.Fatalf("%s: it died of what a relay does every day", got)
		}
	case r.Signal != 0:
		t.Fatalf("%s; want %v", got, want)
	case want.status != 0:
		if r.Status != want.status {
			t.Fatalf("%s; want %v", got, want)
		}
	case want.errno != 0:
		if errno != want.errno || r.At < r.First {
			t.Fatalf("%s; want %v", got, want)
		}
	case errno != 0 && slices.Contains(want.or, errno):
	case r.Status != through || errno != 0:
		t.Fatalf("%s; want %v", got, want)
	}
}

// needConfinement is for tests that an ordinary user, or user emulation, cannot run.
func needConfinement(t *testing.T) {
	if os.Getenv("SYD_TEST_EMULATED") != "" {
		t.Skip("user emulation has none of what confines")
	}
	if os.Geteuid() != 0 {
		t.Skip("not root: the attacks' controls would fail")
	}
}
