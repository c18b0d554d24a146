package arch_test

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"syd/arch"
)

// forkEnv makes the test binary fork on its main thread, which a test function does not run on.
const forkEnv = "ARCH_TEST_FORK"

var exitStatus int32 = 41

//go:nosplit
func exitChild() { arch.Exit(exitStatus + 1) }

func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(aloneEnv) != "":
		goAlone()
	case os.Getenv(forkEnv) == "":
		os.Exit(m.Run())
	}
	stack, err := unix.Mmap(-1, 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		panic(err)
	}
	pid, errno := arch.Fork(uintptr(unix.SIGCHLD), uintptr(unsafe.Pointer(&stack[1<<16-64])), exitChild)
	if errno != 0 {
		panic(errno)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		panic(err)
	}
	os.Exit(status.ExitStatus())
}

func TestForkRunsChildOnItsStack(t *testing.T) {
	for range 20 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), forkEnv+"=1")
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 42 {
			t.Fatalf("exit code %d, want 42: %v %s", cmd.ProcessState.ExitCode(), err, out)
		}
	}
}

func TestSyscallResults(t *testing.T) {
	if got := arch.Close(-1); got != -int(unix.EBADF) {
		t.Errorf("close(-1) = %d, want %d", got, -int(unix.EBADF))
	}
	if got := int(arch.Syscall6(unix.SYS_GETPID, 0, 0, 0, 0, 0, 0)); got != os.Getpid() {
		t.Errorf("getpid = %d, want %d", got, os.Getpid())
	}
	if e := arch.Errno(^uintptr(0)); e != unix.EPERM {
		t.Errorf("Errno(-1) = %v, want EPERM", e)
	}
	if e := arch.Errno(^uintptr(4095)); e != 0 {
		t.Errorf("Errno(-4096) = %v, want none: it is an address", e)
	}
}

// TestSixArguments sends all six arguments through one call that needs each: splice with an offset.
func TestSixArguments(t *testing.T) {
	var in, out [2]int
	if err := unix.Pipe2(in[:], unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	if err := unix.Pipe2(out[:], unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, fd := range []int{in[0], in[1], out[0], out[1]} {
			unix.Close(fd)
		}
	}()
	if got := arch.Splice(int32(in[0]), int32(out[1]), 100); got != -int(unix.EAGAIN) {
		t.Errorf("splice from an empty pipe = %d, want -EAGAIN", got)
	}
	if _, err := unix.Write(in[1], make([]byte, 70)); err != nil {
		t.Fatal(err)
	}
	if got := arch.Splice(int32(in[0]), int32(out[1]), 50); got != 50 {
		t.Errorf("splice = %d, want 50", got)
	}
	if got := arch.Splice(int32(in[0]), int32(out[1]), 50); got != 20 {
		t.Errorf("splice = %d, want the other 20", got)
	}
}
