package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"syd/internal/exit"
)

// A program tries to get past syd: by way of processes outside, of the terminal, of sockets that are not bound to a
// network namespace. Each attack is made by the test binary in another role, outside as the positive control, where
// it must succeed, and inside, where it must fail with the errno that the table names.

// attackEnv names what to attack with: "attack pid pid...", or "all pid pid..." for those on processes.
const attackEnv = "SYD_TEST_ATTACK"

// onProcess are the attacks on another process of the same user, each with its errno inside.
var onProcess = []struct {
	name string
	errs unix.Errno
	run  func(pid int) error
}{
	{"trace", unix.EPERM, func(pid int) error {
		_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0, 0, 0)
		if errno != 0 {
			return errno
		}
		unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_INTERRUPT, uintptr(pid), 0, 0, 0, 0)
		unix.Wait4(pid, nil, unix.WALL, nil)
		return unix.PtraceDetach(pid)
	}},
	{"read", unix.EPERM, func(pid int) error {
		// An address that is mapped in neither: what is allowed fails with EFAULT.
		local := []unix.Iovec{{Base: new(byte), Len: 1}}
		_, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: 1, Len: 1}}, 0)
		if err == unix.EFAULT {
			return nil
		}
		return err
	}},
	{"write", unix.EPERM, func(pid int) error {
		local := []unix.Iovec{{Base: new(byte), Len: 1}}
		_, err := unix.ProcessVMWritev(pid, local, []unix.RemoteIovec{{Base: 1, Len: 1}}, 0)
		if err == unix.EFAULT {
			return nil
		}
		return err
	}},
	{"mem", unix.EACCES, opens("mem", unix.O_RDWR)},
	{"environ", unix.EACCES, opens("environ", unix.O_RDONLY)},
	{"descriptor", unix.EACCES, func(pid int) error {
		_, err := unix.Readlink(fmt.Sprintf("/proc/%d/fd/0", pid), make([]byte, 64))
		return err
	}},
	{"root", unix.EACCES, opens("root", unix.O_RDONLY)},
	{"namespace", unix.EACCES, opens("ns/net", unix.O_RDONLY)},
	{"pidfd", unix.EPERM, func(pid int) error {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return fmt.Errorf("pidfd_open: %w", err)
		}
		defer unix.Close(fd)
		taken, err := unix.PidfdGetfd(fd, 0, 0)
		if err == nil {
			unix.Close(taken)
		}
		return err
	}},
	// Signals are what they were: an honest limit, which this row holds.
	{"signal", 0, func(pid int) error { return unix.Kill(pid, 0) }},
}

func opens(name string, flags int) func(int) error {
	return func(pid int) error {
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/%s", pid, name), flags|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

// others are the attacks on no process.
var others = map[string]func() error{
	"vsock": func() error {
		_, _, errno := unix.Syscall(unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if errno != 0 {
			return errno
		}
		return nil
	},
	// On 386 this is socketcall(2).
	"vsock-by-library": func() error {
		_, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	},
	"io_uring": func() error {
		var params [120]byte // struct io_uring_params
		_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
		if errno != 0 {
			return errno
		}
		return nil
	},
	// The kernel starts request-key(8) outside, where that is installed; that it tried is what counts.
	"request_key": func() error {
		_, err := unix.RequestKey("user", "syd-test", "none", 0)
		if err == unix.ENOENT || err == unix.ENOKEY {
			return nil
		}
		return err
	},
	"terminal": func() error {
		c := byte(' ')
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(unsafe.Pointer(&c)))
		if errno != 0 {
			return errno
		}
		return nil
	},
	// Standard input leaves its peer, and goes to the port that is the process's last argument.
	"reconnect": func() error {
		port, err := strconv.Atoi(os.Args[len(os.Args)-1])
		if err != nil {
			return err
		}
		var unspecified [16]byte
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, 0, uintptr(unsafe.Pointer(&unspecified)), 16)
		if errno != 0 {
			return errno
		}
		return unix.Connect(0, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
	},
}

// attack carries out an order and prints one line "attack pid errno" for each attempt, with 0 for success.
func attack(order string) int {
	runtime.LockOSThread() // who traces is a thread
	report := func(name string, pid int, err error) {
		var errno unix.Errno
		if err != nil && !errors.As(err, &errno) {
			panic(err)
		}
		fmt.Println(name, pid, int(errno))
	}
	fields := strings.Fields(order)
	if run, ok := others[fields[0]]; ok {
		report(fields[0], 0, run())
		return 0
	}
	targets := fields[1:]
	if slices.Contains(targets, "parents") { // the parent, and its other children
		targets = []string{strconv.Itoa(os.Getppid())}
		list, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", os.Getppid()))
		for _, child := range strings.Fields(string(list)) {
			if child != strconv.Itoa(os.Getpid()) {
				targets = append(targets, child)
			}
		}
	}
	for _, target := range targets {
		pid, err := strconv.Atoi(target)
		if err != nil {
			panic(err)
		}
		for _, a := range onProcess {
			report(a.name, pid, a.run(pid))
		}
	}
	return 0
}

// attacker is a copy of the test binary that every user may execute.
func attacker(t *testing.T) string {
	t.Helper()
	path := filepath.Join(bin, "attacker")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// attempt runs an order outside, or inside with args of syd before the program.
func attempt(t *testing.T, c *exec.Cmd, order string) string {
	t.Helper()
	c.Env = append(os.Environ(), attackEnv+"="+order)
	c.Dir = "/"
	return output(t, c)
}

// results reads the lines of an order: errno by attack and process.
func results(t *testing.T, text string) map[string]unix.Errno {
	t.Helper()
	found := map[string]unix.Errno{}
	for line := range strings.Lines(text) {
		var name string
		var pid, errno int
		if _, err := fmt.Sscan(line, &name, &pid, &errno); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		found[fmt.Sprint(name, " ", pid)] = unix.Errno(errno)
	}
	return found
}

// neighbour starts a process outside. Its standard input stays open as long as the test runs.
func neighbour(t *testing.T, user *syscall.Credential, program ...string) int {
	t.Helper()
	c := exec.Command(program[0], program[1:]...)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); c.Process.Kill(); c.Wait() })
	return c.Process.Pid
}

// needTracing skips where Yama forbids what the controls do: to trace a process that is no child.
func needTracing(t *testing.T, user *syscall.Credential) {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	if err == nil && user != nil && strings.TrimSpace(string(text)) != "0" {
		t.Skipf("kernel.yama.ptrace_scope is %s: nothing would be shown", strings.TrimSpace(string(text)))
	}
}

// TestProcessesOutside attacks a process of the same user, syd and syd-tor, from inside.
func TestProcessesOutside(t *testing.T) {
	needNamespaces(t)
	for name, user := range users() {
		t.Run(name, func(t *testing.T) {
			needTracing(t, user)
			a := attacker(t)
			pid := neighbour(t, user, "cat")
			outside := exec.Command(a)
			outside.SysProcAttr = &syscall.SysProcAttr{Credential: user}
			control := results(t, attempt(t, outside, fmt.Sprint("all ", pid)))
			if len(control) != len(onProcess) {
				t.Fatalf("control: %d attempts, want %d", len(control), len(onProcess))
			}
			for attack, errno := range control {
				if errno != 0 {
					t.Errorf("control: %s: %v", attack, errno)
				}
			}
			inside := results(t, attempt(t, command(t, user, a), fmt.Sprint("all ", pid)))
			around := results(t, attempt(t, command(t, user, a), "all parents"))
			if want := len(onProcess); len(inside) != want || len(around) != 2*want {
				t.Fatalf("%d and %d attempts, want %d and %d: %v", len(inside), len(around), want, 2*want, around)
			}
			for _, list := range []map[string]unix.Errno{inside, around} {
				for attack, errno := range list {
					for _, row := range onProcess {
						if strings.HasPrefix(attack, row.name+" ") && errno != row.errs {
							t.Errorf("%s (neighbour %d): got %v, want %v", attack, pid, errno, row.errs)
						}
					}
				}
			}
		})
	}
}

// TestWithoutUserNamespace is the weakest way in: root without a user namespace, against a process that has no
// capabilities either. Landlock alone stands between them.
func TestWithoutUserNamespace(t *testing.T) {
	needNamespaces(t)
	a := attacker(t)
	const bare = "setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "
	run := func(inner string) map[string]unix.Errno {
		t.Helper()
		// The target has capabilities, and could not be traced, until setpriv(1) has become sleep(1).
		c := exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "--net", "sh", "-c",
			"echo 0 >/proc/sys/user/max_user_namespaces; "+bare+"sleep 60 & n=0; "+
				"until [ \"$(cat /proc/$!/comm)\" = sleep ]; do [ $((n=n+1)) -lt 500 ] || exit 1; sleep .02; done; "+
				"export "+attackEnv+"=\"all $!\"; "+inner+"; s=$?; kill $!; exit $s")
		found := results(t, output(t, c))
		if len(found) != len(onProcess) {
			t.Fatalf("%s: %d attempts, want %d", inner, len(found), len(onProcess))
		}
		return found
	}
	for attack, errno := range run(bare + a) {
		if errno != 0 {
			t.Errorf("control: %s: %v", attack, errno)
		}
	}
	for attack, errno := range run(bin + "/syd -m sandbox/proxy:on " + a) {
		for _, row := range onProcess {
			if strings.HasPrefix(attack, row.name+" ") && errno != row.errs {
				t.Errorf("%s: got %v, want %v", attack, errno, row.errs)
			}
		}
	}
}

// TestSydHidden: no other process of an ordinary user reaches into syd, which stands outside with the way back in.
func TestSydHidden(t *testing.T) {
	needNamespaces(t)
	user, ok := users()["ordinary"]
	if !ok || user == nil && os.Geteuid() == 0 {
		t.Fatal("no ordinary user")
	}
	needTracing(t, user)
	c, _, _ := sleeper(t, user, "exec sleep 30")
	defer func() { c.Process.Signal(unix.SIGTERM); c.Wait() }()
	outside := exec.Command(attacker(t))
	outside.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	control := fmt.Sprint("trace ", neighbour(t, user, "cat"))
	found := results(t, attempt(t, outside, fmt.Sprint("all ", strings.Fields(control)[1], " ", c.Process.Pid)))
	if errno, ok := found[control]; !ok || errno != 0 {
		t.Errorf("control: %v", errno)
	}
	if errno := found[fmt.Sprint("trace ", c.Process.Pid)]; errno != unix.EPERM {
		t.Errorf("syd: got %v, want %v", errno, unix.EPERM)
	}
}

// TestSocketsWithoutNamespace: of what makes sockets that no network namespace holds, or past the filter, or has the
// kernel ask the network outside, nothing is left, but for socketcall(2) in the programs of a 32-bit syd: an honest limit, which a row holds.
func TestSocketsWithoutNamespace(t *testing.T) {
	needNamespaces(t)
	library := unix.EAFNOSUPPORT
	if runtime.GOARCH == "386" {
		library = 0
	}
	for _, row := range []struct {
		name string
		want unix.Errno
	}{{"vsock", unix.EAFNOSUPPORT}, {"vsock-by-library", library}, {"io_uring", unix.ENOSYS}, {"request_key", unix.EACCES}} {
		for name, user := range users() {
			t.Run(row.name+"/"+name, func(t *testing.T) {
				a := attacker(t)
				outside := exec.Command(a)
				outside.SysProcAttr = &syscall.SysProcAttr{Credential: user}
				if errno := results(t, attempt(t, outside, row.name))[row.name+" 0"]; errno != 0 {
					t.Skipf("not to be had outside either: %v", errno)
				}
				if errno := results(t, attempt(t, command(t, user, a), row.name))[row.name+" 0"]; errno != row.want {
					t.Errorf("got %v, want %v", errno, row.want)
				}
			})
		}
	}
}

// TestSocketcall runs a 32-bit program under a 64-bit syd.
func TestSocketcall(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("socketcall(2) under a 64-bit syd is x86's")
	}
	needNamespaces(t)
	program := filepath.Join(bin, "socket32")
	build := exec.Command("go", "build", "-o", program, "./testdata/socket32")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=386")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, family := range []string{"2", "40"} {
		if err := exec.Command(program, "2").Run(); err != nil {
			t.Skipf("32-bit programs do not run here: %v", err)
		}
		c := command(t, nil, program, family)
		c.Run()
		if got := unix.Errno(c.ProcessState.ExitCode()); got != unix.EAFNOSUPPORT {
			t.Errorf("family %s: got %v, want %v", family, got, unix.EAFNOSUPPORT)
		}
	}
}

// TestTerminalInput puts a character into the input of the terminal that the program shares with whoever started syd.
func TestTerminalInput(t *testing.T) {
	needNamespaces(t)
	run := func(c *exec.Cmd) unix.Errno {
		t.Helper()
		c.Env = append(os.Environ(), attackEnv+"=terminal")
		var stdout strings.Builder
		master, tty, err := pty.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer master.Close()
		defer tty.Close()
		// Root may take the terminal over from another session; only its own can be an ordinary user's.
		c.Stdin, c.Stdout = tty, &stdout
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		if err := c.Run(); err != nil {
			t.Fatal(err)
		}
		return results(t, stdout.String())["terminal 0"]
	}
	a := attacker(t)
	if errno := run(exec.Command(a)); errno == unix.EIO {
		t.Skip("dev.tty.legacy_tiocsti is 0, and this is not root")
	} else if errno != 0 {
		t.Fatalf("control: %v", errno)
	}
	if errno := run(command(t, nil, a)); errno != unix.EPERM {
		t.Errorf("inside: got %v, want %v", errno, unix.EPERM)
	}
}

// TestStandardSocket gives the program a TCP connection as its standard input: syd refuses, because the program
// could leave it for any other address outside. A UNIX stream cannot be turned around, and is let through.
func TestStandardSocket(t *testing.T) {
	needNamespaces(t)
	listen := func() *net.TCPListener {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	peer, elsewhere := listen(), listen()
	connection := func() *os.File {
		c, err := net.Dial("tcp", peer.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		f, err := c.(*net.TCPConn).File()
		if err != nil {
			t.Fatal(err)
		}
		unix.SetNonblock(int(f.Fd()), false)
		t.Cleanup(func() { f.Close() })
		return f
	}
	visited := func() bool {
		elsewhere.SetDeadline(time.Now().Add(200 * time.Millisecond))
		c, err := elsewhere.Accept()
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	a, port := attacker(t), strconv.Itoa(elsewhere.Addr().(*net.TCPAddr).Port)

	control := exec.Command(a, port)
	control.Stdin = connection()
	if errno := results(t, attempt(t, control, "reconnect"))["reconnect 0"]; errno != 0 || !visited() {
		t.Fatalf("control: %v, or nobody came", errno)
	}
	c := command(t, nil, a, port)
	c.Stdin = connection()
	c.Env = append(os.Environ(), attackEnv+"=reconnect")
	out, _ := c.CombinedOutput()
	if got := exit.Code(c.ProcessState.ExitCode()); got != exit.Usage || !strings.Contains(string(out), "standard input is a socket of the network outside") {
		t.Errorf("TCP: exit status %d, output %q", got, out)
	}
	if visited() {
		t.Error("TCP: the program came through")
	}

	pair := func(typ int) [2]*os.File {
		fds, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		files := [2]*os.File{os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")}
		t.Cleanup(func() { files[0].Close(); files[1].Close() })
		return files
	}
	stream := pair(unix.SOCK_STREAM)
	io.WriteString(stream[0], "hello\n")
	c = command(t, nil, "head", "-n1")
	c.Stdin = stream[1]
	if got := output(t, c); got != "hello\n" {
		t.Errorf("UNIX stream: %q", got)
	}
	c = command(t, nil, "true")
	c.Stdin = pair(unix.SOCK_DGRAM)[1]
	c.Run()
	if got := exit.Code(c.ProcessState.ExitCode()); got != exit.Usage {
		t.Errorf("UNIX datagrams: exit status %d", got)
	}
}
