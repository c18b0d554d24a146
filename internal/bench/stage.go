package bench

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The bench starts itself again in three more roles. Each is an argument that no user types.
const (
	roleInit    = "bench:init"    // PID 1 of the namespaces: waits, and takes everything with it when it ends
	roleDriver  = "bench:driver"  // runs the measurements
	roleExec    = "bench:exec"    // becomes a forwarder
	roleBackend = "bench:backend" // the upstream
	roleLoad    = "bench:load"    // the clients
)

// Dispatch runs the role that the arguments name and exits, or returns if they name none. Programs that use this package,
// test binaries too, call it first thing in main.
func Dispatch() {
	if len(os.Args) < 2 {
		return
	}
	var err error
	switch os.Args[1] {
	case roleInit:
		os.Exit(initMain(os.Args[2:]))
	case roleExec:
		err = execMain(os.Args[2])
	case roleBackend:
		single()
		err = serve(os.Args[2:], os.Stdout)
	case roleLoad:
		single()
		err = load(os.Stdin, os.Stdout)
	default:
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
		os.Exit(71)
	}
	os.Exit(0)
}

// self is the command that starts this program in a role. Asynchronous preemption is off: it would interrupt the raw
// system calls of backend and load for nothing.
func self(role string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{role}, args...)...)
	cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1")
	cmd.Stderr = os.Stderr
	return cmd
}

// InNamespaces runs this program again with the same arguments in namespaces of its own, with env added to its
// environment, and returns its exit code: a network namespace, so that no traffic touches the machine's and its settings
// can be changed; a PID namespace, so that every process ends with it, the ones that detach themselves too; and a mount
// namespace for its /proc. An ordinary user gets them inside a user namespace. An error says that they cannot be had here.
func InNamespaces(args []string, env string) (int, error) {
	flags := uintptr(unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS)
	cmd := self(roleInit, args...)
	cmd.Env = append(os.Environ(), env)
	cmd.Stdin, cmd.Stdout = os.Stdin, os.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL, Setsid: true}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	// The parent-death signal is tied to the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The session is another, so signals of the terminal come here alone. With PID 1, everything in its namespace ends.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	if err := cmd.Start(); err != nil {
		signal.Stop(stop)
		return 0, fmt.Errorf("namespaces: %w", err)
	}
	go func() {
		for range stop {
			_ = cmd.Process.Kill()
		}
	}()
	err := cmd.Wait()
	signal.Stop(stop)
	close(stop)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		if exit.ExitCode() == noStage {
			return 0, errors.New("namespaces: cannot be prepared")
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

// noStage is the status of roleInit when it could not prepare the namespaces. Nothing else here ends with it.
const noStage = 119

// initMain prepares the namespaces and runs the driver in them. As PID 1 it inherits what detached itself, and reaps it.
func initMain(args []string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return noStage
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fail(fmt.Errorf("mount: make / private: %w", err))
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fail(fmt.Errorf("mount: /proc: %w", err))
	}
	if err := linkUp("lo"); err != nil {
		return fail(err)
	}
	tune()
	// The scheduler shares the processors among sessions (sched(7), autogroup): with the weight of this one raised, other
	// load on the machine disturbs less. An ordinary user is refused, and measures with more noise.
	_ = os.WriteFile("/proc/self/autogroup", []byte("-20"), 0)
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fail(fmt.Errorf("wait4: %w", err))
		}
		if pid == cmd.Process.Pid {
			if status.Exited() {
				return status.ExitStatus()
			}
			return 128 + int(status.Signal())
		}
	}
}

// settings of the namespace's own network stack. Churn uses up ports by the ten thousand, and each stays in TIME_WAIT
// for a minute unless it may be reused; long runs would otherwise measure the search for a free one. Forwarders and upstream
// listen below the range.
var settings = []struct{ file, value string }{
	{"net/ipv4/ip_local_port_range", "30000 65535"},
	{"net/ipv4/tcp_tw_reuse", "1"},
	{"net/ipv4/tcp_tw_reuse_delay", "10"},
	{"net/ipv4/tcp_max_syn_backlog", "8192"},
	{"net/core/somaxconn", "8192"},
}

// tune applies the settings; an older kernel lacks some, and measures without them.
func tune() {
	for _, s := range settings {
		_ = os.WriteFile("/proc/sys/"+s.file, []byte(s.value), 0)
	}
}

func linkUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("link %s up: %w", name, err)
	}
	return nil
}

// Addresses of the two ends of the veth pair.
const (
	nearAddr = "10.91.0.1" // clients and upstream
	farAddr  = "10.91.0.2" // forwarders
)

// veth is a pair of virtual Ethernet devices with MTU 1500 between this network namespace and a second one.
type veth struct {
	far  netns.NsHandle
	near string
}

// newVeth makes it. With singly set, each segment travels as a buffer of its own, as from a network card without any
// offload; otherwise the stack passes buffers of up to 64 KiB through.
func newVeth(singly bool) (*veth, error) {
	// netns.New moves the calling thread; the thread is thrown away if it cannot be moved back.
	runtime.LockOSThread()
	here, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("netns: %w", err)
	}
	defer here.Close()
	far, err := netns.New()
	if err != nil {
		return nil, fmt.Errorf("netns: %w", err)
	}
	tune()
	err = linkUp("lo")
	if back := netns.Set(here); back != nil {
		return nil, errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	if err != nil {
		far.Close()
		return nil, err
	}
	v := &veth{far: far, near: "bench0"}
	if err := v.wire(singly); err != nil {
		v.remove()
		return nil, fmt.Errorf("veth: %w", err)
	}
	return v, nil
}

func (v *veth) wire(singly bool) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = v.near, 1500
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "bench1", PeerNamespace: netlink.NsFd(v.far)}
	if err := netlink.LinkAdd(pair); err != nil {
		return err
	}
	inFar, err := netlink.NewHandleAt(v.far)
	if err != nil {
		return err
	}
	defer inFar.Close()
	here, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer here.Close()
	for _, end := range []struct {
		h          *netlink.Handle
		name, addr string
	}{{here, v.near, nearAddr}, {inFar, "bench1", farAddr}} {
		l, err := end.h.LinkByName(end.name)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(end.addr + "/24")
		if err != nil {
			return err
		}
		if err := end.h.AddrAdd(l, a); err != nil {
			return err
		}
		if singly {
			if err := end.h.LinkSetGSOMaxSegs(l, 1); err != nil {
				return err
			}
		}
		if err := end.h.LinkSetMTU(l, 1500); err != nil {
			return err
		}
		if err := end.h.LinkSetUp(l); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes the pair and drops the namespace.
func (v *veth) remove() {
	if l, err := netlink.LinkByName(v.near); err == nil {
		_ = netlink.LinkDel(l)
	}
	v.far.Close()
}

// cpus lists the processors that this process may use.
func cpus() []int {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return []int{0}
	}
	var list []int
	for i := range 1024 {
		if set.IsSet(i) {
			list = append(list, i)
		}
	}
	return list
}

// single prepares a process for its raw loop: one thread that matters, no garbage collection meanwhile, as many
// descriptors as it may have.
func single() {
	runtime.LockOSThread()
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	raiseDescriptors()
}

// raiseDescriptors lifts the soft limit of open files to the hard one and returns that.
func raiseDescriptors() uint64 {
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) != nil {
		return 0
	}
	r.Cur = r.Max
	// By way of syscall, so that the runtime does not restore the old one before execve.
	_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &r)
	return uint64(r.Cur)
}

// setAffinity binds the calling thread, and what it starts, to the given processors; none means no change.
func setAffinity(list []int) error {
	if len(list) == 0 {
		return nil
	}
	var set unix.CPUSet
	for _, c := range list {
		set.Set(c)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("affinity %v: %w", list, err)
	}
	return nil
}

// killAll ends the processes of a group and waits for them to go.
func killAll(g *Group) error {
	for range 200 {
		pids, err := g.PIDs()
		if err != nil {
			return err
		}
		living := slices.DeleteFunc(pids, func(pid int) bool { return zombie(pid) })
		if len(living) == 0 {
			return nil
		}
		for _, pid := range living {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return errors.New("processes do not end")
}

// zombie reports whether a process has ended, reaped or not.
func zombie(pid int) bool {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return true
	}
	s, err := p.Stat()
	return err != nil || s.State == "Z" || s.State == "X"
}
