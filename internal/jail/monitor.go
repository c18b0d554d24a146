package jail

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"syd/arch"
	"syd/internal/policy"
)

// The steps of the monitor: Close carries out those that need the Go runtime, Last the one that leaves no room for it.

// Monitor is what the steps must know of the process that carries them out.
type Monitor struct {
	Sockets []int // descriptors of the sockets that it keeps
	Filter  policy.Values
}

// setMDWE is for the whole process, and every process that it forks.
func (j *Jail) setMDWE() error {
	return unix.Prctl(unix.PR_SET_MDWE, unix.PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)
}

func (j *Jail) sealVault() error { return j.vault.Seal() }

// Close carries out the steps after the fork, on all threads of the monitor. That of the filter it tries in a child,
// and leaves to Last.
//
// Requires: the main thread; every relay is confined. Nothing can be looked at afterwards.
func (j *Jail) Close(m Monitor) error {
	j.probes.close()
	j.monitor = m
	for id, s := range Steps {
		if s.Where == After && !j.without[id] {
			if err := j.settle(StepID(id), s.apply(j)); err != nil {
				return err
			}
		}
	}
	return nil
}

// closeSockets closes what the owner of this process may have left open by mistake, the listener's copies among
// it. Descriptors of the runtime are not sockets, and stdio is the owner's wish.
func (j *Jail) closeSockets() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 || slices.Contains(j.monitor.Sockets, fd) {
			continue
		}
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(target, "socket:") {
			if err := unix.Close(fd); err != nil {
				return fmt.Errorf("close %s: %w", target, err)
			}
		}
	}
	return nil
}

func (j *Jail) dropPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_DUMPABLE: %w", err)
	}
	var none [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0)
	if errno != 0 {
		return fmt.Errorf("capset: %w", errno)
	}
	var got [2]unix.CapUserData
	if err := unix.Capget(&header, &got[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	if got != none {
		return errors.New("no effect: capabilities are left")
	}
	return nil
}

// last is the monitor's filter; nil: none. trial is the same but that it refuses what last kills for: a death by it
// would be logged as an attack.
var last, trial *unix.SockFprog

// filterMonitor makes the filter ready, and has a child show that there can be one: a call that is not in the policy
// must fail.
func (j *Jail) filterMonitor() error {
	p, err := policy.Monitor()
	if err != nil {
		return err
	}
	rules, err := p.Relocate(j.monitor.Filter)
	if err != nil {
		return err
	}
	j.filters = append(j.filters, bound{p, j.monitor.Filter})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_NO_NEW_PRIVS: %w", err)
	}
	last = &unix.SockFprog{Len: uint16(len(rules)), Filter: &rules[0]}
	mild := slices.Clone(rules)
	for i := range mild {
		if mild[i].Code == unix.BPF_RET|unix.BPF_K && mild[i].K == uint32(policy.KillProcess) {
			mild[i].K = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		}
	}
	trial = &unix.SockFprog{Len: uint16(len(mild)), Filter: &mild[0]}
	b, err := newBuilder()
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	defer unix.Munmap(b.arena)
	const redZone = 64 // room that some ABIs take above the frame of the first function
	// It shares the memory, so that nothing is copied, and this process waits until it has ended.
	const flags = unix.CLONE_VM | unix.CLONE_VFORK | uintptr(unix.SIGCHLD)
	pid, errno := arch.Fork(flags, spanOf(b.arena).end-redZone, rehearse)
	if errno != 0 {
		return fmt.Errorf("clone: %w", errno)
	}
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); err == nil {
			break
		} else if err != unix.EINTR {
			return fmt.Errorf("wait4: %w", err)
		}
	}
	switch {
	case status == 0:
		return nil
	case status.Exited() && status.ExitStatus() != noEffect:
		return fmt.Errorf("seccomp: %w", unix.Errno(status.ExitStatus()))
	}
	return fmt.Errorf("no effect: the child that tries a call outside the policy ended in status %#x", uint32(status))
}

// noEffect is the exit status of the child if the call did not fail; others are errnos.
const noEffect = 255

// rehearse is what the child runs.
//
//go:nosplit
func rehearse() {
	if errno := install(trial); errno != 0 {
		arch.Exit(int32(errno))
	}
	if arch.Errno(arch.Syscall6(unix.SYS_GETPPID, 0, 0, 0, 0, 0, 0)) != unix.EPERM {
		arch.Exit(noEffect)
	}
	arch.Exit(0)
}

// Last puts the filter that Close made ready on the process, on threads that have not ended yet too. It is for a monitor
// that has left the Go runtime, see arch.Leave.
//
//go:nosplit
func Last() unix.Errno {
	if last == nil {
		return 0
	}
	return install(last)
}

//go:nosplit
func install(filter *unix.SockFprog) unix.Errno {
	const flags = unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
	r := arch.Syscall6(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(filter)), 0, 0, 0)
	return arch.Errno(r)
}
