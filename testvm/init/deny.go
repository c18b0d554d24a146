package main

import (
	"fmt"
	"os/exec"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// start starts cmd. With deny it does so from a thread whose seccomp filter answers those system calls with ENOSYS:
// a program inherits its parent thread's filter, and a kernel that lacks a call answers in the same way.
func start(cmd *exec.Cmd, deny []int) error {
	if len(deny) == 0 {
		return cmd.Start()
	}
	done := make(chan error)
	go func() {
		// Never unlocked: the thread keeps its filter and must end with this goroutine.
		runtime.LockOSThread()
		if err := filter(deny); err != nil {
			done <- fmt.Errorf("deny: %w", err)
			return
		}
		done <- cmd.Start()
	}()
	return <-done
}

// filter installs: load the number; equal to one of deny → ENOSYS; else allow. It is no protection, only a kernel
// with something missing, so the architecture word is not looked at. Requires: CAP_SYS_ADMIN, which stands in for
// no_new_privs; that would change what the programs see.
func filter(deny []int) error {
	prog := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}} // offset 0: seccomp_data.nr
	for _, nr := range deny {
		prog = append(prog,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(nr)},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)})
	}
	prog = append(prog, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if _, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog))); e != 0 {
		return e
	}
	return nil
}
