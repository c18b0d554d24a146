package jail_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"syd/arch"
	"syd/internal/config"
	"syd/internal/exit"
	"syd/internal/jail"
	"syd/internal/monitor"
	"syd/internal/policy"
	"syd/internal/vault"
)

// kernel returns the first two numbers of the running kernel's version, and its architecture.
func kernel() (major, minor int, machine string) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		panic(err)
	}
	fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	return major, minor, unix.ByteSliceToString(u.Machine[:])
}

// expected tells whether this kernel must have a step: from its version alone, so that a kernel that hides what
// it has turns tests red and does not make them weaker.
func expected(step string) bool {
	i := slices.IndexFunc(jail.Steps[:], func(s jail.Step) bool { return s.Name == step })
	if i < 0 {
		panic("no step " + step)
	}
	since := jail.Steps[i].Since
	if since == jail.Never {
		return false
	}
	major, minor, machine := kernel()
	if narrow := strings.HasPrefix(machine, "arm") || strings.HasSuffix(machine, "86"); narrow && slices.Contains(wide, step) {
		return false
	}
	var first, second int
	fmt.Sscanf(since, "%d.%d", &first, &second)
	return major > first || major == first && minor >= second
}

// wide are the steps that kernels of 32 bits do not have (mseal(2)).
var wide = []string{"vault", "seal"}

// check prints the report of a confinement that is carried out in this process, with the error that ended it.
func check(o *order) {
	if o.Weak {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capset(&header, &data[0]); err != nil {
			panic(err)
		}
	}
	c := &config.Config{Workers: 1, SocketFD: -1}
	var err error
	if c.Upstream, err = config.ParseAddr(config.DefaultExternal); err != nil {
		panic(err)
	}
	if o.Unix {
		c.Upstream, err = config.ParseUnix("/tmp/jail-test-socket")
		if err != nil {
			panic(err)
		}
	}
	var off []string
	if !o.All {
		off = o.without()
	}
	j, err := jail.New(c.Upstream, off, false)
	if err != nil {
		panic(err)
	}
	v, err := vault.New(j.Sockaddr())
	if err != nil {
		panic(err)
	}
	answer := checked{}
	if err := monitor.Check(c, j, v); err != nil {
		answer.Error, answer.Code = err.Error(), exit.Of(err)
	}
	answer.Report = j.Report()
	json.NewEncoder(os.Stdout).Encode(&answer)
	os.Exit(0)
}

type checked struct {
	Report *jail.Report
	Error  string
	Code   exit.Code
}

func runCheck(t *testing.T, o order, attr *syscall.SysProcAttr) *checked {
	t.Helper()
	o.Check = true
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), victimEnv+"="+string(text))
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var c checked
	if err := json.Unmarshal(out, &c); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return &c
}

const ordinary = 1000 // the user and group of tests that need no root

var asOrdinary = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinary, Gid: ordinary}}

// TestPresence holds what the steps become against the kernel's version.
func TestPresence(t *testing.T) {
	needConfinement(t)
	major, minor, machine := kernel()
	t.Logf("kernel %d.%d %s, program %s", major, minor, machine, runtime.GOARCH)
	for _, tt := range []struct {
		name string
		o    order
		attr *syscall.SysProcAttr
	}{
		{"root", order{All: true}, nil},
		{"root-unix", order{All: true, Unix: true}, nil},
		{"ordinary", order{All: true}, asOrdinary},
		{"ordinary-unix", order{All: true, Unix: true}, asOrdinary},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := runCheck(t, tt.o, tt.attr)
			if c.Error != "" {
				t.Error(c.Error)
			}
			for _, s := range c.Report.Steps {
				want := jail.Holds
				switch {
				case s.Name == "netns" && !tt.o.Unix:
					want = jail.Unneeded
				case !expected(s.Name):
					want = jail.Absent
				}
				if s.Status != want {
					t.Errorf("%s is %s (%s %s), want %s", s.Name, s.Status, s.Errno, s.Detail, want)
				}
			}
		})
	}
}

// TestWithoutUserNamespaces sees that root keeps every other namespace, and that an ordinary user loses those and
// what they make possible, and nothing else.
func TestWithoutUserNamespaces(t *testing.T) {
	needConfinement(t)
	for _, tt := range []struct {
		name string
		uid  int
		lost []string
	}{
		{"root", 0, []string{"userns"}},
		{"ordinary", ordinary, []string{"userns", "mountns", "pidns", "ipcns", "utsns", "cgroupns", "root", "bounding"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := runBare(t, tt.uid)
			if c.Error != "" {
				t.Error(c.Error)
			}
			for _, s := range c.Report.Steps {
				want := jail.Holds
				switch {
				case s.Name == "netns":
					want = jail.Unneeded
				case slices.Contains(tt.lost, s.Name) || !expected(s.Name):
					want = jail.Absent
				}
				if s.Status != want {
					t.Errorf("%s is %s (%s %s), want %s", s.Name, s.Status, s.Errno, s.Detail, want)
				}
			}
		})
	}
}

// runBare runs a check in a user namespace that allows no further one: the limit is the namespace's own.
func runBare(t *testing.T, uid int) *checked {
	t.Helper()
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}}
	return runCheck(t, order{All: true, Bare: true, Layers: []string{fmt.Sprint(uid)}}, &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
	})
}

// makeBare is the inside of runBare: it starts the check anew as the user.
func makeBare(o *order) {
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		panic(err)
	}
	var uid uint32
	fmt.Sscan(o.Layers[0], &uid)
	o.Bare, o.Layers = false, nil
	text, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), victimEnv+"="+string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	var failed *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &failed) {
		panic(err)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// TestRequiredStepEndsTheProgram takes from root what the identity needs.
func TestRequiredStepEndsTheProgram(t *testing.T) {
	needConfinement(t)
	for _, o := range []order{
		{All: true, Weak: true},
		{Weak: true, Layers: []string{"identity"}},
	} {
		c := runCheck(t, o, nil)
		if c.Code != exit.Unavailable || !strings.HasPrefix(c.Error, "confinement step ") {
			t.Errorf("%v: exit code %d, %q", o.Layers, c.Code, c.Error)
		}
		if c.Report.Holds {
			t.Errorf("%v: the report says that every step holds", o.Layers)
		}
		t.Log(c.Error)
	}
}

// TestDeathOfTheMonitor kills a monitor whose relay runs in circles: it hears of nothing and must die all the same.
func TestDeathOfTheMonitor(t *testing.T) {
	needConfinement(t)
	for _, tt := range []struct {
		name string
		o    order
		dies bool
	}{
		{"none", order{Orphan: true}, false},
		{"parent-death", order{Orphan: true, Layers: []string{"parent-death"}}, true},
		{"all", order{Orphan: true, All: true}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Attack = "everyday/wait"
			text, err := json.Marshal(tt.o)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), victimEnv+"="+string(text))
			out, err := cmd.Output()
			if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != unix.SIGKILL {
				t.Fatalf("%v: %s", err, out)
			}
			var pid int
			fmt.Sscan(string(out), &pid)
			if pid <= 1 {
				t.Fatalf("no victim: %s", out)
			}
			alive := true
			for until := time.Now().Add(500 * time.Millisecond); alive && time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
				alive = running(pid)
			}
			unix.Kill(pid, unix.SIGKILL)
			if alive == tt.dies {
				t.Errorf("alive: %v", alive)
			}
		})
	}
}

// running tells whether a process is there and not a zombie, which whoever inherits it may leave.
func running(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return rest != "" && rest[0] != 'Z' && rest[0] != 'X'
}

// attackMonitor does to the monitor's own confinement what a victim does to a relay's. Like the monitor, it leaves the
// Go runtime before the last step.
func attackMonitor(o *order) {
	upstream, err := config.ParseAddr(config.DefaultExternal)
	if err != nil {
		panic(err)
	}
	j, err := jail.New(upstream, o.without(), false)
	if err != nil {
		panic(err)
	}
	v, err := vault.New(j.Sockaddr())
	if err != nil {
		panic(err)
	}
	if err := j.Protect(v); err != nil {
		panic(err)
	}
	tasks, err := arch.OpenTasks()
	if err != nil {
		panic(err)
	}
	for _, a := range monitorAttacks {
		if a.name == o.Attack {
			mutiny.attack = a
		}
	}
	for i, p := range mutiny.attack.pointers {
		if p != nil {
			mutiny.attack.args[i] = uintptr(unsafe.Pointer(p))
		}
	}
	if n := mutiny.attack.parent; n > 0 {
		mutiny.attack.args[n-1] = uintptr(unix.Getppid())
	}
	at := func(p unsafe.Pointer) uint64 { return uint64(uintptr(p)) }
	if err := j.Close(jail.Monitor{Filter: policy.Values{
		PollPtr: at(unsafe.Pointer(&mutiny.poll)), TimePtr: at(unsafe.Pointer(&mutiny.time)), MaskPtr: at(unsafe.Pointer(&mutiny.mask)),
		StatusPtr: at(unsafe.Pointer(&mutiny.status)), LinePtr: at(unsafe.Pointer(&mutiny.line)),
	}}); err != nil {
		panic(err)
	}
	runMutiny(tasks)
}

// mutiny is what a monitor does that was taken over, and the memory that its policy speaks of.
var mutiny = struct {
	attack monitorAttack
	poll   unix.PollFd
	time   [2]int
	mask   uint64
	status int32
	line   [8]byte
}{poll: unix.PollFd{Fd: -1}, mask: math.MaxUint64, line: [8]byte([]byte("at it\n\x00\x00"))}

// refusedWith is the exit code of a mutiny whose call the kernel refused, less the errno.
const refusedWith = 100

//go:nosplit
func runMutiny(tasks int) {
	arch.Leave()
	arch.Alone(tasks)
	if jail.Last() != 0 {
		arch.Exit(1)
	}
	a := &mutiny.attack
	arch.Poll(uintptr(unsafe.Pointer(&mutiny.poll)), 1, uintptr(unsafe.Pointer(&mutiny.time)), uintptr(unsafe.Pointer(&mutiny.mask)))
	arch.Write(1, uintptr(unsafe.Pointer(&mutiny.line)), 6) // both are a monitor's everyday
	r := arch.Syscall6(a.nr, a.args[0], a.args[1], a.args[2], a.args[3], a.args[4], a.args[5])
	if a.nr == unix.SYS_CLONE && r == 0 {
		arch.Exit(0) // the child
	}
	if errno := arch.Errno(r); errno != 0 {
		arch.Exit(refusedWith + int32(errno))
	}
	arch.Exit(through)
}

// monitorAttack is one system call that the monitor may not make, or not so.
type monitorAttack struct {
	name     string
	nr       uintptr
	args     [6]uintptr
	pointers [6]*byte   // arguments that are addresses
	parent   int        // the argument, from 1, that is the parent process's number; 0: none
	control  unix.Errno // without confinement; 0: it succeeds
	landlock unix.Errno // with Landlock alone, where that has an end of its own
}

var (
	somePage  [256]byte
	otherMask = [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff} // what is pending is the runtime's, and must stay so
	somePath  = &[]byte("/proc/self/status\x00")[0]
	someFile  = &[]byte("/proc/self/comm\x00")[0]
	noPath    = &[]byte("/nowhere\x00")[0]

	pollArgs      = [6]uintptr{1: 1, 4: policy.SigsetSize}
	statusPointer = [6]*byte{1: (*byte)(unsafe.Pointer(&mutiny.status))}
)

// anyone is the pid -1 of wait4(2) and kill(2).
const anyone = ^uintptr(0)

// pollPointers are those of a ppoll that is the monitor's, but for one argument; there is none with the number 5.
func pollPointers(n int, other *byte) [6]*byte {
	p := [6]*byte{0: (*byte)(unsafe.Pointer(&mutiny.poll)), 2: (*byte)(unsafe.Pointer(&mutiny.time)), 3: (*byte)(unsafe.Pointer(&mutiny.mask))}
	p[n] = other
	return p
}

var monitorAttacks = []monitorAttack{
	{name: "read", nr: unix.SYS_OPENAT, args: [6]uintptr{atCWD, 0, unix.O_RDONLY}, pointers: [6]*byte{1: somePath}, landlock: unix.EACCES},
	{name: "write", nr: unix.SYS_OPENAT, args: [6]uintptr{atCWD, 0, unix.O_WRONLY}, pointers: [6]*byte{1: someFile}, landlock: unix.EACCES},
	{name: "read stdin", nr: unix.SYS_READ, args: [6]uintptr{0, 0, 1}, pointers: [6]*byte{1: &somePage[0]}},
	// Calls that it may make, each with one argument that is another.
	{name: "write/other buffer", nr: unix.SYS_WRITE, args: [6]uintptr{2, 0, 0}, pointers: [6]*byte{1: &somePage[0]}},
	{name: "poll/other descriptors", nr: unix.SYS_PPOLL, args: pollArgs, pointers: pollPointers(0, &somePage[0])},
	{name: "poll/more descriptors", nr: unix.SYS_PPOLL, args: [6]uintptr{1: 2, 4: policy.SigsetSize}, pointers: pollPointers(5, nil)},
	{name: "poll/other time", nr: unix.SYS_PPOLL, args: pollArgs, pointers: pollPointers(2, &somePage[0])},
	{name: "poll/other mask", nr: unix.SYS_PPOLL, args: pollArgs, pointers: pollPointers(3, &otherMask[0])},
	{name: "poll/no mask", nr: unix.SYS_PPOLL, args: pollArgs, pointers: pollPointers(3, nil)},
	{name: "poll/other size", nr: unix.SYS_PPOLL, args: [6]uintptr{1: 1, 4: 2 * policy.SigsetSize}, pointers: pollPointers(5, nil), control: unix.EINVAL},
	{name: "wait/for one", nr: unix.SYS_WAIT4, args: [6]uintptr{1, 0, unix.WNOHANG}, pointers: statusPointer, control: unix.ECHILD},
	{name: "wait/other status", nr: unix.SYS_WAIT4, args: [6]uintptr{anyone, 0, unix.WNOHANG}, pointers: [6]*byte{1: &somePage[0]}, control: unix.ECHILD},
	{name: "wait/long", nr: unix.SYS_WAIT4, args: [6]uintptr{anyone, 0, 0}, pointers: statusPointer, control: unix.ECHILD},
	{name: "wait/usage", nr: unix.SYS_WAIT4, args: [6]uintptr{anyone, 0, unix.WNOHANG}, pointers: [6]*byte{1: statusPointer[1], 3: &somePage[0]}, control: unix.ECHILD},

	{name: "socket", nr: unix.SYS_SOCKET, args: [6]uintptr{unix.AF_INET, unix.SOCK_STREAM}},
	{name: "socketpair", nr: unix.SYS_SOCKETPAIR, args: [6]uintptr{unix.AF_UNIX, unix.SOCK_STREAM}, pointers: [6]*byte{3: &somePage[0]}},
	{name: "sendmsg", nr: unix.SYS_SENDMSG, args: [6]uintptr{9999}, control: unix.EBADF},
	{name: "recvmsg", nr: unix.SYS_RECVMSG, args: [6]uintptr{9999}, control: unix.EBADF},
	{name: "exec", nr: unix.SYS_EXECVE, pointers: [6]*byte{noPath}, control: unix.ENOENT},
	{name: "fork", nr: unix.SYS_CLONE, args: [6]uintptr{uintptr(unix.SIGCHLD)}},
	{name: "ptrace", nr: unix.SYS_PTRACE, args: [6]uintptr{unix.PTRACE_SEIZE}, parent: 2, landlock: unix.EPERM},
	{name: "process_vm_readv", nr: unix.SYS_PROCESS_VM_READV, parent: 1},
	{name: "pidfd_open", nr: unix.SYS_PIDFD_OPEN, parent: 1},
	{name: "pidfd_getfd", nr: unix.SYS_PIDFD_GETFD, args: [6]uintptr{9999}, control: unix.EBADF},
	{name: "kill/owner", nr: unix.SYS_KILL, parent: 1},
	{name: "kill/all", nr: unix.SYS_KILL, args: [6]uintptr{anyone}},
	{name: "unshare", nr: unix.SYS_UNSHARE, args: [6]uintptr{unix.CLONE_NEWNS}},
	{name: "executable memory", nr: unix.SYS_MPROTECT, args: [6]uintptr{0, 0, unix.PROT_READ | unix.PROT_EXEC}},
	{name: "memory", nr: unix.SYS_BRK},
	{name: "memfd", nr: unix.SYS_MEMFD_CREATE, pointers: [6]*byte{noPath}},
	{name: "type into the terminal", nr: unix.SYS_IOCTL, args: [6]uintptr{9999, unix.TIOCSTI}, control: unix.EBADF},
	{name: "handle signals", nr: unix.SYS_RT_SIGACTION, args: [6]uintptr{uintptr(unix.SIGUSR2), 0, 0, 8}},
	{name: "bpf", nr: unix.SYS_BPF, args: [6]uintptr{9999}, control: unix.EINVAL},
	{name: "keyctl", nr: unix.SYS_KEYCTL, args: [6]uintptr{9999}, control: unix.EOPNOTSUPP},
}

func TestMonitorAttacks(t *testing.T) {
	needConfinement(t)
	all := []string{"monitor-files", "monitor-landlock", "monitor-privileges", "monitor-seccomp"}
	for _, a := range monitorAttacks {
		restricted := a.landlock
		if restricted == 0 {
			restricted = a.control
		}
		for _, mode := range []struct {
			name   string
			layers []string
			end    syscall.WaitStatus
		}{
			{"none", nil, exited(a.control)},
			{"landlock", []string{"monitor-landlock"}, exited(restricted)},
			{"seccomp", []string{"monitor-seccomp"}, syscall.WaitStatus(unix.SIGSYS)},
			{"all", all, syscall.WaitStatus(unix.SIGSYS)},
		} {
			if !expected("monitor-landlock") && slices.Contains(mode.layers, "monitor-landlock") {
				continue
			}
			t.Run(a.name+"/"+mode.name, func(t *testing.T) {
				t.Parallel()
				text, err := json.Marshal(order{Monitor: true, Attack: a.name, Layers: mode.layers})
				if err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command("/proc/self/exe")
				cmd.Env = append(os.Environ(), victimEnv+"="+string(text))
				out, err := cmd.CombinedOutput()
				const core = 0x80
				status := cmd.ProcessState.Sys().(syscall.WaitStatus) &^ core
				if string(out) != "at it\n" || status != mode.end {
					t.Fatalf("%v, status %#x, want %#x: %s", err, status, mode.end, out)
				}
			})
		}
	}
}

// exited is the status of a mutiny that got through, or was refused with an errno.
func exited(errno unix.Errno) syscall.WaitStatus {
	if errno == 0 {
		return through << 8
	}
	return syscall.WaitStatus(refusedWith+int(errno)) << 8
}
