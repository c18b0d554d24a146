package policy

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The monitor's program denies, so what it must not break is shown by a Go program that lives under it, and what
// it denies by one that dies of it. Each attack is made twice: without the filter it must get through to the kernel.

// attacks are things that a monitor taken over would do. Each returns the kernel's answer. The arguments are such
// that the kernel refuses or nothing comes of it, except where noted.
var attacks = []struct {
	name string
	do   func() error
}{
	{"socket", func() error { return opened(unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)) }},
	{"socketpair", func() error { _, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err }},
	{"connect", func() error { return raw(unix.SYS_CONNECT, none, 0, 16) }},
	{"sendmsg", func() error { return raw(unix.SYS_SENDMSG, none, 0, 0) }},
	{"recvmsg", func() error { return raw(unix.SYS_RECVMSG, none, 0, 0) }},
	{"execve", func() error { return raw(unix.SYS_EXECVE, 0, 0, 0) }},
	{"execveat", func() error { return raw(unix.SYS_EXECVEAT, none, 0, 0) }},
	// CLONE_SIGHAND without CLONE_VM is refused, so that no second process is made.
	{"fork", func() error { return raw(unix.SYS_CLONE, unix.CLONE_SIGHAND, 0, 0) }},
	{"ptrace", func() error { return raw(unix.SYS_PTRACE, unix.PTRACE_CONT, none, 0) }},
	{"process_vm_writev", func() error { return raw(unix.SYS_PROCESS_VM_WRITEV, uintptr(os.Getpid()), 0, 0) }},
	{"process_vm_readv", func() error { return raw(unix.SYS_PROCESS_VM_READV, uintptr(os.Getpid()), 0, 0) }},
	{"pidfd_getfd", func() error { return raw(unix.SYS_PIDFD_GETFD, none, 0, 0) }},
	{"open for writing", func() error { return opened(unix.Open("/dev/null", unix.O_WRONLY, 0)) }},
	{"open for both", func() error { return opened(unix.Open("/dev/null", unix.O_RDWR, 0)) }},
	{"open and create", func() error { return opened(unix.Open("/dev/null", unix.O_CREAT, 0)) }},
	{"open and truncate", func() error { return opened(unix.Open("/dev/null", unix.O_TRUNC, 0)) }},
	{"openat2", func() error { return raw(unix.SYS_OPENAT2, none, 0, 0) }},
	{"unlink", func() error { return unix.Unlink("") }},
	{"chmod", func() error { return unix.Chmod("", 0) }},
	{"mount", func() error { return raw(unix.SYS_MOUNT, 0, 0, 0) }},
	{"unshare", func() error { return raw(unix.SYS_UNSHARE, 0, 0, 0) }},
	{"setns", func() error { return raw(unix.SYS_SETNS, none, 0, 0) }},
	{"bpf", func() error { return raw(unix.SYS_BPF, none, 0, 0) }},
	{"perf_event_open", func() error { return raw(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0) }},
	{"io_uring_setup", func() error { return raw(unix.SYS_IO_URING_SETUP, 0, 0, 0) }},
	{"userfaultfd", func() error { return raw(unix.SYS_USERFAULTFD, none, 0, 0) }},
	{"keyctl", func() error { return raw(unix.SYS_KEYCTL, none, 0, 0) }},
	{"memfd_create", func() error { return raw(unix.SYS_MEMFD_CREATE, 0, 0, 0) }},
	{"executable memory", func() error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		return err
	}},
	{"memory made executable", func() error { return raw(unix.SYS_MPROTECT, 0, 0, unix.PROT_READ|unix.PROT_EXEC) }},
	{"typing into the terminal", func() error { return raw(unix.SYS_IOCTL, none, unix.TIOCSTI, 0) }},
	{"pasting into the console", func() error { return raw(unix.SYS_IOCTL, none, tiocLinux, 0) }},
	// Signal 0 looks whether there is somebody, and sends nothing.
	{"signal to the group", func() error { return unix.Kill(0, 0) }},
	{"signal to everybody", func() error { return unix.Kill(-1, 0) }},
}

// none is a descriptor or pointer that is nothing's.
const none = ^uintptr(0)

func raw(nr, a, b, c uintptr) error {
	if _, _, e := unix.RawSyscall6(nr, a, b, c, 0, 0, 0); e != 0 {
		return e
	}
	return nil
}

func opened(fd int, err error) error {
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

// live is the child: it puts itself under the monitor's filter, or not, and does what role says.
func live(role string) error {
	as, what, _ := strings.Cut(role, " ")
	if as == "confined" {
		if err := confine(); err != nil {
			return err
		}
	}
	if what == "work" {
		return work()
	}
	for _, a := range attacks {
		if a.name == what {
			fmt.Println("attacking")
			err := a.do()
			if errors.Is(err, unix.ENOSYS) {
				return err // the kernel was reached and has no such call: the control would show nothing
			}
			fmt.Println("survived")
			return nil
		}
	}
	return fmt.Errorf("no such attack: %s", what)
}

// confine puts every thread of the process under the monitor's program.
func confine() error {
	prog, err := Monitor()
	if err != nil {
		return err
	}
	insns, err := prog.Relocate(Values{})
	if err != nil {
		return err
	}
	fprog := unix.SockFprog{Len: uint16(len(insns)), Filter: &insns[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	r, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC|unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH, uintptr(unsafe.Pointer(&fprog)))
	if e != 0 || r != 0 {
		return fmt.Errorf("install the filter: %d, %w", r, e)
	}
	return nil
}

// work is what a Go program does in a day: new threads, garbage, timers, panics, reading, and waiting.
func work() error {
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			runtime.LockOSThread() // ends with the goroutine: a thread of its own
			keep := make([][]byte, 0, 64)
			for range 64 {
				keep = append(keep, make([]byte, 64<<10))
			}
			time.Sleep(time.Duration(i) * time.Millisecond)
			runtime.KeepAlive(keep)
		})
	}
	group.Wait()
	runtime.GC()
	func() {
		defer func() { _ = recover() }()
		var nothing *int
		*nothing = 1 // a signal that the runtime turns into a panic
	}()
	if b, err := os.ReadFile("/proc/self/status"); err != nil || !strings.Contains(string(b), "Seccomp:\t2") {
		return fmt.Errorf("not confined (%v)", err)
	}
	if err := syscall.Kill(os.Getpid(), 0); err != nil {
		return err
	}
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG, nil); !errors.Is(err, unix.ECHILD) {
		return fmt.Errorf("wait: %w", err)
	}
	_, err := fmt.Println("worked")
	return err
}

func TestMonitorLives(t *testing.T) {
	needSeccomp(t)
	if out, status := child(t, "confined work"); status.ExitStatus() != 0 || out != "worked\n" {
		t.Errorf("status %#x: %s", status, out)
	}
}

func TestMonitorAttacked(t *testing.T) {
	needSeccomp(t)
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			if out, status := child(t, "bare "+a.name); status.ExitStatus() != 0 || out != "attacking\nsurvived\n" {
				t.Fatalf("unconfined: status %#x: %s", status, out)
			}
			out, status := child(t, "confined "+a.name)
			if !status.Signaled() || status.Signal() != unix.SIGSYS || out != "attacking\n" {
				t.Errorf("status %#x, want death by SIGSYS: %s", status, out)
			}
		})
	}
}
