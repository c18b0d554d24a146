package launch

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"syd/internal/policy"
)

// verdict runs the filter on one call. The interpreter loads big-endian words, the kernel the machine's: so the low
// half of each argument is put where the kernel has it.
func verdict(t *testing.T, vm *bpf.VM, audit, nr uint32, args [6]uint64) uint32 {
	t.Helper()
	data := make([]byte, dataArgs+6*argSize)
	binary.BigEndian.PutUint32(data[dataNumber:], nr)
	binary.BigEndian.PutUint32(data[dataArch:], audit)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[dataArgs+argSize*i:], uint32(a))
		binary.BigEndian.PutUint32(data[dataArgs+argSize*i+4:], uint32(a>>32))
	}
	action, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(action)
}

// TestFilter holds the program against what it shall deny, for every number of every convention.
func TestFilter(t *testing.T) {
	type call struct {
		name  string
		nr    uint32
		audit uint32
	}
	const (
		x64, x86 = unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386
		a64, a32 = unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM
		r64      = unix.AUDIT_ARCH_RISCV64
	)
	special := []call{
		{"ioctl", 16, x64}, {"ioctl", 514, x64}, {"ioctl", 16 | x32Bit, x64}, {"ioctl", 514 | x32Bit, x64},
		{"ioctl", 54, x86}, {"ioctl", 29, a64}, {"ioctl", 54, a32}, {"ioctl", 29, r64},
		{"socket", 41, x64}, {"socket", 41 | x32Bit, x64}, {"socket", 359, x86}, {"socket", 198, a64}, {"socket", 281, a32}, {"socket", 198, r64},
		{"io_uring_setup", 425, x64}, {"io_uring_setup", 425 | x32Bit, x64},
		{"io_uring_setup", 425, x86}, {"io_uring_setup", 425, a64}, {"io_uring_setup", 425, a32}, {"io_uring_setup", 425, r64},
		{"socketcall", 102, x86},
		{"request_key", 249, x64}, {"request_key", 249 | x32Bit, x64}, {"request_key", 287, x86}, {"request_key", 218, a64},
		{"request_key", 310, a32}, {"request_key", 218, r64},
	}
	// Each case is refused with errno, or allowed with 0. Upper halves are no part of an int.
	const high = 0xabcd_0000_0000
	cases := map[string][]struct {
		args        [6]uint64
		errno, on32 unix.Errno
	}{
		"ioctl": {
			{[6]uint64{0, unix.TIOCSTI}, unix.EPERM, unix.EPERM}, {[6]uint64{0, high | unix.TIOCSTI}, unix.EPERM, unix.EPERM},
			{[6]uint64{7, 0x541c}, unix.EPERM, unix.EPERM}, {[6]uint64{0, unix.TIOCGWINSZ}, 0, 0}, {[6]uint64{unix.TIOCSTI, 0}, 0, 0},
			{[6]uint64{0, unix.TCSETS}, 0, 0}, {[6]uint64{0, unix.TIOCSPGRP}, 0, 0},
		},
		"socket": {
			{[6]uint64{unix.AF_UNIX}, 0, 0}, {[6]uint64{unix.AF_INET}, 0, 0}, {[6]uint64{unix.AF_INET6}, 0, 0}, {[6]uint64{unix.AF_NETLINK}, 0, 0},
			{[6]uint64{unix.AF_VSOCK}, unix.EAFNOSUPPORT, unix.EAFNOSUPPORT}, {[6]uint64{high | unix.AF_VSOCK}, unix.EAFNOSUPPORT, unix.EAFNOSUPPORT},
			{[6]uint64{unix.AF_QIPCRTR}, unix.EAFNOSUPPORT, unix.EAFNOSUPPORT}, {[6]uint64{unix.AF_SMC}, unix.EAFNOSUPPORT, unix.EAFNOSUPPORT},
			{[6]uint64{1 << 31}, unix.EAFNOSUPPORT, unix.EAFNOSUPPORT},
		},
		"io_uring_setup": {{[6]uint64{}, unix.ENOSYS, unix.ENOSYS}, {[6]uint64{8, 9}, unix.ENOSYS, unix.ENOSYS}},
		"request_key": {
			{[6]uint64{1, 1, 0, 1}, 0, 0}, {[6]uint64{1, 1, 0x1000}, unix.EACCES, unix.EACCES}, {[6]uint64{1, 1, 1 << 32}, unix.EACCES, unix.EACCES},
		},
		"socketcall": { // socket, bind, socketpair
			{[6]uint64{1}, unix.EAFNOSUPPORT, 0}, {[6]uint64{2}, 0, 0}, {[6]uint64{8}, 0, 0},
		},
	}
	for _, wide := range []bool{true, false} {
		vm, err := bpf.NewVM(filterProgram(wide))
		if err != nil {
			t.Fatal(err)
		}
		want := func(errno unix.Errno) uint32 {
			if errno == 0 {
				return unix.SECCOMP_RET_ALLOW
			}
			return unix.SECCOMP_RET_ERRNO | uint32(errno)
		}
		for _, c := range special {
			for _, test := range cases[c.name] {
				errno := test.errno
				if !wide {
					errno = test.on32
				}
				if got := verdict(t, vm, c.audit, c.nr, test.args); got != want(errno) {
					t.Errorf("64-bit %v, %s = %d of %#x, %#x: got %#x, want %#x", wide, c.name, c.nr, c.audit, test.args, got, want(errno))
				}
			}
		}
		hostile := [6]uint64{unix.AF_VSOCK, unix.TIOCSTI}
		for _, audit := range []uint32{x64, x86, a64, a32, r64} {
			for nr := range uint32(1024) {
				for _, nr := range []uint32{nr, nr | x32Bit} {
					if slices.ContainsFunc(special, func(c call) bool { return c.audit == audit && c.nr&^x32Bit == nr&^x32Bit }) {
						continue
					}
					if got := verdict(t, vm, audit, nr, hostile); got != unix.SECCOMP_RET_ALLOW {
						t.Errorf("call %d of %#x: got %#x, want it allowed", nr, audit, got)
					}
				}
			}
		}
		if got := verdict(t, vm, unix.AUDIT_ARCH_MIPS, 1, [6]uint64{}); got != want(unix.ENOSYS) {
			t.Errorf("an architecture that is not listed: got %#x", got)
		}
	}
}

// TestConventions: the numbers that this build uses itself are in the table.
func TestConventions(t *testing.T) {
	a, err := policy.ArchOf(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(conventions, func(c convention) bool { return c.audit == a.Audit })
	if i < 0 {
		t.Fatalf("no convention of %s: every call of the program would fail", runtime.GOARCH)
	}
	got := fmt.Sprint(conventions[i].ioctl[0], conventions[i].socket, conventions[i].requestKey, ioUringSetup)
	if want := fmt.Sprint(unix.SYS_IOCTL, unix.SYS_SOCKET, unix.SYS_REQUEST_KEY, unix.SYS_IO_URING_SETUP); got != want {
		t.Errorf("ioctl, socket, request_key, io_uring_setup: got %s, want %s", got, want)
	}
}
