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

	"syd/internal/policy"
)

// The steps of the monitor. The Go runtime lives on in it, so what it may not do is listed, not what it may.

// setMDWE is for the whole process, and every process that it forks.
func (j *Jail) setMDWE() error {
	return unix.Prctl(unix.PR_SET_MDWE, unix.PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)
}

func (j *Jail) sealVault() error { return j.vault.Seal() }

// Close carries out the steps after the fork, all of them on all threads of the monitor. keep are the
// descriptors of the monitor's sockets.
//
// Requires: every relay is confined; nothing can be looked at afterwards.
func (j *Jail) Close(keep []int) error {
	j.probes.close()
	j.sockets = keep
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
		if err != nil || fd <= 2 || slices.Contains(j.sockets, fd) {
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

// dropPrivileges keeps CAP_KILL where the relays have another user and no user namespace of this one's: the
// owner of a namespace may signal into it without.
func (j *Jail) dropPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_DUMPABLE: %w", err)
	}
	var data [2]unix.CapUserData
	if j.user.change && j.flags&unix.CLONE_NEWUSER == 0 {
		data[0].Effective, data[0].Permitted = 1<<unix.CAP_KILL, 1<<unix.CAP_KILL
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)), 0)
	if errno != 0 {
		return fmt.Errorf("capset: %w", errno)
	}
	got := [2]unix.CapUserData{}
	if err := unix.Capget(&header, &got[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	if got != data {
		return errors.New("no effect: capabilities are left")
	}
	return nil
}

// filterMonitor puts the filter on all threads at once: where one of them has its own, the call fails.
func (j *Jail) filterMonitor() error {
	p, err := policy.Monitor()
	if err != nil {
		return err
	}
	rules, err := p.Relocate(policy.Values{})
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_NO_NEW_PRIVS: %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(rules)), Filter: &rules[0]}
	const flags = unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	if err != nil || mode != unix.SECCOMP_MODE_FILTER {
		return fmt.Errorf("no effect: PR_GET_SECCOMP gives %d, %v", mode, err)
	}
	return nil
}
