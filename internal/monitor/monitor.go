// Package monitor is the process that starts the relays, waits, and reports. It never touches the network.
//
// It guarantees that no relay outlives it or the owner, and that a relay's death is told with its cause. What a
// relay leaves in shared memory it treats as numbers to print.
//
// Once all relays are confined it leaves the Go runtime, as they did: watch.go is what runs from then on, and report.go
// what it says. Nothing wakes it but its owner's end, a signal, or the end of a relay.
package monitor

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"syd/arch"
	"syd/internal/config"
	"syd/internal/exit"
	"syd/internal/jail"
	"syd/internal/relay"
	"syd/internal/vault"
)

// Fork needs the main thread, and PR_SET_PDEATHSIG speaks of the thread that forked: the main goroutine keeps it.
func init() { runtime.LockOSThread() }

// Monitor is the parent of one or more relays on one listener.
type Monitor struct {
	config *config.Config
	jail   *jail.Jail
	relays []*child
	tasks  int   // its threads, see arch.OpenTasks
	owner  int32 // pidfd
	out    int32 // where it tells

	// Scratch of the reports, once there is no heap.
	record          relay.Record
	counters, total relay.Counters
}

// handshakeTime bounds each wait for a relay that is being confined, which takes milliseconds.
var handshakeTime = unix.Timeval{Sec: 30}

// child is one relay as the monitor sees it.
type child struct {
	pid    int
	jailed *jail.Prisoner
	region *relay.Region
	socket int // handshake; the relay watches it for the monitor's death
	news   relay.Reader
	ended  bool
}

// Start forks the relays and returns once each is confined, and so is the monitor as far as a Go program can be. It
// takes over listener and owner. The error says which relay failed at what.
//
// Requires: the main goroutine.
func Start(c *config.Config, j *jail.Jail, listener, owner int, v *vault.Vault) (*Monitor, error) {
	if err := inherit(listener); err != nil {
		return nil, err
	}
	m := &Monitor{config: c, jail: j, owner: int32(owner), out: int32(unblocked(unix.Stderr))}
	if err := m.listen(); err != nil {
		return nil, err
	}
	var err error
	if m.tasks, err = arch.OpenTasks(); err != nil {
		return nil, exit.Errorf(exit.OS, "open /proc/self/task: %w", err)
	}
	if err := m.confine(listener, v); err != nil {
		m.kill()
		return nil, err
	}
	for _, note := range j.Notes() {
		fmt.Fprintf(os.Stderr, "syd-tor: %s\n", note)
	}
	if c.Rules {
		texts, err := j.Rules()
		if err != nil {
			return nil, exit.Errorf(exit.Software, "seccomp rules: %w", err)
		}
		for _, text := range texts {
			fmt.Fprint(os.Stderr, text)
		}
	}
	return m, nil
}

// listen has the signals caught that say something to the monitor, and leaves to the kernel those that end or stop a
// process by themselves.
func (m *Monitor) listen() error {
	signal.Ignore(unix.SIGPIPE)
	for _, s := range heard {
		if signal.Ignored(s) {
			continue // nohup(1)
		}
		if err := arch.Catch(s); err != nil {
			return exit.Errorf(exit.OS, "rt_sigaction of %s: %w", unix.SignalName(s), err)
		}
		deaf &^= maskOf(s)
	}
	for _, s := range unheard {
		deaf &^= maskOf(s)
	}
	return arch.Default(unix.SIGABRT)
}

// Check forks the relays on a socket that nobody can reach, carries out every confinement step, and ends. What
// became of the steps is in j's report; an error says that a required one failed, or that the report is not
// complete for another reason.
//
// Requires: the main goroutine. Afterwards this process opens no file any more.
func Check(c *config.Config, j *jail.Jail, v *vault.Vault) error {
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return exit.Errorf(exit.OS, "socket: %w", err)
	}
	owner, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err != nil {
		return exit.Errorf(exit.OS, "pidfd_open: %w", err)
	}
	m := &Monitor{config: c, jail: j, owner: int32(owner)}
	defer m.kill()
	return m.confine(listener, v)
}

// confine forks the relays and carries out every confinement step. It closes listener.
func (m *Monitor) confine(listener int, v *vault.Vault) error {
	if !arch.Forkable() {
		return exit.Errorf(exit.Software, "this binary links the C library: build it with CGO_ENABLED=0")
	}
	// The identity maps are written there, and the steps verified.
	if self, err := os.Readlink("/proc/self"); err == nil && self != strconv.Itoa(unix.Getpid()) {
		return exit.Errorf(exit.Unavailable, "/proc shows another PID namespace: mount that of syd-tor's own")
	}
	limit, err := raiseDescriptorLimit()
	if err != nil {
		return err
	}
	if err := m.jail.Protect(v); err != nil {
		return err
	}
	for range m.config.Workers {
		if err := m.fork(listener, limit, v); err != nil {
			return err
		}
	}
	unix.Close(listener)
	sockets := []int{m.config.SocketFD}
	for _, r := range m.relays {
		if err := m.awaitConfined(r); err != nil {
			return err
		}
		sockets = append(sockets, r.socket)
	}
	return m.jail.Close(jail.Monitor{Sockets: sockets, Filter: filterValues()})
}

// forking is the region of the relay that is being forked: the child finds its own there.
var forking *relay.Region

// runRelay is what a relay runs, from its first instruction on.
//
//go:nosplit
func runRelay() {
	w := forking.Worker()
	jail.First()
	w.Adopt()
	jail.Second()
	w.Run()
}

func (m *Monitor) fork(listener, limit int, v *vault.Vault) error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return exit.Errorf(exit.OS, "epoll_create1: %w", err)
	}
	defer unix.Close(epoll)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return exit.Errorf(exit.OS, "socketpair: %w", err)
	}
	defer unix.Close(pair[1])
	if err := unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &handshakeTime); err != nil {
		return exit.Errorf(exit.OS, "setsockopt SO_RCVTIMEO of the handshake: %w", err)
	}
	region, err := relay.NewRegion(relay.Plan{
		Listener: listener, Epoll: epoll, Owner: int(m.owner), Monitor: pair[1],
		Upstream: m.config.Upstream, Vault: v, Descriptors: limit,
		Exclusive: m.config.Workers > 1, Records: m.config.Debug,
	})
	if err != nil {
		return exit.Errorf(exit.OS, "relay: %w", err)
	}
	forking = region
	jailed, err := m.jail.Fork(jail.Relay{
		Stack: region.Stack(), Maps: region.Maps(), Results: (*jail.Results)(&region.Shared().Steps),
		Filter: region.FilterValues(), Descriptors: region.Limit(), Socket: pair[1], Other: pair[0],
	}, runRelay)
	if err != nil {
		return err
	}
	m.relays = append(m.relays, &child{pid: jailed.PID, jailed: jailed, region: region, socket: pair[0], news: region.Reader()})
	return nil
}

// raiseDescriptorLimit sets the limit to the hard limit (syd-tor(1)) and returns it.
func raiseDescriptorLimit() (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, exit.Errorf(exit.OS, "getrlimit of descriptors: %w", err)
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, exit.Errorf(exit.OS, "setrlimit of descriptors to %d: %w", limit.Max, err)
	}
	return int(min(limit.Cur, 1<<30)), nil
}

// unblocked returns a descriptor of the pipe or terminal behind fd on which a write fails rather than waits; that of
// others stays as it is. Between poll(2) and write(2) another writer may take the room. Where there is no such
// descriptor, as for a terminal of another user, it returns fd.
func unblocked(fd int) int {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO && st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return fd
	}
	own, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fd
	}
	return own
}

// inherited is what accepted sockets take over from the listener; times are in seconds. A peer that is gone without a
// word is noticed by the kernel, without a timer of the relay's. TCP_USER_TIMEOUT is not among them: it also ends
// connections to a peer that is alive and reads nothing for so long.
var inherited = []struct {
	level, option, value int
	name                 string
}{
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1, "SO_KEEPALIVE"},
	{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1, "TCP_NODELAY"},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 120, "TCP_KEEPIDLE"},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 30, "TCP_KEEPINTVL"},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4, "TCP_KEEPCNT"},
}

// inherit prepares the listener. It must not block: a client that gave up, or another relay that was faster, would
// leave the relay asleep in accept4(2).
func inherit(listener int) error {
	if err := unix.SetNonblock(listener, true); err != nil {
		return exit.Errorf(exit.OS, "fcntl F_SETFL of the listening socket: %w", err)
	}
	if domain, err := unix.GetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain == unix.AF_UNIX {
		return err
	}
	for _, o := range inherited {
		// A multipath TCP listener lacks some of them; it forwards all the same.
		if err := unix.SetsockoptInt(listener, o.level, o.option, o.value); err != nil && err != unix.ENOPROTOOPT {
			return exit.Errorf(exit.OS, "setsockopt %s of the listening socket: %w", o.name, err)
		}
	}
	// Inherited too, and it would turn every close into a reset or a wait.
	if err := unix.SetsockoptLinger(listener, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{}); err != nil {
		return exit.Errorf(exit.OS, "setsockopt SO_LINGER of the listening socket: %w", err)
	}
	return nil
}

// awaitConfined sees r through its confinement. At its end r hangs up its half of the socket.
func (m *Monitor) awaitConfined(r *child) error {
	err := r.jailed.Confine(r.socket)
	if err == nil {
		err = awaitHangup(r.socket)
	}
	if err == nil && relay.Stage(r.region.Shared().Stage) == relay.Confined {
		if err = r.jailed.Confirm(); err == nil {
			return nil
		}
		// What cannot be seen any more of a relay that ends is not the reason.
		for range 100 {
			if ended, status := waitFor(r.pid, unix.WNOHANG); ended {
				return m.why(r, status)
			}
			time.Sleep(time.Millisecond)
		}
	}
	if err != nil && err != jail.ErrEnded {
		return err
	}
	_, status := waitFor(r.pid, 0)
	if err := r.jailed.Explain(); err != nil {
		return err
	}
	return m.why(r, status)
}

// why is the error that the end of a relay means. Its code is OK where the owner has exited.
func (m *Monitor) why(r *child, status unix.WaitStatus) error {
	kit.line.n = 0
	code := m.explain(r, status)
	return exit.Errorf(code, "%s", kit.line.text[:kit.line.n])
}

func awaitHangup(socket int) error {
	var b [1]byte
	for {
		_, err := unix.Read(socket, b[:])
		switch err {
		case unix.EINTR:
		case nil, unix.ECONNRESET:
			return nil
		default:
			return exit.Errorf(exit.OS, "handshake with the relay: %w", err)
		}
	}
}

// waitFor waits for a relay, which has not been waited for, to end, or with WNOHANG tells whether it has.
func waitFor(pid, options int) (ended bool, status unix.WaitStatus) {
	for {
		got, err := unix.Wait4(pid, &status, options, nil)
		if err == nil {
			return got == pid, status
		}
		if err != unix.EINTR {
			panic(fmt.Sprintf("wait4: %v", err)) // children are ours alone
		}
	}
}

// kill ends all relays. Nothing is lost: none has accepted yet.
func (m *Monitor) kill() {
	for _, r := range m.relays {
		unix.Kill(r.pid, unix.SIGKILL) // ESRCH: it ended already, too short a time ago for its pid to be taken again
	}
}

// Rest lets the relays accept, and ends this process when the owner has exited, a signal asks for it, or a relay has
// ended. It does not return. It leaves the Go runtime: nothing else in this program runs on.
//
// Requires: the main goroutine.
func (m *Monitor) Rest() {
	jail.Rest()
	m.leave()
}
