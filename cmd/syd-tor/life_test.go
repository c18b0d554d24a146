package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// runTor runs syd-tor with files as descriptors 3 and on and returns its exit status and stderr.
func runTor(t *testing.T, files []*os.File, args ...string) (int, string) {
	t.Helper()
	cmd := self("syd-tor", args...)
	cmd.ExtraFiles = files
	return finish(t, cmd)
}

func finish(t *testing.T, cmd *exec.Cmd) (int, string) {
	t.Helper()
	stderr := &buffer{}
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	cmd.Wait()
	if !timer.Stop() {
		t.Fatalf("syd-tor did not end\n%s", stderr)
	}
	return cmd.ProcessState.ExitCode(), stderr.String()
}

// TestHandoff sends what an owner should not send; each gets its line and status.
func TestHandoff(t *testing.T) {
	datagram := func() int {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	unbound := func() int {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	file := func() int {
		fd, err := unix.Open("/dev/null", unix.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	for _, c := range []struct {
		name string
		send func(socket int)
		want string
	}{
		{"nothing", func(s int) {}, "-i 4: closed before the listening socket arrived"},
		{"data alone", func(s int) { unix.Write(s, []byte("x")) }, "-i 4: 0 descriptors arrived, want 1"},
		{"two", func(s int) { send(t, s, bound(t, unix.AF_INET, true), bound(t, unix.AF_INET, true)) }, "-i 4: 2 descriptors arrived, want 1"},
		{"datagram", func(s int) { send(t, s, datagram()) }, "-i 4: what arrived is not a stream socket"},
		{"unbound", func(s int) { send(t, s, unbound()) }, "-i 4: what arrived is not bound to an address"},
		{"not a socket", func(s int) { send(t, s, file()) }, "-i 4: what arrived is not a socket"},
		{"connected", func(s int) {
			l := bound(t, unix.AF_INET, true)
			sa, _ := unix.Getsockname(l)
			c := unbound()
			if err := unix.Connect(c, sa); err != nil {
				t.Fatal(err)
			}
			send(t, s, c)
			t.Cleanup(func() { unix.Close(l) }) // until then it stays connected
		}, "-i 4: what arrived is a connected socket, not one to listen on"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			theirs := os.NewFile(uintptr(pair[1]), "socketpair")
			c.send(pair[0])
			unix.Close(pair[0])
			status, stderr := runTor(t, []*os.File{pidfd(t, os.Getpid()), theirs}, "-p", "3", "-i", "4", "-d")
			theirs.Close()
			if want := "syd-tor: " + c.want + "\n"; status != 65 || stderr != want {
				t.Errorf("status %d, stderr %q, want 65 and %q", status, stderr, want)
			}
		})
	}
}

// TestListenerDoesNotBlock hands over a blocking listener: a relay that comes too late for a client must not sleep
// in accept4(2).
func TestListenerDoesNotBlock(t *testing.T) {
	_, opt := families[0].listen(t)
	listener := bound(t, unix.AF_INET, true)
	ours, err := unix.Dup(listener) // the same open file: its flags are the relay's
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ours)
	f := handOver(t, listener, 0, append(opt, strict()...)...)
	f.counters()
	flags, err := unix.FcntlInt(uintptr(ours), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#x, %v, want O_NONBLOCK", flags, err)
	}
}

// oneFilterMore is the line of a process's status that counts one seccomp filter more than this process has.
func oneFilterMore(t *testing.T) string {
	t.Helper()
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(own), "Seccomp_filters:")
	var n int
	if _, err := fmt.Sscan(text, &n); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("Seccomp_filters:\t%d\n", n+1)
}

// TestConfinedOrRefused starts syd-tor without -d: the relay is under its filter, or, where nothing confines,
// syd-tor refuses before the first accept.
func TestConfinedOrRefused(t *testing.T) {
	if !hasSeccomp() {
		ours, theirs := socketPair(t)
		send(t, ours, bound(t, unix.AF_INET, true))
		status, stderr := runTor(t, []*os.File{pidfd(t, os.Getpid()), theirs}, "-p3", "-i4")
		if status != 69 || !strings.HasPrefix(stderr, "syd-tor: ") {
			t.Errorf("status %d, stderr %q, want 69 and the step that cannot be had", status, stderr)
		}
		return
	}
	upstream, opt := families[0].listen(t)
	go echo(upstream)
	f := startForwarder(t, opt...)
	if got, err := ask(f.addr, "hello"); got != "hello" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	f.counters()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Threads:\t1\n", "Seccomp:\t2\n", oneFilterMore(t), "NoNewPrivs:\t1\n", "CapEff:\t0000000000000000\n"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("status of the monitor lacks %q:\n%s", want, b)
		}
	}
	b, err = os.ReadFile(fmt.Sprintf("/proc/%d/status", f.relays()[0]))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Threads:\t1\n", "Seccomp:\t2\n", "NoNewPrivs:\t1\n", "CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the relay's status lacks %q:\n%s", want, b)
		}
	}
}

// TestBoundOnly sends a socket that was bound and does not listen: syd-tor listens itself.
func TestBoundOnly(t *testing.T) {
	upstream, opt := families[0].listen(t)
	go echo(upstream)
	socket := bound(t, unix.AF_INET, false)
	addr := localAddr(t, socket)
	ours, theirs := socketPair(t)
	send(t, ours, socket)
	cmd := self("syd-tor", append(append(opt, strict()...), "-p3", "-i4")...)
	cmd.ExtraFiles = []*os.File{pidfd(t, os.Getpid()), theirs}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Signal(unix.SIGTERM); cmd.Wait() }()
	theirs.Close()
	deadline := time.Now().Add(20 * time.Second)
	for {
		got, err := ask(addr, "hello")
		if got == "hello" && err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q, %v", got, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// startOwner starts a process that waits, to be the owner of a syd-tor.
func startOwner(t *testing.T) (*exec.Cmd, io.Closer) {
	t.Helper()
	cmd := self("owner")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Wait() })
	return cmd, stdin
}

// gone waits until no process has the pid, and fails the test if one still has after the limit.
func gone(t *testing.T, pid int, limit time.Duration) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for unix.Kill(pid, 0) == nil {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(b), ") Z ") {
			return // ended; whose child it is has to reap it
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there after %v", pid, limit)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestOwnerExit ends the owner while syd-tor waits for the socket and while it forwards: it ends with status 0.
func TestOwnerExit(t *testing.T) {
	for _, stage := range []string{"waiting", "forwarding"} {
		t.Run(stage, func(t *testing.T) {
			upstream, opt := families[0].listen(t)
			go echo(upstream)
			owner, hangUp := startOwner(t)
			ours, theirs := socketPair(t)
			cmd := self("syd-tor", append(append(opt, strict()...), "-p3", "-i4")...)
			cmd.ExtraFiles = []*os.File{pidfd(t, owner.Process.Pid), theirs}
			stderr := &buffer{}
			cmd.Stderr = stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			theirs.Close()
			var relay int
			if stage == "forwarding" {
				listener := bound(t, unix.AF_INET, true)
				addr := localAddr(t, listener)
				send(t, ours, listener)
				if got, err := ask(addr, "hello"); got != "hello" || err != nil {
					t.Fatalf("%q, %v\n%s", got, err, stderr)
				}
				relay = (&forwarder{t: t, cmd: cmd, stderr: stderr}).relays()[0]
			}
			hangUp.Close()
			timer := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
			cmd.Wait()
			timer.Stop()
			if status := cmd.ProcessState.ExitCode(); status != 0 {
				t.Errorf("status %d, want 0\n%s", status, stderr)
			}
			if relay != 0 {
				gone(t, relay, 5*time.Second)
			}
		})
	}
}

// TestOwnerIsStandard gives the owner's PID descriptor as standard input or output, where relays have others.
func TestOwnerIsStandard(t *testing.T) {
	for fd := range 2 {
		upstream, opt := families[0].listen(t)
		go echo(upstream)
		owner, hangUp := startOwner(t)
		listener := bound(t, unix.AF_INET, true)
		addr := localAddr(t, listener)
		ours, theirs := socketPair(t)
		send(t, ours, listener)
		cmd := self("syd-tor", append(append(opt, strict()...), fmt.Sprintf("-p%d", fd), "-i3")...)
		cmd.ExtraFiles = []*os.File{theirs}
		pid := pidfd(t, owner.Process.Pid)
		stderr := &buffer{}
		cmd.Stderr = stderr
		if cmd.Stdin = pid; fd == 1 {
			cmd.Stdin, cmd.Stdout = nil, pid
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		theirs.Close()
		for range 2 {
			if got, err := ask(addr, "hello"); got != "hello" || err != nil {
				t.Errorf("-p%d: %q, %v\n%s", fd, got, err, stderr)
			}
		}
		hangUp.Close()
		timer := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		timer.Stop()
		if status := cmd.ProcessState.ExitCode(); status != 0 {
			t.Errorf("-p%d: status %d, want 0\n%s", fd, status, stderr)
		}
	}
}

// TestRelayKilled checks that the death of a relay ends syd-tor with its own status, and that the cause is told.
func TestRelayKilled(t *testing.T) {
	_, opt := families[0].listen(t)
	f := startForwarder(t, append(opt, strict()...)...)
	f.counters() // it is past its start
	relay := f.relays()[0]
	unix.Kill(relay, unix.SIGKILL)
	<-f.done
	f.ended = true
	want := fmt.Sprintf("syd-tor: relay %d died of SIGKILL: from outside, or memory ran out\n", relay)
	if got := f.cmd.ProcessState.ExitCode(); got != 70 || !strings.HasSuffix(f.stderr.String(), want) {
		t.Errorf("status %d, stderr %q, want 70 and %q", got, f.stderr, want)
	}
}

// TestRelayBlocksSignals sends the relay what would end a process: all but SIGKILL and SIGSTOP are blocked.
func TestRelayBlocksSignals(t *testing.T) {
	upstream, opt := families[0].listen(t)
	go echo(upstream)
	f := startForwarder(t, append(opt, strict()...)...)
	f.counters()
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1, unix.SIGPIPE, unix.SIGALRM, unix.SIGSEGV, unix.SIGSYS} {
		unix.Kill(f.relays()[0], s)
	}
	if got, err := ask(f.addr, "hello"); got != "hello" || err != nil {
		t.Errorf("after the signals: %q, %v", got, err)
	}
}

// TestParentIsOwner leaves -p out: syd-tor lives as long as its parent, here a shell that ends.
func TestParentIsOwner(t *testing.T) {
	ours, theirs := socketPair(t)
	upstream, opt := families[0].listen(t)
	go echo(upstream)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The shell starts syd-tor, tells its pid, and waits for its input to end.
	cmd := exec.Command("/bin/sh", "-c", `"$@" </dev/null & echo $!; read x`, "sh", exe, "-d", "-i", "3", opt[0], opt[1])
	cmd.Env = append(os.Environ(), actEnv+"=syd-tor")
	cmd.ExtraFiles = []*os.File{theirs}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	var pid int
	if _, err := fmt.Fscan(stdout, &pid); err != nil {
		t.Fatal(err)
	}
	listener := bound(t, unix.AF_INET, true)
	addr := localAddr(t, listener)
	send(t, ours, listener)
	if got, err := ask(addr, "hello"); got != "hello" || err != nil {
		t.Fatalf("while the parent lives: %q, %v", got, err)
	}
	stdin.Close()
	gone(t, pid, 10*time.Second)
	cmd.Wait()
}

// TestDebugTellsConnections compares what -d says of one connection with what happened.
func TestDebugTellsConnections(t *testing.T) {
	upstream, opt := families[0].listen(t)
	go echo(upstream)
	f := startForwarder(t, append(opt, "-d")...)
	if _, err := ask(f.addr, "hello"); err != nil {
		t.Fatal(err)
	}
	relay := f.relays()[0]
	want := fmt.Sprintf("syd-tor: relay %[1]d connection 1: opened\nsyd-tor: relay %[1]d connection 1: connected\n"+
		"syd-tor: relay %[1]d connection 1: closed, 5 bytes up, 5 bytes down\n", relay)
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(f.stderr.String(), want) {
		if time.Now().After(deadline) {
			t.Fatalf("stderr %q, want %q", f.stderr, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestPIDNamespace: an owner outside syd-tor's PID namespace is an owner, and a /proc that shows another namespace
// than its own is refused.
func TestPIDNamespace(t *testing.T) {
	if !hasSeccomp() {
		t.Skip("user emulation refuses CLONE_NEWPID")
	}
	ours, theirs := socketPair(t)
	send(t, ours, bound(t, unix.AF_INET, true))
	c := self("syd-tor", "-p", "3", "-i", "4")
	c.ExtraFiles = []*os.File{pidfd(t, os.Getpid()), theirs}
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWUSER}
	want := "syd-tor: /proc shows another PID namespace: mount that of syd-tor's own\n"
	if status, stderr := finish(t, c); status != 69 || stderr != want {
		t.Errorf("status %d, %q, want 69 and %q", status, stderr, want)
	}
}
