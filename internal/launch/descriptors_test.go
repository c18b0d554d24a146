package launch

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// deniedEnv makes the test binary close its descriptors where close_range(2) fails with EPERM. It exits with noFilter if
// that cannot be had.
const (
	deniedEnv = "LAUNCH_TEST_DENIED"
	noFilter  = 77
)

func init() {
	if os.Getenv(deniedEnv) == "" {
		return
	}
	runtime.LockOSThread()
	if err := denyCloseRange(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(noFilter)
	}
	if err := closesDescriptors(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func denyCloseRange() error {
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: dataNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SYS_CLOSE_RANGE, SkipFalse: 1},
		bpf.RetConstant{Val: refuse(unix.EPERM)},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW},
	})
	if err != nil {
		return err
	}
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return installFilter(0, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
}

func closesDescriptors() error {
	var pipe [2]int
	if err := unix.Pipe(pipe[:]); err != nil {
		return err
	}
	if err := unix.CloseRange(uint(pipe[0]), uint(pipe[1]), unix.CLOSE_RANGE_CLOEXEC); err != unix.EPERM {
		return fmt.Errorf("control: close_range: %v", err)
	}
	if err := closeDescriptors(nil); err != nil {
		return err
	}
	for _, fd := range pipe {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			return fmt.Errorf("descriptor %d stays open: flags %x, %v", fd, flags, err)
		}
	}
	return nil
}

// TestCloseDescriptors: a container's filter may not know close_range(2), and answer with EPERM.
func TestCloseDescriptors(t *testing.T) {
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), deniedEnv+"=1")
	out, err := c.CombinedOutput()
	var e *exec.ExitError
	if errors.As(err, &e) && e.ExitCode() == noFilter {
		t.Skipf("no filter can be had here: %s", out)
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
