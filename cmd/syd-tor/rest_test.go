package main

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestRest watches monitor and relays with nothing to do: one thread each, in a wait without end, and no context switch.
func TestRest(t *testing.T) {
	if os.Geteuid() != 0 || os.Getenv("SYD_TEST_EMULATED") != "" {
		t.Skip("only root may look at a confined process, and an emulator has threads and waits of its own")
	}
	_, opt := families[0].listen(t)
	for _, m := range modes() {
		if slices.Contains(m.args, "-d") {
			continue // looks for news fifty times a second
		}
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			f := startForwarder(t, append(slices.Clone(opt), m.args...)...)
			f.counters() // it waits, or is about to
			time.Sleep(100 * time.Millisecond)
			for _, pid := range append(f.relays(), f.cmd.Process.Pid) {
				resting(t, pid)
				before := switches(t, pid)
				time.Sleep(time.Second)
				if n := switches(t, pid) - before; n != 0 {
					t.Errorf("process %d was woken %d times", pid, n)
				}
			}
		})
	}
}

// resting checks that a process has one thread, and that this is in a wait that only an event ends.
func resting(t *testing.T, pid int) {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil || len(tasks) != 1 {
		t.Errorf("process %d has threads %v, %v; want one", pid, tasks, err)
	}
	// The number of the call that it is in and its arguments, proc_pid_syscall(5).
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
	if err != nil {
		t.Fatal(err)
	}
	var nr, fds, count, timeout, fourth uint64
	if _, err := fmt.Sscanf(string(text), "%d %v %v %v %v", &nr, &fds, &count, &timeout, &fourth); err != nil {
		t.Fatalf("process %d: %q: %v", pid, text, err)
	}
	switch nr {
	case unix.SYS_PPOLL:
		// Two words, the seconds first. The kernel writes what is left when the call returns, so this is what it was.
		var seconds [1]int
		local := []unix.Iovec{{Base: (*byte)(unsafe.Pointer(&seconds))}}
		local[0].SetLen(int(unsafe.Sizeof(seconds)))
		remote := []unix.RemoteIovec{{Base: uintptr(timeout), Len: int(unsafe.Sizeof(seconds))}}
		if _, err := unix.ProcessVMReadv(pid, local, remote, 0); err != nil || seconds[0] != math.MaxInt32 {
			t.Errorf("process %d waits %d s, %v; want the longest", pid, seconds[0], err)
		}
	case sysWait:
		if int32(fourth) != -1 {
			t.Errorf("process %d waits %d ms; want without end", pid, int32(fourth))
		}
	default:
		t.Errorf("process %d is in system call %d", pid, nr)
	}
}

// switches counts the context switches of a process's threads, proc_pid_status(5).
func switches(t *testing.T, pid int) (n int) {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, task.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var count int
			if name, value, ok := strings.Cut(line, ":"); ok && strings.HasSuffix(name, "_ctxt_switches") {
				if _, err := fmt.Sscan(value, &count); err != nil {
					t.Fatalf("%q: %v", line, err)
				}
				n += count
			}
		}
	}
	return n
}

// TestSignals sends the monitor what users and service managers send. No relay outlives it.
func TestSignals(t *testing.T) {
	_, opt := families[0].listen(t)
	for _, c := range []struct {
		signal unix.Signal
		want   string // how it ends; "": it lives on
		says   string
	}{
		{unix.SIGKILL, "signal: killed", ""},
		{unix.SIGTERM, "exit status 143", ""},
		{unix.SIGINT, "exit status 130", "syd-tor: ended by SIGINT\n"},
		{unix.SIGHUP, "exit status 129", "syd-tor: ended by SIGHUP\n"},
		{unix.SIGQUIT, "exit status 131", "syd-tor: ended by SIGQUIT\n"},
		{unix.SIGABRT, "signal: aborted", ""},
		{unix.SIGUSR2, "", ""},
		{unix.SIGALRM, "", ""},
		{unix.SIGPIPE, "", ""},
		{unix.SIGWINCH, "", ""},
		{unix.SIGURG, "", ""},
		{unix.SIGPROF, "", ""},
	} {
		t.Run(unix.SignalName(c.signal), func(t *testing.T) {
			t.Parallel()
			f := startForwarder(t, append(slices.Clone(opt), append(strict(), "-w2")...)...)
			f.counters()
			relays := f.relays()
			if err := f.cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			if c.want == "" {
				f.counters()
				return
			}
			f.ended = true
			select {
			case <-f.done:
			case <-time.After(20 * time.Second):
				t.Fatal("it lives on")
			}
			got := strings.TrimSuffix(f.cmd.ProcessState.String(), " (core dumped)")
			_, says, _ := strings.Cut(f.stderr.String(), " counters:")
			_, says, _ = strings.Cut(says, "\n")
			if c.signal == unix.SIGABRT && strings.HasPrefix(says, "qemu: uncaught target signal 6 ") {
				says = "" // user emulation tells it as well
			}
			if got != c.want || says != c.says {
				t.Errorf("%s, %q; want %s, %q", got, says, c.want, c.says)
			}
			for _, pid := range relays {
				gone(t, pid, 5*time.Second)
			}
		})
	}
}

// TestStopAndGoOn: a stopped monitor, as by the terminal, goes on where it was; what was asked meanwhile is answered.
func TestStopAndGoOn(t *testing.T) {
	_, opt := families[0].listen(t)
	f := startForwarder(t, append(opt, strict()...)...)
	f.counters()
	pid := f.cmd.Process.Pid
	if err := unix.Kill(pid, unix.SIGTSTP); err != nil {
		t.Fatal(err)
	}
	stopped := func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		return rest[0] == 'T'
	}
	for deadline := time.Now().Add(10 * time.Second); !stopped(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("SIGTSTP did not stop it")
		}
	}
	said := strings.Count(f.stderr.String(), "counters:")
	if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if strings.Count(f.stderr.String(), "counters:") != said {
		t.Error("a stopped process spoke")
	}
	if err := unix.Kill(pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); strings.Count(f.stderr.String(), "counters:") == said; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no answer after SIGCONT")
		}
	}
	f.counters()
}

// TestSignalsWhileStarting sends signals at moments of the start from the first fork on; before it no relay can be left
// behind. SIGPROF changes nothing, SIGKILL leaves no relay, however far it was.
func TestSignalsWhileStarting(t *testing.T) {
	_, opt := families[0].listen(t)
	for _, s := range []unix.Signal{unix.SIGPROF, unix.SIGKILL} {
		t.Run(unix.SignalName(s), func(t *testing.T) {
			for n := range 40 {
				f := startForwarder(t, append(slices.Clone(opt), strict()...)...)
				f.relays() // the first fork is done
				time.Sleep(time.Duration(n) * time.Millisecond / 4)
				relays := f.relays()
				if err := f.cmd.Process.Signal(s); err != nil {
					t.Fatal(err)
				}
				if s == unix.SIGPROF {
					f.counters()
					f.stop()
				} else {
					<-f.done
				}
				f.ended = true
				for _, pid := range relays {
					gone(t, pid, 5*time.Second)
				}
			}
		})
	}
}

// TestOwnerGoneWhileStarting ends the owner at any moment of the start: that is no error, and nothing is said of one.
func TestOwnerGoneWhileStarting(t *testing.T) {
	_, opt := families[0].listen(t)
	for n := range 40 {
		owner := exec.Command("sleep", fmt.Sprintf("0.%04d", n*5))
		if err := owner.Start(); err != nil {
			t.Fatal(err)
		}
		ours, theirs := socketPair(t)
		send(t, ours, bound(t, unix.AF_INET, true))
		cmd := self("syd-tor", append(append([]string{"-p", "3", "-i", "4"}, opt...), strict()...)...)
		cmd.ExtraFiles = []*os.File{pidfd(t, owner.Process.Pid), theirs}
		ended := make(chan struct{})
		go func() { owner.Wait(); close(ended) }()
		status, stderr := finish(t, cmd)
		theirs.Close()
		<-ended
		for line := range strings.Lines(stderr) {
			if status != 0 || !strings.HasPrefix(line, "syd-tor: not available here: ") && line != "syd-tor: running without confinement\n" {
				t.Fatalf("status %d, %q", status, stderr)
			}
		}
	}
}

// TestForeignChild gives syd-tor a child that it does not know of, as a shell's exec does. Its end says nothing of a
// relay, and while it lives the end of syd-tor is not held up.
func TestForeignChild(t *testing.T) {
	_, opt := families[0].listen(t)
	ours, theirs := socketPair(t)
	send(t, ours, bound(t, unix.AF_INET, true))
	tor := self("syd-tor", append(append([]string{"-p", "3", "-i", "4"}, opt...), strict()...)...)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", append([]string{"-c", `sleep .2 & sleep 60 & exec "$0" "$@"`, program}, tor.Args[1:]...)...)
	cmd.Env = tor.Env
	cmd.ExtraFiles = []*os.File{pidfd(t, os.Getpid()), theirs}
	stderr := &buffer{}
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	if n, err := unix.Read(ours, make([]byte, 1)); n != 1 {
		t.Fatalf("not ready: %d, %v: %s", n, err, stderr)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(400 * time.Millisecond)
	began := time.Now()
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// The foreign child keeps stderr open.
	for _, pid := range strings.Fields(string(text)) {
		defer func() {
			var n int
			if fmt.Sscan(pid, &n); n > 0 {
				unix.Kill(n, unix.SIGKILL)
			}
		}()
	}
	state, err := cmd.Process.Wait()
	if err != nil || state.ExitCode() != 143 {
		t.Errorf("%v, %v, want status 143: %s", state, err, stderr)
	}
	if d := time.Since(began); d > 900*time.Millisecond && os.Getenv("SYD_TEST_EMULATED") == "" {
		t.Errorf("the end took %v", d)
	}
}

// TestPollFails takes from the monitor what its wait needs: it must end and say so rather than spin.
func TestPollFails(t *testing.T) {
	_, opt := families[0].listen(t)
	f := startForwarder(t, append(opt, strict()...)...)
	f.counters()
	if err := unix.Prlimit(f.cmd.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{}, nil); err != nil {
		t.Fatal(err)
	}
	f.cmd.Process.Signal(unix.SIGURG) // nothing: it is in a wait that began with the old limit
	f.cmd.Process.Signal(unix.SIGUSR1)
	<-f.done
	f.ended = true
	if got, log := f.cmd.ProcessState.ExitCode(), f.stderr.String(); got != 71 || !strings.HasSuffix(log, "syd-tor: ppoll: invalid argument\n") {
		t.Errorf("status %d, %s", got, log)
	}
}

// TestTermWhileWriting sends SIGTERM to a monitor that waits for room in stderr: it ends as soon as that wait does.
func TestTermWhileWriting(t *testing.T) {
	_, opt := families[0].listen(t)
	ours, theirs := socketPair(t)
	send(t, ours, bound(t, unix.AF_INET, true))
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	cmd := self("syd-tor", append(append([]string{"-p", "3", "-i", "4"}, opt...), strict()...)...)
	cmd.ExtraFiles = []*os.File{pidfd(t, os.Getpid()), theirs}
	cmd.Stderr = writer
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	if n, err := unix.Read(ours, make([]byte, 1)); n != 1 {
		t.Fatalf("not ready: %d, %v", n, err)
	}
	// Full, and blocking as before.
	fd := int(writer.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = unix.Write(fd, make([]byte, 4096))
	}
	if err != unix.EAGAIN {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	for _, s := range []unix.Signal{unix.SIGUSR1, unix.SIGTERM} {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	timer := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
	defer timer.Stop()
	cmd.Wait()
	if got := cmd.ProcessState.String(); got != "exit status 143" {
		t.Error(got)
	}
}
