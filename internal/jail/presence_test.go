package jail_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"syd/internal/config"
	"syd/internal/exit"
	"syd/internal/jail"
	"syd/internal/monitor"
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

// attackMonitor does to the monitor's own confinement what a victim does to a relay's.
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
	if err := j.Close(nil); err != nil {
		panic(err)
	}
	fmt.Println("at it")
	for _, a := range monitorAttacks {
		if a.name == o.Attack {
			if err := a.do(); err != nil {
				fmt.Println(unix.ErrnoName(err.(unix.Errno)))
				os.Exit(stumbled)
			}
			os.Exit(through)
		}
	}
	panic(o.Attack)
}

// raw makes a system call from whatever thread.
func raw(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// monitorAttacks are what the monitor may not do; Landlock's end is told where it has one of its own.
var monitorAttacks = []struct {
	name     string
	do       func() error
	control  unix.Errno // without confinement
	landlock unix.Errno // with Landlock alone; 0: it succeeds
}{
	{"read", func() error { return file("/proc/self/status", unix.O_RDONLY) }, 0, unix.EACCES},
	{"write", func() error { return file("/proc/self/comm", unix.O_WRONLY) }, 0, unix.EACCES},
	{"socket", func() error { return raw(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, 0) }, 0, 0},
	{"exec", func() error { return unix.Exec("/nowhere", nil, nil) }, unix.ENOENT, unix.ENOENT},
	{"ptrace", func() error { return raw(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(unix.Getppid())) }, 0, unix.EPERM},
	{"kill-all", func() error { return unix.Kill(-1, 0) }, 0, 0},
	{"unshare", func() error { return unix.Unshare(unix.CLONE_NEWNS) }, 0, 0},
	{"pidfd_getfd", func() error { return raw(unix.SYS_PIDFD_GETFD, 9999, 0, 0) }, unix.EBADF, unix.EBADF},
}

func file(path string, flags int) error {
	fd, err := unix.Open(path, flags, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func TestMonitorAttacks(t *testing.T) {
	needConfinement(t)
	all := []string{"monitor-files", "monitor-landlock", "monitor-privileges", "monitor-seccomp"}
	for _, a := range monitorAttacks {
		for _, mode := range []struct {
			name   string
			layers []string
			signal unix.Signal
			errno  unix.Errno
		}{
			{"none", nil, 0, a.control},
			{"landlock", []string{"monitor-landlock"}, 0, a.landlock},
			{"seccomp", []string{"monitor-seccomp"}, unix.SIGSYS, 0},
			{"all", all, unix.SIGSYS, 0},
		} {
			if a.name == "read" && mode.name == "seccomp" {
				mode.signal = 0 // the filter leaves reading to Landlock
			}
			if a.name == "read" && mode.name == "all" {
				mode.signal, mode.errno = 0, unix.EACCES
			}
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
				status := cmd.ProcessState.Sys().(syscall.WaitStatus)
				lines := strings.Fields(strings.TrimPrefix(string(out), "at it\n"))
				got := fmt.Sprintf("%v: %s", err, out)
				switch {
				case !strings.HasPrefix(string(out), "at it\n"):
					t.Fatal(got)
				case mode.signal != 0:
					if !status.Signaled() || status.Signal() != mode.signal {
						t.Fatalf("%s; want %s", got, unix.SignalName(mode.signal))
					}
				case mode.errno != 0:
					if status.ExitStatus() != stumbled || !slices.Equal(lines, []string{unix.ErrnoName(mode.errno)}) {
						t.Fatalf("%s; want %s", got, unix.ErrnoName(mode.errno))
					}
				case status.ExitStatus() != through:
					t.Fatalf("%s; want success", got)
				}
			})
		}
	}
}
