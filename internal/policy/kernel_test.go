package policy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The interpreter of the other tests is not the kernel. Here a child hands the finished programs of this
// architecture to seccomp(2) and asks the kernel the same questions.

// answers are errnos, which no system call returns, that stand for the actions in the child: with them the filter
// can be asked about anything and lets nothing happen.
var answers = map[Action]syscall.Errno{Allow: 3001, KillProcess: 3002, KillThread: 3003}

// role names the program that the test binary asks about when it is started again as a child, in the environment.
const role = "SYD_POLICY_TEST_CHILD"

func TestMain(m *testing.M) {
	name := os.Getenv(role)
	if name == "" {
		os.Exit(m.Run())
	}
	if err := ask(name); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child runs the test binary to ask about a program, and returns what it printed and how it ended.
func child(t *testing.T, as string) (string, syscall.WaitStatus) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self)
	// Without preemption no signal handler runs on the thread that has the filter.
	cmd.Env = append(os.Environ(), role+"="+as, "GODEBUG=asyncpreemptoff=1", "GOTRACEBACK=none")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if ctx.Err() != nil || err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v, %v: %s", ctx.Err(), err, out)
	}
	return string(out), cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// needSeccomp skips where the kernel has no filters at all: user emulation, or a kernel built without them.
func needSeccomp(t *testing.T) {
	t.Helper()
	action := uint32(KillProcess)
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	if errno == unix.ENOSYS || errno == unix.EINVAL {
		t.Skipf("NOT TESTED: this kernel runs no seccomp filters (%v)", errno)
	}
	if errno != 0 {
		t.Fatal(errno)
	}
}

func TestKernelAgrees(t *testing.T) {
	needSeccomp(t)
	a, err := ArchOf(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range Policies(a) {
		t.Run(p.Name, func(t *testing.T) {
			out, status := child(t, p.Name)
			if status.ExitStatus() != 0 || !strings.HasPrefix(out, "agreed on ") {
				t.Fatalf("status %#x: %s", status, out)
			}
			t.Log(strings.TrimSpace(out))
		})
	}
}

// These two pass every filter, on amd64 and since Linux 6.14 (kernel/seccomp.c): the kernel makes them itself, from
// pages that it maps for uprobes. From elsewhere they are SIGILL and ENXIO, and do nothing.
const (
	uretprobe = 335
	uprobe    = 336
)

// askAll makes the calls. Nosplit, as is all that it calls: at a function's entry the runtime could switch the
// thread to other work, which takes system calls.
//
//go:nosplit
func askAll(cs []call, got []syscall.Errno) {
	for i := range cs {
		c := &cs[i]
		_, _, got[i] = syscall.RawSyscall6(uintptr(c.nr), uintptr(c.args[0]), uintptr(c.args[1]), uintptr(c.args[2]),
			uintptr(c.args[3]), uintptr(c.args[4]), uintptr(c.args[5]))
	}
}

// ask installs the program called name on one thread, with every action replaced by an errno, makes all calls of
// the truth table there, and compares. That thread can do nothing else from then on, so all that it needs is
// prepared before, and it is left spinning.
func ask(name string) error {
	a, err := ArchOf(runtime.GOARCH)
	if err != nil {
		return err
	}
	var p *Policy
	for _, q := range Policies(a) {
		if q.Name == name {
			p = q
		}
	}
	v := ordinary(a, p)
	var cs []call
	for _, c := range cases(p, v) {
		// The kernel fills the architecture in. A uretprobe cannot be asked about where it passes: it is SIGILL.
		if c.arch == a.Audit && !(a.Name == "amd64" && c.nr == uretprobe) {
			cs = append(cs, c)
		}
	}
	prog, err := Load(programs, a.Name, name)
	if err != nil {
		return err
	}
	insns, err := prog.Relocate(v)
	if err != nil {
		return err
	}
	for i := range insns {
		if insns[i].Code == unix.BPF_RET|unix.BPF_K {
			errno, ok := answers[Action(insns[i].K)]
			if !ok {
				return fmt.Errorf("instruction %d: unknown action %#x", i, insns[i].K)
			}
			insns[i].K = unix.SECCOMP_RET_ERRNO | uint32(errno)
		}
	}
	got := make([]syscall.Errno, len(cs))
	fprog := unix.SockFprog{Len: uint16(len(insns)), Filter: &insns[0]}
	// No collection from here on, and none under way: the asking thread could not be stopped for it.
	debug.SetGCPercent(-1)
	runtime.GC()
	var done atomic.Bool
	var failed atomic.Uint32
	go func() {
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			failed.Store(uint32(err.(syscall.Errno)))
		} else if _, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog))); e != 0 {
			failed.Store(uint32(e))
		} else {
			askAll(cs, got)
		}
		done.Store(true)
		for done.Load() {
		}
	}()
	for limit := time.Now().Add(time.Minute); !done.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			return errors.New("the asking thread did not finish")
		}
	}
	if e := syscall.Errno(failed.Load()); e != 0 {
		return fmt.Errorf("install the filter: %w", e)
	}
	rd := read(p, v)
	for i := range cs {
		want := answers[rd.answer(&cs[i])]
		if a.Name == "amd64" && cs[i].nr == uprobe && got[i] == unix.ENXIO {
			continue
		}
		if got[i] != want {
			return fmt.Errorf("call %+x: the kernel answers %d, want %d (%v)", cs[i], got[i], want, answers)
		}
	}
	_, err = fmt.Printf("agreed on %d calls\n", len(cs))
	return err
}
