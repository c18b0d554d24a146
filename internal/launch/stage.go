package launch

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"syd/internal/exit"
)

// The stage is this program once more, inside the new namespaces: it prepares them, waits for syd's word and then
// becomes the program. What it shall do stands in its arguments, its environment is the program's already, and it
// has two descriptors: its control socket to syd, and the write end of the socket pair to syd-tor.
const (
	stageName     = "syd-stage"
	stageControl  = 3
	stageHandover = 4
)

// stage is what the stage knows.
type stage struct {
	outside string         // name of the network namespace that it must not be in
	owner   string         // name of syd's user namespace
	listen  netip.AddrPort // where the program finds the proxy
	path    string         // the program's file
	argv    []string       // its arguments, with its name
	env     []string       // its environment

	listener int
}

func (s *stage) args() []string {
	return append([]string{stageName, s.outside, s.owner, s.listen.String(), s.path}, s.argv...)
}

func parseStage(args []string) (*stage, error) {
	if len(args) < 6 {
		return nil, errors.New("not for use by hand")
	}
	listen, err := netip.ParseAddrPort(args[3])
	if err != nil {
		return nil, err
	}
	return &stage{outside: args[1], owner: args[2], listen: listen, path: args[4], argv: args[5:], env: os.Environ()}, nil
}

// step is one row of a table of steps: its name is the start of the error that it returns.
type step[T any] struct {
	name string
	why  string // why it is there, and why at this place
	code exit.Code
	run  func(T) error
}

// stageSteps is what happens between clone(2) and execve(2), in this order.
var stageSteps = []step[*stage]{
	{"network namespace", "verified: a clone that forgot the flag would leave the program outside",
		exit.Unavailable, (*stage).verifyNetwork},
	{"loopback device", "the proxy is found on it; no other device exists",
		exit.Unavailable, (*stage).loopback},
	{"listener", "listening before the program starts: its first connection waits instead of being refused",
		exit.Unavailable, (*stage).listenTCP},
	{"handoff", "to syd-tor, while nothing untrusted runs here",
		exit.NoProxy, (*stage).handOver},
	{"release", "syd says when syd-tor is ready; its silence means that it is gone",
		exit.NoProxy, (*stage).await},
	{"descriptors", "none of syd's, or of those that syd inherited, reaches the program",
		exit.OS, closeDescriptors},
	{"capabilities", "after the last step that needs one; with one the program could change its network",
		exit.OS, func(*stage) error { return dropCapabilities() }},
	{"no_new_privs", "set-user-ID programs gain nothing; no capability is needed for it",
		exit.OS, func(*stage) error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }},
	{"domain", "Landlock needs no_new_privs; best effort",
		exit.OS, (*stage).separate},
	{"filter", "seccomp needs no_new_privs, and what comes before needs what it denies",
		exit.Unavailable, func(*stage) error { return filterCalls() }},
	{"program", "execve(2); the descriptor that would tell of an error closes by it",
		exit.CannotExec, (*stage).exec},
}

// plainSteps is what remains of them without a sandbox: in syd itself, which becomes the program.
var plainSteps = stepsNamed("descriptors", "program")

func stepsNamed(names ...string) (some []step[*stage]) {
	for _, name := range names {
		for _, s := range stageSteps {
			if s.name == name {
				some = append(some, s)
			}
		}
	}
	return some
}

// IsStage says whether this process is the stage.
func IsStage() bool { return os.Args[0] == stageName }

// Stage carries out the stage. It returns only if a step fails, and has told syd why by then. Requires: the main
// thread, whose capabilities the program gets.
func Stage() error {
	unix.CloseOnExec(stageControl)
	unix.CloseOnExec(stageHandover)
	s, err := parseStage(os.Args)
	if err == nil {
		err = runSteps(stageSteps, s)
	}
	if !errors.Is(err, errNoWord) {
		report(err)
	}
	return err
}

func runSteps[T any](steps []step[T], t T) error {
	for _, step := range steps {
		if err := step.run(t); err != nil {
			var coded *exit.Error
			if errors.As(err, &coded) {
				return err
			}
			return exit.Errorf(step.code, "%s: %w", step.name, err)
		}
	}
	return nil
}

// A message on the control socket is one packet: a kind, then for an error its exit code and its text.
const (
	saysListening byte = 'L' // stage → syd: the listener is on its way to syd-tor
	saysError     byte = 'E' // stage → syd
	saysGo        byte = 'G' // syd → stage: become the program
)

const maxMessage = 4096

func report(err error) {
	text := err.Error()
	text = text[:min(len(text), maxMessage-2)]
	unix.Write(stageControl, append([]byte{saysError, byte(exit.Of(err))}, text...))
}

// namespaceName names the calling process's namespace of a kind, as in /proc/PID/ns.
func namespaceName(kind string) (string, error) { return os.Readlink("/proc/self/ns/" + kind) }

func (s *stage) verifyNetwork() error {
	inside, err := namespaceName("net")
	if err == nil && inside == s.outside {
		err = errors.New("the kernel made none")
	}
	return err
}

func (s *stage) loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, lo); err != nil {
		return err
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("%w%s", err, why()) // AppArmor allows the clone and takes its capabilities
	}
	return nil
}

// backlog is how many of the program's connections may wait for syd-tor: as many as the kernel allows (it cuts the
// number to net.core.somaxconn).
const backlog = math.MaxInt32

// listenTCP makes the listener with plain system calls: Go's net package would make it speak multipath TCP, another
// kind of socket with more of the kernel behind it, which nothing on a loopback device needs.
func (s *stage) listenTCP() (err error) {
	domain, address := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(s.listen.Port()), Addr: [4]byte{}})
	if a := s.listen.Addr(); a.Is4() {
		address.(*unix.SockaddrInet4).Addr = a.As4()
	} else {
		domain, address = unix.AF_INET6, &unix.SockaddrInet6{Port: int(s.listen.Port()), Addr: a.As16()}
	}
	s.listener, err = unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return fmt.Errorf("%v: %w", s.listen, err)
	}
	if err := unix.Bind(s.listener, address); err != nil {
		return fmt.Errorf("%v: bind: %w", s.listen, err)
	}
	if err := unix.Listen(s.listener, backlog); err != nil {
		return fmt.Errorf("%v: listen: %w", s.listen, err)
	}
	return nil
}

// handOver sends the listener to syd-tor and keeps no copy: if syd-tor ends, connections are refused, not stuck.
func (s *stage) handOver() error {
	if err := unix.Sendmsg(stageHandover, []byte{0}, unix.UnixRights(s.listener), nil, unix.MSG_NOSIGNAL); err != nil {
		return err
	}
	// syd holds a copy of this end, to notice when syd-tor closes its own; syd-tor sees the end of it all the same.
	if err := unix.Shutdown(stageHandover, unix.SHUT_WR); err != nil {
		return err
	}
	if err := errors.Join(unix.Close(s.listener), unix.Close(stageHandover)); err != nil {
		return err
	}
	_, err := unix.Write(stageControl, []byte{saysListening})
	return err
}

// errNoWord means that syd ended, or gave up and has said why itself.
var errNoWord = exit.Errorf(exit.NoProxy, "no word from syd")

func (s *stage) await() error {
	var word [1]byte
	n, err := readAll(stageControl, word[:])
	if err == nil && (n != 1 || word[0] != saysGo) {
		return errNoWord
	}
	return err
}

// readAll is read(2) of one packet, through interruptions.
func readAll(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// closeDescriptors marks all but 0, 1 and 2 to be closed by execve(2).
func closeDescriptors(*stage) error {
	if unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return nil
	}
	// Before Linux 5.11, or in a container whose filter does not know the call.
	open, err := os.ReadDir("/proc/self/fd")
	for _, entry := range open {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd) // fails for the descriptor that listed them, which is closed
		}
	}
	return err
}

// separate says so where neither it nor a user namespace stands between the program and other processes.
func (s *stage) separate() error {
	err := enterDomain()
	if err == nil || !slices.Contains(noScopes, err) {
		return err
	}
	if inside, err := namespaceName("user"); err != nil || inside == s.owner {
		Say("neither a user namespace nor Landlock scopes (Linux 6.12) here: %s may trace processes of its user's that "+
			"have no capabilities either", s.argv[0])
	}
	return nil
}

// exec becomes the program. As execvp(3) does, it takes a file that the kernel does not know for a shell script.
func (s *stage) exec() error {
	err := syscall.Exec(s.path, s.argv, s.env)
	if err == unix.ENOEXEC {
		err = syscall.Exec("/bin/sh", append([]string{"sh", s.path}, s.argv[1:]...), s.env)
	}
	code := exit.CannotExec
	if err == unix.ENOENT { // such as a missing interpreter
		code = exit.NotFound
	}
	return exit.Errorf(code, "%s: %w", s.argv[0], err)
}
