package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// actEnv makes the test binary act as syd-tor itself, so that what is tested is this build, on any architecture.
const actEnv = "SYD_TOR_TEST_ACT"

// limitEnv is the limit of descriptors, soft and hard, under which syd-tor acts. No shell sets it: test guests have none.
const limitEnv = "SYD_TOR_TEST_NOFILE"

func TestMain(m *testing.M) {
	switch os.Getenv(actEnv) {
	case "":
		go wakeSysmon()
		os.Exit(m.Run())
	case "owner":
		os.Stdin.Read(make([]byte, 1)) // until the test hangs up or kills
		os.Exit(0)
	}
	if n, err := strconv.ParseUint(os.Getenv(limitEnv), 10, 32); err == nil {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: n}); err != nil {
			panic(err)
		}
	}
	main()
}

// wakeSysmon keeps Go's sysmon from long sleeps. go1.26 misses a goroutine that enters a system call just when the
// collector stops the world; until sysmon takes its processor the whole program stands still, and without a timer sysmon
// sleeps for a minute (runtime/proc.go: reentersyscall, stopTheWorldWithSema, sysmon). The tests make many such calls.
func wakeSysmon() {
	for range time.Tick(50 * time.Millisecond) {
	}
}

// self runs the test binary in one of its other roles.
func self(role string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), actEnv+"="+role)
	return cmd
}

// buffer collects what a process writes while the test reads it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// mode is one way in which every forwarding test runs.
type mode struct {
	name string
	args []string
}

// modes lists them. User emulation has nothing that confines: there the unconfined ones stand for all, and
// TestConfinedOrRefused checks that the others refuse to run.
func modes() []mode {
	m := []mode{{"debug", []string{"-d"}}}
	if hasSeccomp() {
		return append(m, mode{"confined", nil}, mode{"workers", []string{"-w", "2"}})
	}
	return append(m, mode{"workers", []string{"-d", "-w", "2"}})
}

// strict is the option, if any, with which syd-tor runs as confined as it can be here.
func strict() []string {
	if hasSeccomp() {
		return nil
	}
	return []string{"-d"}
}

// hasSeccomp asks the kernel, or what stands in for it, for seccomp filters (prctl(2)).
func hasSeccomp() bool {
	_, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	return err == nil
}

// forwarder is a running syd-tor whose owner is the test.
type forwarder struct {
	t      *testing.T
	cmd    *exec.Cmd
	addr   string // of the listening socket
	stderr *buffer
	done   chan struct{}
	ended  bool // the test ended it
}

// startForwarder starts syd-tor with a new listener on 127.0.0.1, as its manual page asks of owners.
func startForwarder(t *testing.T, args ...string) *forwarder {
	t.Helper()
	return startLimited(t, 0, args...)
}

// startLimited is startForwarder with a hard limit of descriptors; 0 leaves it alone.
func startLimited(t *testing.T, descriptors int, args ...string) *forwarder {
	t.Helper()
	return handOver(t, bound(t, unix.AF_INET, true), descriptors, args...)
}

// handOver starts syd-tor and sends it the listener.
func handOver(t *testing.T, listener, descriptors int, args ...string) *forwarder {
	t.Helper()
	f := &forwarder{t: t, addr: localAddr(t, listener), stderr: &buffer{}, done: make(chan struct{})}
	ours, theirs := socketPair(t)
	send(t, ours, listener)
	args = append([]string{"-p", "3", "-i", "4"}, args...)
	f.cmd = self("syd-tor", args...)
	if descriptors != 0 {
		f.cmd.Env = append(f.cmd.Env, limitEnv+"="+strconv.Itoa(descriptors))
	}
	f.cmd.ExtraFiles = []*os.File{pidfd(t, os.Getpid()), theirs}
	f.cmd.Stderr = f.stderr
	// A group of its own, or the kernel would ignore stops by a terminal where the tests have no shell above them.
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	go func() { f.cmd.Wait(); close(f.done) }()
	t.Cleanup(f.stop)
	return f
}

// stop ends the forwarder and fails the test if it had died before.
func (f *forwarder) stop() {
	if f.ended {
		return
	}
	select {
	case <-f.done:
		f.t.Errorf("syd-tor ended before the test did: %v\n%s", f.cmd.ProcessState, f.stderr)
		return
	default:
	}
	f.cmd.Process.Signal(syscall.SIGTERM)
	<-f.done
	if f.t.Failed() {
		log := f.stderr.String()
		f.t.Logf("stderr of syd-tor, its end:\n%s", log[max(0, len(log)-2000):])
	}
}

// counters asks for the counters and returns the next line of them.
func (f *forwarder) counters() map[string]int {
	f.t.Helper()
	f.relays() // before the first fork the signal would end it
	before := strings.Count(f.stderr.String(), "counters:")
	deadline := time.Now().Add(10 * time.Second)
	f.cmd.Process.Signal(unix.SIGUSR1)
	for time.Now().Before(deadline) {
		log := f.stderr.String()
		if strings.Count(log, "counters:") > before && strings.HasSuffix(log, "\n") {
			line := log[strings.LastIndex(log, "counters:")+len("counters:"):]
			line, _, _ = strings.Cut(line, "\n")
			counters := map[string]int{}
			for _, field := range strings.Fields(line) {
				name, value, _ := strings.Cut(field, "=")
				n, err := strconv.Atoi(value)
				if err != nil {
					f.t.Fatalf("counter %q: %v", field, err)
				}
				counters[name] = n
			}
			return counters
		}
		time.Sleep(time.Millisecond)
	}
	f.t.Fatalf("no counters on SIGUSR1\n%s", f.stderr)
	return nil
}

// settled waits until the counter has the value, and fails the test if it does not come to it.
func (f *forwarder) settled(name string, want int) map[string]int {
	f.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		c := f.counters()
		if c[name] == want {
			return c
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("%s = %d, want %d; %v", name, c[name], want, c)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// relays are the pids of the relays.
func (f *forwarder) relays() []int {
	f.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", f.cmd.Process.Pid))
		var pids []int
		for _, s := range strings.Fields(string(b)) {
			n, _ := strconv.Atoi(s)
			pids = append(pids, n)
		}
		if len(pids) > 0 {
			return pids
		}
		time.Sleep(time.Millisecond)
	}
	f.t.Fatalf("syd-tor has no child\n%s", f.stderr)
	return nil
}

// descriptorsOf counts a relay's descriptors from outside. Only root may look at a confined one: others get the
// count that the relay left in its page.
func (f *forwarder) descriptorsOf(pid int) int {
	t := f.t
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if errors.Is(err, os.ErrPermission) {
		return f.counters()["descriptors"]
	}
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// bound returns a TCP socket of family bound to loopback; plain TCP, where Go's own is multipath.
func bound(t *testing.T, family int, listening bool) int {
	t.Helper()
	s, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var sa unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if family == unix.AF_INET6 {
		sa = &unix.SockaddrInet6{Addr: [16]byte{15: 1}}
	}
	if err := unix.Bind(s, sa); err != nil {
		t.Fatal(err)
	}
	if listening {
		if err := unix.Listen(s, unix.SOMAXCONN); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func localAddr(t *testing.T, fd int) string {
	t.Helper()
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(sa.Port))
	case *unix.SockaddrInet6:
		return net.JoinHostPort("::1", strconv.Itoa(sa.Port))
	}
	t.Fatalf("socket name %T", sa)
	return ""
}

func socketPair(t *testing.T) (ours int, theirs *os.File) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pair[0]) })
	return pair[0], os.NewFile(uintptr(pair[1]), "socketpair")
}

// send sends descriptors in one message and closes them here.
func send(t *testing.T, socket int, fds ...int) {
	t.Helper()
	if err := unix.Sendmsg(socket, []byte{0}, unix.UnixRights(fds...), nil, 0); err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func pidfd(t *testing.T, pid int) *os.File {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	t.Cleanup(func() { f.Close() })
	return f
}

// family is one kind of external address.
type family struct {
	name   string
	listen func(t *testing.T) (net.Listener, []string) // and the options that name it
}

var families = []family{
	{"ipv4", func(t *testing.T) (net.Listener, []string) { return listenTCP(t, "tcp4", "127.0.0.1:0") }},
	{"ipv6", func(t *testing.T) (net.Listener, []string) { return listenTCP(t, "tcp6", "[::1]:0") }},
	{"unix", func(t *testing.T) (net.Listener, []string) {
		path := filepath.Join(socketDir(t), "socket")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		os.Chmod(path, 0o666) // the relay is nobody when root runs the test
		return l, []string{"-u", path}
	}},
	{"abstract", func(t *testing.T) (net.Listener, []string) {
		name := fmt.Sprintf("@syd-tor-test-%d-%d", os.Getpid(), time.Now().UnixNano())
		l, err := net.Listen("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l, []string{"-u", name}
	}},
}

func listenTCP(t *testing.T, network, addr string) (net.Listener, []string) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, []string{"-o", l.Addr().String()}
}

// socketDir is a directory with a path short enough for a socket and open to every user.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "syd")
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// dial connects to the forwarder.
func (f *forwarder) dial() *net.TCPConn {
	f.t.Helper()
	c, err := net.DialTimeout("tcp4", f.addr, 10*time.Second)
	if err != nil {
		f.t.Fatal(err)
	}
	return c.(*net.TCPConn)
}
