package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// spawn is what roleExec does before it becomes the forwarder.
type spawn struct {
	Argv   []string
	NetNS  int    // descriptor; 0: stay
	Group  string // control group directory; "": none
	CPUs   []int
	UID    int    // user and group to become; 0: stay
	Listen string // socket activation: address to open as descriptor 3
	Stamp  string // file for the moment just before execve, CLOCK_MONOTONIC in nanoseconds
}

// execMain becomes the forwarder that the argument describes.
func execMain(arg string) error {
	runtime.LockOSThread() // namespace and affinity are the thread's, and execve keeps this one's
	var s spawn
	if err := json.Unmarshal([]byte(arg), &s); err != nil {
		return err
	}
	if s.Group != "" {
		if err := os.WriteFile(filepath.Join(s.Group, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
	}
	if s.NetNS != 0 {
		if err := unix.Setns(s.NetNS, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("setns: %w", err)
		}
		closeFD(s.NetNS)
	}
	if err := setAffinity(s.CPUs); err != nil {
		return err
	}
	raiseDescriptors()
	env := os.Environ()
	if s.Listen != "" {
		fd, err := listen(s.Listen)
		if err != nil {
			return err
		}
		if fd == 3 {
			_, err = unix.FcntlInt(3, unix.F_SETFD, 0)
		} else {
			err = unix.Dup3(fd, 3, 0)
		}
		if err != nil {
			return fmt.Errorf("descriptor 3: %w", err)
		}
		env = append(env, "LISTEN_FDS=1", "LISTEN_PID="+strconv.Itoa(os.Getpid()))
		// A service manager ignores SIGPIPE for what it starts (systemd.exec(5), IgnoreSIGPIPE).
		signal.Ignore(syscall.SIGPIPE)
	}
	stamp, err := os.OpenFile(s.Stamp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	if s.UID != 0 {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setresgid(s.UID, s.UID, s.UID), syscall.Setresuid(s.UID, s.UID, s.UID)); err != nil {
			return fmt.Errorf("become user %d: %w", s.UID, err)
		}
	}
	// Outside a PID namespace of our own this is what ends a forwarder if the bench dies; a change of user clears it.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("prctl: %w", err)
	}
	fmt.Fprint(stamp, monotonic())
	return fmt.Errorf("execve %s: %w", s.Argv[0], syscall.Exec(s.Argv[0], s.Argv, env))
}

func monotonic() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano()
}

// instance is a forwarder that runs.
type instance struct {
	peer    *Peer
	addr    string
	group   *Group
	cmd     *exec.Cmd
	log     string
	keep    []*os.File    // the owner's ends
	Started time.Duration // from execve to the first byte echoed through it
}

// starter starts forwarders in one setup.
type starter struct {
	dir      string // world-readable, for programs and configuration
	cpus     []int
	far      *veth // where the forwarders stand, nil: here
	host     string
	upstream string
	sydTor   string // path of the program under test
	users    bool   // give each instance a user of its own
	next     *int   // numbers instances, for ports, users and directories
	fixed    bool   // in a network namespace of our own: no port is taken
}

// port returns a port to listen on: the wanted one, or, where others may have it, any that is free now.
func (s *starter) port(want int) int {
	if s.fixed {
		return want
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return want
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// program finds or builds what a peer runs. An error says why the peer is absent.
func (s *starter) program(p *Peer) (string, error) {
	switch p.Program {
	case "splice", "naive":
		return build(s.dir, p.Program)
	case "syd-tor":
		if s.sydTor == "" {
			return "", errors.New("not built")
		}
		return s.sydTor, nil
	}
	return find(p.Program)
}

// start starts one peer and waits until it serves, 10 seconds at most.
func (s *starter) start(p *Peer) (*instance, error) {
	program, err := s.program(p)
	if err != nil {
		return nil, err
	}
	*s.next++
	n := *s.next
	pl := place{Host: s.host, Port: s.port(10000 + n%20000), Upstream: s.upstream, Dir: filepath.Join(s.dir, strconv.Itoa(n))}
	if err := os.MkdirAll(pl.Dir, 0o755); err != nil {
		return nil, err
	}
	args, err := p.Args(pl)
	if err != nil {
		return nil, err
	}
	i := &instance{peer: p, addr: pl.listen(), group: newGroup(fmt.Sprintf("%s-%d", filepath.Base(s.dir), n)), log: filepath.Join(pl.Dir, "log")}
	sp := spawn{Argv: append([]string{program}, args...), Group: i.group.dir, CPUs: s.cpus, Stamp: filepath.Join(pl.Dir, "stamp")}
	if s.users {
		// A user of its own, as forwarders are run, and so that none uses up another's quota of pipe pages (pipe(7)).
		sp.UID = 60000 + n%5000
		if err := os.Chown(pl.Dir, sp.UID, sp.UID); err != nil {
			return nil, err
		}
	}
	var pass []*os.File
	switch p.Listener {
	case activated:
		sp.Listen = pl.listen()
	case owned:
		if pass, err = i.own(s, pl.listen()); err != nil {
			return nil, err
		}
	}
	if s.far != nil {
		ns, err := unix.FcntlInt(uintptr(s.far.far), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return nil, err
		}
		sp.NetNS = 3 + len(pass)
		pass = append(pass, os.NewFile(uintptr(ns), "netns"))
	}
	arg, err := json.Marshal(sp)
	if err != nil {
		return nil, err
	}
	logFile, err := os.Create(i.log)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	i.cmd = self(roleExec, string(arg))
	i.cmd.Env = os.Environ()
	i.cmd.Stdout, i.cmd.Stderr = logFile, logFile
	i.cmd.ExtraFiles = pass
	err = i.cmd.Start()
	for _, f := range pass {
		f.Close()
	}
	if err != nil {
		return nil, err
	}
	i.group.root = i.cmd.Process.Pid
	err = i.await(sp.Stamp)
	if err == nil && p.Ours {
		err = i.confined(p.Filtered)
	}
	if err != nil {
		ended := zombie(i.cmd.Process.Pid)
		if stopErr := i.stop(); stopErr != nil {
			return nil, errors.Join(err, stopErr)
		}
		if ended {
			err = fmt.Errorf("%w (%v)", err, i.cmd.ProcessState)
		}
		return nil, fmt.Errorf("%w%s", err, i.said())
	}
	return i, nil
}

// own does what syd-tor(1) asks of its owner: a listening socket, sent over a socket pair, and a PID descriptor of this
// process. It returns the files that become descriptors 3 and 4.
func (i *instance) own(s *starter, addr string) ([]*os.File, error) {
	var fd int
	var err error
	open := func() { fd, err = listen(addr) }
	if s.far != nil {
		if inErr := within(s.far.far, open); inErr != nil {
			return nil, inErr
		}
	} else {
		open()
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	i.keep = append(i.keep, os.NewFile(uintptr(pair[1]), "handoff"))
	if err := unix.Sendmsg(pair[1], []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
		return nil, fmt.Errorf("sendmsg: %w", err)
	}
	pidfd, err := unix.PidfdOpen(os.Getpid(), unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open: %w", err)
	}
	return []*os.File{os.NewFile(uintptr(pair[0]), "listener"), os.NewFile(uintptr(pidfd), "owner")}, nil
}

// within runs f on a thread that is in the network namespace ns.
func within(ns netns.NsHandle, f func()) error {
	runtime.LockOSThread()
	here, err := netns.Get()
	if err != nil {
		return err
	}
	defer here.Close()
	if err := netns.Set(ns); err != nil {
		return err
	}
	f()
	if err := netns.Set(here); err != nil {
		return err // the thread stays locked, and dies with its goroutine
	}
	runtime.UnlockOSThread()
	return nil
}

// await connects and echoes one byte, again and again until it works.
func (i *instance) await(stamp string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := echoOnce(i.addr)
		if err == nil {
			break
		}
		if zombie(i.cmd.Process.Pid) {
			return errors.New("ended at start")
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("does not serve: %w", err)
		}
		time.Sleep(200 * time.Microsecond)
	}
	now := monotonic()
	b, err := os.ReadFile(stamp)
	if err != nil {
		return err
	}
	began, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil {
		return fmt.Errorf("stamp: %w", err)
	}
	i.Started = time.Duration(now - began)
	return nil
}

// confined holds what the forwarder is against what its column says.
func (i *instance) confined(want bool) error {
	pids, err := i.group.PIDs()
	if err != nil {
		return err
	}
	got := false
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return err
		}
		got = got || strings.Contains(string(b), "\nSeccomp:\t2\n") // proc_pid_status(5): 2 is a filter
	}
	if got != want {
		return fmt.Errorf("under a seccomp filter: %t, expected %t", got, want)
	}
	return nil
}

func echoOnce(addr string) error {
	fd, err := dial(addr)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte{modeEcho}); err != nil {
		return err
	}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	var b [1]byte
	if n, err := unix.Read(fd, b[:]); err != nil {
		return err
	} else if n == 0 {
		return errEnded
	}
	return nil
}

// said returns the last line that the forwarder wrote, for error messages.
func (i *instance) said() string {
	b, err := os.ReadFile(i.log)
	if err != nil || len(b) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return ": " + lines[len(lines)-1]
}

// stop ends the forwarder and all that it started.
func (i *instance) stop() error {
	err := killAll(i.group)
	_ = i.cmd.Wait() // killed: that is its status
	i.group.remove()
	for _, f := range i.keep {
		f.Close()
	}
	return err
}

// end is one end of the traffic: a process of this program.
type end struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    io.ReadCloser
	orders *json.Encoder
	answer *json.Decoder
}

// startEnd starts the backend or the load on the given processors, in the namespace ns if that is not nil.
func startEnd(role string, list []int, ns *veth, args ...string) (*end, error) {
	e := &end{cmd: self(role, args...)}
	var err error
	if e.in, err = e.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if e.out, err = e.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	begin := func() {
		// The child inherits affinity and namespace from the thread that starts it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		before := cpus()
		if err = setAffinity(list); err != nil {
			return
		}
		err = e.cmd.Start()
		err = errors.Join(err, setAffinity(before))
	}
	if ns != nil {
		if inErr := within(ns.far, begin); inErr != nil {
			return nil, inErr
		}
	} else {
		begin()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", role, err)
	}
	e.orders, e.answer = json.NewEncoder(e.in), json.NewDecoder(e.out)
	return e, nil
}

func (e *end) do(op Op) (Sample, error) {
	var s Sample
	if err := e.orders.Encode(op); err != nil {
		return s, fmt.Errorf("load generator: %w", err)
	}
	if err := e.answer.Decode(&s); err != nil {
		return s, fmt.Errorf("load generator: %w", err)
	}
	return s, nil
}

func (e *end) stop() {
	e.in.Close()
	_ = e.cmd.Process.Kill()
	_ = e.cmd.Wait()
}
