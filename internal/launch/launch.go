// Package launch is syd(1): it starts a program whose only way out to the network is syd-tor(1).
//
// It guarantees that the program starts in a network namespace with nothing but a loopback device, without
// capabilities or a way to gain them, after syd-tor has taken the listener that the program finds there; that
// whatever ends early leaves the program with less network, never with more; and that the program otherwise
// runs as it would without syd: same user, terminal, process group, resource limits, signal mask and exit status.
//
// It does not confine anything but the network, and what leads around it: files, other processes of the same user
// that can be reached by a UNIX socket with a path, and signals are what they were.
//
// Processes, in the order in which they start:
//
//	syd      the caller's child: waits, passes on signals and exit status; its end is what ends syd-tor
//	stage    syd's child in the new namespaces: makes the listener, waits, becomes the program
//	syd-tor  syd's child outside, in a session of its own, where no terminal reaches it
package launch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"syd/internal/exit"
)

// launcher is one run of syd with the proxy on, filled in by its steps.
type launcher struct {
	opts     Options
	settings Settings
	caught   chan os.Signal

	upstream []string // syd-tor's arguments that name the external address
	torPath  string
	stage    stage

	control      int // to the stage
	handover     int // a copy of the write end to syd-tor, which tells when the other end is closed
	torSocket    int // the read end, until syd-tor has it
	stageControl int // the stage's end of control, until it has it

	program *process // the stage, later the program
	tor     *process
}

// launchSteps is what happens before the program runs, in this order.
var launchSteps = []step[*launcher]{
	{"descriptors", "before anything is started: no child inherits any that syd inherited; -P has been read",
		exit.OS, func(*launcher) error { return closeDescriptors(nil) }},
	{"standard descriptors", "the program keeps them, so they must not be a way out",
		exit.Usage, func(*launcher) error { return checkStandard() }},
	{"signals", "from here on a signal unwinds what was started",
		exit.OS, func(l *launcher) (err error) { l.caught, err = catch(); return err }},
	{"proxy/ext/host", "a name is looked up once: the address that syd-tor gets is final",
		exit.NoProxy, (*launcher).resolve},
	{"syd-tor", "looked for before anything is started, in syd's own environment",
		exit.NoProxy, (*launcher).findTor},
	{"environment", "before the program is looked for: -E may set PATH",
		exit.OS, (*launcher).makeEnvironment},
	{"program", "not found is told before anything is started",
		exit.NotFound, (*launcher).findProgram},
	{"channels", "the sockets between the three processes",
		exit.OS, (*launcher).makeChannels},
	{"namespaces", "the stage starts in them",
		exit.Unavailable, (*launcher).startStage},
	{"listener", "the stage listens and has sent the listener off; only then is syd-tor worth starting",
		exit.Unavailable, (*launcher).awaitStage},
	{"syd-tor", "outside, with syd's pidfd and the read end",
		exit.NoProxy, (*launcher).startTor},
	{"syd-tor", "it has taken the listener and is still alive",
		exit.NoProxy, (*launcher).awaitTor},
	{"dumpable", "the program must not trace syd, which is outside; not earlier: who maps identities must be dumpable",
		exit.OS, func(*launcher) error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }},
	{"program", "released; the stage becomes the program or says why not",
		exit.CannotExec, (*launcher).release},
}

// Run runs the program and returns its exit status, 128+n if signal n ended it. With an error the program was not
// started, and nothing that was started for it is left. Requires: the main thread.
func Run(opts Options, settings Settings) (exit.Code, error) {
	if !settings.Proxy {
		return runPlain(opts, settings)
	}
	l := &launcher{opts: opts, settings: settings, control: -1, handover: -1}
	defer l.finish()
	if err := runSteps(launchSteps, l); err != nil {
		return 0, err
	}
	return l.wait(), nil
}

// runPlain becomes the program: without a sandbox there is nothing to wait for.
func runPlain(opts Options, settings Settings) (exit.Code, error) {
	env := environment(os.Environ(), opts.Env, netip.AddrPort{})
	path, err := findProgram(opts.Program[0], env)
	if err != nil {
		return 0, err
	}
	if settings.Others { // who forgets the one command must not believe in a sandbox
		Say("%s is off, so the other commands do nothing: %s runs with the whole network", proxyKey, opts.Program[0])
	}
	return 0, runSteps(plainSteps, &stage{path: path, argv: opts.Program, env: env})
}

// lookupTime bounds the look-up of proxy/ext/host; resolv.conf(5) has its own, shorter limits.
const lookupTime = 30 * time.Second

func (l *launcher) resolve() error {
	if l.settings.Unix != "" {
		l.upstream = []string{"-u", l.settings.Unix}
		return nil
	}
	addr, err := netip.ParseAddr(l.settings.Host)
	if err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), lookupTime)
		defer cancel()
		done := make(chan error, 1)
		go func() {
			addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", l.settings.Host)
			if err == nil {
				addr = addrs[0].Unmap() // the resolver has them in order of preference (RFC 6724)
			}
			done <- err
		}()
		if err := l.attend(done); err != nil {
			return err
		}
	}
	l.upstream = []string{"-o", netip.AddrPortFrom(addr, l.settings.HostPort).String()}
	return nil
}

// torName is the forwarder's file name.
const torName = "syd-tor"

func (l *launcher) findTor() error {
	self, err := os.Executable()
	if err == nil {
		l.torPath, err = exec.LookPath(filepath.Join(filepath.Dir(self), torName))
	}
	if err != nil {
		l.torPath, err = exec.LookPath(torName)
	}
	if err != nil {
		return fmt.Errorf("neither beside syd nor in PATH: %w", err)
	}
	return nil
}

func (l *launcher) makeEnvironment() error {
	l.stage.listen = netip.AddrPortFrom(l.settings.Addr, l.settings.Port)
	proxy := l.stage.listen
	if !l.settings.Env {
		proxy = netip.AddrPort{}
	}
	l.stage.env = environment(os.Environ(), l.opts.Env, proxy)
	return nil
}

func (l *launcher) findProgram() (err error) {
	l.stage.argv = l.opts.Program
	l.stage.path, err = findProgram(l.opts.Program[0], l.stage.env)
	return err
}

func (l *launcher) makeChannels() error {
	control, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	handover, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	l.control, l.stageControl = control[0], control[1]
	l.handover, l.torSocket = handover[0], handover[1]
	return nil
}

func (l *launcher) startStage() (err error) {
	if l.stage.outside, err = namespaceName("net"); err != nil {
		return err
	}
	if l.stage.owner, err = namespaceName("user"); err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without
		return err
	}
	ways, err := waysIn()
	if err != nil {
		return err
	}
	attr := syscall.ProcAttr{
		Env:   l.stage.env,
		Files: []uintptr{0, 1, 2, stageControl: uintptr(l.stageControl), stageHandover: uintptr(l.handover)},
	}
	for i, way := range ways {
		attr.Sys = &way.attr
		l.program, err = start(selfExe, l.stage.args(), &attr, unix.WUNTRACED)
		if err == nil {
			break
		}
		err = fmt.Errorf("%s: %w%s", culprit(way), err, why())
		if i+1 < len(ways) {
			Say("%v; going on with a %s alone", err, ways[i+1].name)
		}
	}
	unix.Close(l.stageControl) // so that the end of the stage is the end of the channel
	return err
}

// culprit names which of way's namespaces it was that could not be had, by asking for the first alone.
func culprit(way namespaces) string {
	if way.attr.Cloneflags&unix.CLONE_NEWUSER == 0 {
		return way.name
	}
	alone := way.attr
	alone.Cloneflags = unix.CLONE_NEWUSER
	// Without arguments the stage ends at once.
	probe, err := start(selfExe, []string{stageName}, &syscall.ProcAttr{Sys: &alone}, 0)
	if err != nil {
		return "user namespace"
	}
	probe.end()
	return "network namespace"
}

// message is one packet of the stage, or the error of reading it; io.EOF is an empty one.
type message struct {
	kind byte
	err  error
}

// hear waits in the background for one message of the stage.
func (l *launcher) hear() <-chan message {
	c := make(chan message, 1)
	go func() {
		buf := make([]byte, maxMessage)
		n, err := readAll(l.control, buf)
		switch {
		case err == unix.ECONNRESET: // the end as well: the stage was killed before it read what syd had said
			c <- message{}
		case err != nil:
			c <- message{err: err}
		case n == 0:
			c <- message{}
		case buf[0] == saysError && n > 1:
			c <- message{kind: saysError, err: exit.Errorf(exit.Code(buf[1]), "%s", buf[2:n])}
		default:
			c <- message{kind: buf[0]}
		}
	}()
	return c
}

func (l *launcher) awaitStage() error {
	done := make(chan error, 1)
	go func() {
		m := <-l.hear()
		if m.err == nil && m.kind != saysListening {
			m.err = fmt.Errorf("the stage ended: %s", describe(<-l.program.ended))
		}
		done <- m.err
	}()
	return l.attend(done)
}

func (l *launcher) startTor() error {
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	pidfd, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(pidfd)
	// As PIDFD_NONBLOCK does, which Linux has from 5.10 on; the pidfd itself came with 5.3.
	if err := unix.SetNonblock(pidfd, true); err != nil {
		return fmt.Errorf("pidfd: %w", err)
	}
	args := append([]string{torName, "-p", "3", "-i", "4"}, l.upstream...)
	if l.settings.Stats {
		args = append(args, "--stats")
	}
	attr := syscall.ProcAttr{
		Env: os.Environ(),
		// Not standard output: who reads the program's must not wait for syd-tor to close it.
		Files: []uintptr{uintptr(null), uintptr(null), 2, 3: uintptr(pidfd), 4: uintptr(l.torSocket)},
		Sys:   &syscall.SysProcAttr{Setsid: true}, // ^C and ^Z are for the program
	}
	l.tor, err = start(l.torPath, args, &attr, 0)
	unix.Close(l.torSocket)
	if err != nil {
		return fmt.Errorf("%s: %w", l.torPath, err)
	}
	return nil
}

const (
	// readyTime bounds the wait for syd-tor: it has nothing to wait for itself.
	readyTime = 20 * time.Second
	// goneTime is how long a syd-tor that closed its end without a word may take to have died of something.
	goneTime = time.Second
)

// awaitTor waits until syd-tor is ready. It says so with a byte on -i. One that closes -i without a byte either
// died, or does not know this: then it is ready if it lives on.
func (l *launcher) awaitTor() error {
	defer func() { unix.Close(l.handover); l.handover = -1 }()
	poll := []unix.PollFd{{Fd: int32(l.handover), Events: unix.POLLIN}}
	done := make(chan error, 1)
	go func() {
		for end := time.Now().Add(readyTime); ; {
			n, err := unix.Poll(poll, int(max(time.Until(end), 0).Milliseconds()))
			if err == unix.EINTR {
				continue
			}
			if err == nil && n == 0 {
				err = fmt.Errorf("not ready after %v", readyTime)
			}
			done <- err
			return
		}
	}()
	// attend would take either the byte or the end first; the byte decides.
	if err := l.attend(done); err != nil {
		return err
	}
	n, err := readAll(l.handover, make([]byte, 1))
	if n == 1 {
		return nil
	}
	if err != nil && err != unix.ECONNRESET { // it closed -i, and the listener was still in it
		return err
	}
	time.AfterFunc(goneTime, func() { done <- nil })
	return l.attend(done)
}

func (l *launcher) release() error {
	// A stage that was killed before it read this has its end told by wait, as the program's.
	if _, err := unix.Write(l.control, []byte{saysGo}); err != nil && err != unix.EPIPE {
		return err
	}
	heard := l.hear()
	for {
		select {
		case m := <-heard:
			return m.err // nothing: the channel was closed, by execve(2) or by the stage's death
		case s := <-l.caught:
			l.passOn(s)
		case <-l.program.stops:
			stop()
		}
	}
}

// attend waits for done, and fails earlier if a signal ends syd or if syd-tor ends. A ^Z stops the stage, which is of
// syd's job, and syd with it.
func (l *launcher) attend(done <-chan error) error {
	var tor <-chan unix.WaitStatus
	if l.tor != nil {
		tor = l.tor.ended
	}
	var stops <-chan struct{}
	if l.program != nil {
		stops = l.program.stops
	}
	for {
		select {
		case err := <-done:
			return err
		case s := <-l.caught:
			if s := s.(unix.Signal); !harmless[s] {
				return exit.Errorf(exit.Signal(s), "ended by signal %s before the program was started", signalName(s))
			}
		case <-stops:
			stop()
		case status := <-tor:
			return fmt.Errorf("ended before it was ready: %s", describe(status))
		}
	}
}

func (l *launcher) passOn(s os.Signal) {
	if s := s.(unix.Signal); passOn(s) {
		l.program.signal(s)
	}
}

// wait lets the program run and returns its exit status.
func (l *launcher) wait() exit.Code {
	tor := l.tor.ended
	for {
		select {
		case s := <-l.caught:
			l.passOn(s)
		case status := <-tor:
			tor = nil
			Say("syd-tor ended: %s; %s goes on without any network", describe(status), l.opts.Program[0])
		case <-l.program.stops:
			stop()
		case status := <-l.program.ended:
			if status.Signaled() {
				return exit.Signal(status.Signal())
			}
			return exit.Code(status.ExitStatus())
		}
	}
}

// stopTime is how long syd-tor may take to end, and print its counters, when asked to.
const stopTime = 2 * time.Second

// finish ends what is left of the processes.
func (l *launcher) finish() {
	if l.program != nil {
		l.program.end() // a stage that waits for a word; the program itself has ended before
	}
	if l.tor == nil {
		return
	}
	l.tor.signal(unix.SIGTERM)
	select {
	case <-l.tor.ended:
	case <-time.After(stopTime):
		l.tor.end()
	}
}
