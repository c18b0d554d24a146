package launch

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// traceEnv makes the test binary trace the process that it names, and exit with the errno of that.
const (
	traceEnv  = "LAUNCH_TEST_TRACE"
	domainEnv = "LAUNCH_TEST_DOMAIN" // not empty: in a domain
)

func init() {
	pid, err := strconv.Atoi(os.Getenv(traceEnv))
	if err != nil {
		return
	}
	runtime.LockOSThread()
	if os.Getenv(domainEnv) != "" {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			panic(err)
		}
		if err := enterDomain(); err != nil {
			panic(err)
		}
	}
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0, 0, 0)
	os.Exit(int(errno))
}

// TestDomain traces a process outside, with all that else may allow it: the domain alone must forbid it.
func TestDomain(t *testing.T) {
	if version, err := ll.LandlockGetABIVersion(); err != nil || version < 6 {
		t.Skipf("this kernel has no Landlock scopes (version %d, %v)", version, err)
	}
	neighbour := exec.Command("sleep", "60")
	if err := neighbour.Start(); err != nil {
		t.Fatal(err)
	}
	defer neighbour.Wait()
	defer neighbour.Process.Kill()
	trace := func(domain string) unix.Errno {
		c := exec.Command("/proc/self/exe")
		c.Env = append(os.Environ(), traceEnv+"="+strconv.Itoa(neighbour.Process.Pid), domainEnv+"="+domain)
		c.Stderr = os.Stderr
		c.Run()
		return unix.Errno(c.ProcessState.ExitCode())
	}
	if errno := trace(""); errno != 0 {
		t.Skipf("a process outside cannot be traced without a domain either: %v", errno)
	}
	if errno := trace("1"); errno != unix.EPERM {
		t.Errorf("in a domain: got %v, want %v", errno, unix.EPERM)
	}
}
