package launch

import (
	"fmt"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What leads out of a network namespace although it is a system call that every program may make, is refused by a
// filter (seccomp(2)). It is a list of what is denied; everything else is the program's own business:
//
//   - ioctl(2) with TIOCSTI puts characters into the terminal's input. The shell that started syd reads them when syd
//     has ended, and runs them outside. TIOCLINUX pastes into the console.
//   - Some families of sockets do not know network namespaces, AF_VSOCK above all, by which a virtual machine talks to
//     its host. So only those that do know them are left, and the kernel's answer to a family that it does not have
//     is given for all others.
//   - io_uring(7) makes sockets without a filter being asked.
//   - request_key(2) with an argument for whom it may concern has the kernel start request-key(8) outside, as root. Where
//     keyutils is installed that looks up any name in the DNS (key.dns_resolver(8)).
//   - socketcall(2), which only x86's 32-bit programs have, makes sockets with arguments in memory, where no filter
//     sees them. The 64-bit syd refuses it a new socket; the 32-bit one cannot, its programs have no other way.

// families are those of socket(2) whose sockets belong to a network namespace, or to none because they talk to
// nobody (AF_ALG).
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET, unix.AF_ALG}

// terminalInput are the requests of ioctl(2) that make input of a terminal.
var terminalInput = []uint32{unix.TIOCSTI, 0x541c /* TIOCLINUX, ioctl_console(2) */}

// convention is one way to make system calls. A processor has two of them, and a program may switch.
type convention struct {
	audit      uint32 // AUDIT_ARCH_*, linux/audit.h
	ioctl      []uint32
	socket     uint32
	requestKey uint32
	socketcall uint32 // 0: there is none
}

// x32Bit marks numbers of x86-64's third convention, which shares the second's AUDIT_ARCH and most numbers.
const x32Bit = 0x40000000

// conventions lists them all for every build: each processor has one or two, the rest is never met.
// Numbers are from asm/unistd_*.h; 514 is x32's ioctl.
var conventions = []convention{
	{audit: unix.AUDIT_ARCH_X86_64, ioctl: []uint32{16, 514}, socket: 41, requestKey: 249},
	{audit: unix.AUDIT_ARCH_I386, ioctl: []uint32{54}, socket: 359, requestKey: 287, socketcall: 102},
	{audit: unix.AUDIT_ARCH_AARCH64, ioctl: []uint32{29}, socket: 198, requestKey: 218},
	{audit: unix.AUDIT_ARCH_ARM, ioctl: []uint32{54}, socket: 281, requestKey: 310},
	{audit: unix.AUDIT_ARCH_RISCV64, ioctl: []uint32{29}, socket: 198, requestKey: 218},
}

const (
	ioUringSetup    = 425 // everywhere
	socketcallMakes = 1   // SYS_SOCKET of linux/net.h
)

// Offsets in struct seccomp_data. All arguments compared are ints, the low halves; little-endian processors have them first.
const (
	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16
	argSize    = 8
)

func refuse(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }

// argument compares the low half of argument arg of call nr: listed decides about the values given, other about
// all else.
func argument(nr uint32, arg int, values []uint32, listed, other uint32) []bpf.Instruction {
	n := len(values)
	code := []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: nr, SkipFalse: uint8(n + 3)},
		bpf.LoadAbsolute{Off: uint32(dataArgs + argSize*arg), Size: 4},
	}
	for i, v := range values {
		code = append(code, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipTrue: uint8(n - i)})
	}
	return append(code, bpf.RetConstant{Val: other}, bpf.RetConstant{Val: listed})
}

// absent lets call nr go on only if all of argument arg is 0.
func absent(nr uint32, arg int, other uint32) []bpf.Instruction {
	at := uint32(dataArgs + argSize*arg)
	return []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: nr, SkipFalse: 6},
		bpf.LoadAbsolute{Off: at, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipFalse: 3},
		bpf.LoadAbsolute{Off: at + argSize/2, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipFalse: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW},
		bpf.RetConstant{Val: other},
	}
}

// filterProgram is the filter; wide says that it is a 64-bit syd's.
func filterProgram(wide bool) []bpf.Instruction {
	const allow = unix.SECCOMP_RET_ALLOW
	code := []bpf.Instruction{bpf.LoadAbsolute{Off: dataArch, Size: 4}}
	for _, c := range conventions {
		block := []bpf.Instruction{
			bpf.LoadAbsolute{Off: dataNumber, Size: 4},
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: ^uint32(x32Bit)},
		}
		for _, nr := range c.ioctl {
			block = append(block, argument(nr, 1, terminalInput, refuse(unix.EPERM), allow)...)
		}
		block = append(block, argument(c.socket, 0, families, allow, refuse(unix.EAFNOSUPPORT))...)
		if c.socketcall != 0 && wide {
			block = append(block, argument(c.socketcall, 0, []uint32{socketcallMakes}, refuse(unix.EAFNOSUPPORT), allow)...)
		}
		block = append(block, absent(c.requestKey, 2, refuse(unix.EACCES))...)
		block = append(block,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: ioUringSetup, SkipFalse: 1},
			bpf.RetConstant{Val: refuse(unix.ENOSYS)},
			bpf.RetConstant{Val: allow})
		code = append(code, bpf.JumpIf{Cond: bpf.JumpEqual, Val: c.audit, SkipFalse: uint8(len(block))})
		code = append(code, block...)
	}
	return append(code, bpf.RetConstant{Val: refuse(unix.ENOSYS)})
}

// is64 says whether this program is a 64-bit one.
const is64 = ^uintptr(0)>>32 != 0

// filterCalls puts the filter on the calling thread and all that it executes. Requires: no_new_privs.
func filterCalls() error {
	raw, err := bpf.Assemble(filterProgram(is64))
	if err != nil {
		return err
	}
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	// A filter must not slow the program down by what Linux before 5.16 does to whoever has one, prctl(2)
	// PR_SET_SPECULATION_CTRL: it guards against untrusted code in the same process, of which nobody spoke here.
	err = installFilter(unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program)
	if err == unix.EINVAL { // before 4.17
		err = installFilter(0, &program)
	}
	if err != nil {
		return err
	}
	mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	if err == nil && mode != unix.SECCOMP_MODE_FILTER {
		err = fmt.Errorf("no effect: PR_GET_SECCOMP gives %d", mode)
	}
	return err
}

func installFilter(flags uintptr, program *unix.SockFprog) error {
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(program)))
	if errno != 0 {
		return errno
	}
	return nil
}
