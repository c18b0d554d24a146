// Package monitor is the process that starts the relays, waits, and reports. It never touches the network.
//
// It guarantees that no relay outlives it or the owner, and that a relay's death is told with its cause. What a
// relay leaves in shared memory it treats as numbers to print.
package monitor

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
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

// recordPeriod is how often a monitor that tells each connection's life looks for news.
const recordPeriod = 20 * time.Millisecond

// Monitor is the parent of one or more relays on one listener.
type Monitor struct {
	config  *config.Config
	jail    *jail.Jail
	log     io.Writer
	relays  []*child
	ends    chan end // of relays, in the order in which they ended
	signals chan os.Signal
}

// handshakeTime bounds each wait for a relay that is being confined, which takes milliseconds.
var handshakeTime = unix.Timeval{Sec: 30}

// child is one relay as the monitor sees it.
type child struct {
	pid    int
	jailed *jail.Prisoner
	region *relay.Region
	socket int    // handshake; the relay watches it for the monitor's death
	tail   uint32 // records read so far
}

// end is how a child ended.
type end struct {
	pid    int
	status unix.WaitStatus
}

// Start forks the relays and returns once each is confined and has been told to accept. It takes over listener
// and owner. The error says which relay failed at what.
//
// Requires: the main goroutine.
func Start(c *config.Config, j *jail.Jail, listener, owner int, v *vault.Vault, log io.Writer) (*Monitor, error) {
	if err := inherit(listener); err != nil {
		return nil, err
	}
	m := &Monitor{config: c, jail: j, log: log, ends: make(chan end, c.Workers), signals: make(chan os.Signal, 8)}
	// From the first accept on the owner may ask for the counters.
	signal.Notify(m.signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1)
	signal.Ignore(unix.SIGPIPE)
	if err := m.confine(listener, owner, v); err != nil {
		m.kill()
		return nil, err
	}
	for _, note := range j.Notes() {
		fmt.Fprintf(log, "syd-tor: %s\n", note)
	}
	if c.Rules {
		for _, text := range j.Rules() {
			fmt.Fprint(log, text)
		}
	}
	for _, r := range m.relays {
		// Why a relay is gone already, Wait will tell.
		if _, err := unix.Write(r.socket, []byte{0}); err != nil && err != unix.EPIPE {
			m.kill()
			return nil, exit.Errorf(exit.OS, "handshake with the relay: %w", err)
		}
	}
	return m, nil
}

// Check forks the relays on a socket that nobody can reach, carries out every confinement step, and ends. What
// became of the steps is in j's report; an error says that a required one failed, or that the report is not
// complete for another reason.
//
// Requires: the main goroutine. Afterwards this process can do no more than print.
func Check(c *config.Config, j *jail.Jail, v *vault.Vault) error {
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return exit.Errorf(exit.OS, "socket: %w", err)
	}
	owner, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err != nil {
		return exit.Errorf(exit.OS, "pidfd_open: %w", err)
	}
	m := &Monitor{config: c, jail: j, ends: make(chan end, c.Workers)}
	defer m.kill()
	return m.confine(listener, owner, v)
}

// confine forks the relays and carries out every confinement step. It closes listener.
func (m *Monitor) confine(listener, owner int, v *vault.Vault) error {
	if !arch.Forkable() {
		return exit.Errorf(exit.Software, "this binary links the C library: build it with CGO_ENABLED=0")
	}
	limit, err := raiseDescriptorLimit()
	if err != nil {
		return err
	}
	if err := m.jail.Protect(v); err != nil {
		return err
	}
	for range m.config.Workers {
		if err := m.fork(listener, owner, limit, v); err != nil {
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
	return m.jail.Close(sockets)
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

func (m *Monitor) fork(listener, owner, limit int, v *vault.Vault) error {
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
		Listener: listener, Epoll: epoll, Owner: owner, Monitor: pair[1],
		Upstream: m.config.Upstream, Vault: v, Descriptors: limit,
		Exclusive: m.config.Workers > 1, Records: m.config.Debug,
	})
	if err != nil {
		return exit.Errorf(exit.OS, "relay: %w", err)
	}
	forking = region
	jailed, err := m.jail.Fork(jail.Relay{
		Stack: region.Stack(), Maps: region.Maps(), Results: (*jail.Results)(&region.Shared().Steps),
		Filter: region.FilterValues(), Descriptors: region.Limit(), Socket: pair[1],
	}, runRelay)
	if err != nil {
		return err
	}
	m.relays = append(m.relays, &child{pid: jailed.PID, jailed: jailed, region: region, socket: pair[0]})
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

// inherited is what accepted sockets take over from the listener. A peer that is gone without a word is noticed
// by the kernel, without a timer of the relay's. Times are in seconds but for TCP_USER_TIMEOUT: milliseconds.
var inherited = []struct {
	level, option, value int
	name                 string
}{
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1, "SO_KEEPALIVE"},
	{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1, "TCP_NODELAY"},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 120, "TCP_KEEPIDLE"},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 30, "TCP_KEEPINTVL"},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4, "TCP_KEEPCNT"},
	{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 240_000, "TCP_USER_TIMEOUT"},
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
	switch {
	case err == nil && relay.Stage(r.region.Shared().Stage) == relay.Confined:
		return r.jailed.Confirm()
	case err != nil && err != jail.ErrEnded:
		return err
	}
	e := awaitEnd(r.pid)
	if err := r.jailed.Explain(); err != nil {
		return err
	}
	return m.explain(e)
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

// anyRelay is the pid with which awaitEnd waits for whichever relay ends first (wait4(2)).
const anyRelay = -1

// awaitEnd waits for one of the relays, which has not been waited for, to end.
func awaitEnd(pid int) end {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(pid, &status, 0, nil)
		if err == nil {
			return end{pid, status}
		}
		if err != unix.EINTR {
			panic(fmt.Sprintf("wait4: %v", err)) // children are ours alone
		}
	}
}

// Wait returns when the owner has exited (nil), a signal ended the monitor, or a relay died. No relay is left.
func (m *Monitor) Wait(owner int) error {
	var news <-chan time.Time
	if m.config.Debug {
		ticker := time.NewTicker(recordPeriod)
		defer ticker.Stop()
		news = ticker.C
	}
	// From here on the monitor rests: what start-up took goes back. That comes before the calls that do not return:
	// go1.26 misses a goroutine that enters one just when the collector stops the world, and the whole program then
	// waits for sysmon, which sleeps for a minute (runtime/proc.go: reentersyscall, stopTheWorldWithSema, sysmon).
	debug.FreeOSMemory()
	jail.Rest()
	ownerGone := make(chan struct{})
	go func() {
		awaitReadable(owner)
		close(ownerGone)
	}()
	go func() {
		for range m.relays {
			m.ends <- awaitEnd(anyRelay)
		}
	}()
	err := m.loop(news, ownerGone)
	m.kill()
	m.tell()
	if m.config.Stats {
		m.printCounters()
	}
	return err
}

// ErrTerminated means that SIGTERM asked for the end, as syd(1) does once its program has ended. It carries the
// signal's exit code and is not worth a line on stderr.
var ErrTerminated = exit.Errorf(exit.Signal(unix.SIGTERM), "ended by SIGTERM")

func (m *Monitor) loop(news <-chan time.Time, ownerGone <-chan struct{}) error {
	for {
		select {
		case <-news:
			m.tell()
		case e := <-m.ends:
			return m.explain(e)
		case <-ownerGone:
			return nil
		case s := <-m.signals:
			if s == unix.SIGTERM {
				return ErrTerminated
			}
			if s != unix.SIGUSR1 {
				return exit.Errorf(exit.Signal(s.(unix.Signal)), "ended by %s", unix.SignalName(s.(unix.Signal)))
			}
			m.printCounters()
		}
	}
}

func awaitReadable(fd int) {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(poll, -1); err == nil {
			return
		}
	}
}

// kill ends all relays. Nothing is lost that the owner's end would not lose.
func (m *Monitor) kill() {
	for _, r := range m.relays {
		unix.Kill(r.pid, unix.SIGKILL) // ESRCH: it ended already, too short a time ago for its pid to be taken again
	}
}

// causes says what usually stands behind a signal that ends a relay.
var causes = map[unix.Signal]string{
	unix.SIGSYS:  "a system call outside its policy",
	unix.SIGSEGV: "memory that it does not have, a failed bounds check or a blocked counter",
	unix.SIGKILL: "from outside, or memory ran out",
}

// explain turns the end of a relay into the error that ends the monitor; nil if the owner is gone.
func (m *Monitor) explain(e end) error {
	var shared *relay.Shared
	for _, r := range m.relays {
		if r.pid == e.pid {
			shared = r.region.Shared()
		}
	}
	if e.status.Signaled() {
		s := e.status.Signal()
		cause := causes[s]
		if cause == "" {
			cause = "unexpected"
		}
		return exit.Errorf(exit.Software, "relay %d died of %s: %s", e.pid, unix.SignalName(s), cause)
	}
	switch relay.Stage(shared.Stage) {
	case relay.OwnerGone:
		return nil
	case relay.Faulted:
		name := "unknown call"
		if f := shared.Fault; f < uint32(len(relay.FaultNames)) {
			name = relay.FaultNames[f]
		}
		return exit.Errorf(exit.OS, "relay %d: %s: %w", e.pid, name, unix.Errno(shared.FaultErrno))
	}
	return exit.Errorf(exit.Software, "relay %d exited with status %d", e.pid, e.status.ExitStatus())
}
