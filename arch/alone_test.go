package arch_test

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"syd/arch"
)

// aloneEnv makes the test binary leave the Go runtime on its main thread.
const aloneEnv = "ARCH_TEST_ALONE"

// What the process that is alone uses: it has no heap to rely on.
var (
	aloneByte [1]byte
	aloneTime [2]int
	aloneMask = ^uint64(0) &^ (1 << (unix.SIGUSR2 - 1))
)

// goAlone has a signal arrive while there is still a runtime, gives the runtime threads that run, wait and are in a
// system call, and leaves it. On stdout it says that it is alone; then it waits for a second signal.
func goAlone() {
	for _, s := range []unix.Signal{unix.SIGUSR1, unix.SIGUSR2} {
		if err := arch.Catch(s); err != nil {
			panic(err)
		}
	}
	if err := unix.Kill(os.Getpid(), unix.SIGUSR1); err != nil {
		panic(err)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		panic(err)
	}
	for range 8 {
		go func() {
			for {
				runtime.KeepAlive(make([]byte, 1<<10))
			}
		}()
		go time.Sleep(time.Hour)
		go unix.Read(pipe[0], make([]byte, 1))
	}
	time.Sleep(20 * time.Millisecond)
	tasks, err := arch.OpenTasks()
	if err != nil {
		panic(err)
	}
	beAlone(tasks)
}

//go:nosplit
func beAlone(tasks int) {
	arch.Leave()
	arch.Alone(tasks)
	if !arch.Caught(unix.SIGUSR1) || arch.Caught(unix.SIGUSR1) || arch.Caught(unix.SIGUSR2) {
		arch.Exit(1)
	}
	if arch.Write(1, uintptr(unsafe.Pointer(&aloneByte)), 1) != 1 {
		arch.Exit(2)
	}
	for !arch.Caught(unix.SIGUSR2) {
		aloneTime[0], aloneTime[1] = 20, 0
		if arch.Poll(0, 0, uintptr(unsafe.Pointer(&aloneTime)), uintptr(unsafe.Pointer(&aloneMask))) == 0 {
			arch.Exit(3)
		}
	}
	arch.Exit(42)
}

// TestAlone: whatever its threads do, the process ends up with one, which hears the signals that came before and those
// that come after.
func TestAlone(t *testing.T) {
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "/proc/self/exe")
		cmd.Env = append(os.Environ(), aloneEnv+"=1")
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if n, err := out.Read(make([]byte, 1)); n != 1 {
			t.Fatalf("not alone: %v, %v", err, cmd.Wait())
		}
		tasks, err := os.ReadDir("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/task")
		if err != nil {
			t.Fatal(err)
		}
		own := 1
		if os.Getenv("SYD_TEST_EMULATED") != "" {
			own = 2 // one is the emulator's
		}
		if len(tasks) != own {
			t.Errorf("%d threads, want %d", len(tasks), own)
		}
		if err := cmd.Process.Signal(unix.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 42 {
			t.Fatalf("exit code %d, want 42: %v", cmd.ProcessState.ExitCode(), err)
		}
	}
}
