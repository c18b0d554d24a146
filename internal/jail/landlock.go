package jail

import (
	"errors"
	"io/fs"
	"os"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// The relay's rulesets are made by the monitor and enforced by the relay, after the mounts that Landlock forbids.
// Each right that came with a kernel of its own is a ruleset of its own: they stack, and none hides another's
// absence.

// landlockABIs has all that each version of the kernel's interface can restrict; the library has the numbers.
var landlockABIs = []landlock.Config{{}, landlock.V1, landlock.V2, landlock.V3, landlock.V4, landlock.V5, landlock.V6,
	landlock.V7, landlock.V8, landlock.V9, landlock.V10, landlock.V11}

// landlockABI returns what the kernel's version can restrict; the error is the kernel's.
func landlockABI() (landlock.Config, error) {
	version, err := ll.LandlockGetABIVersion()
	if err != nil {
		return landlock.Config{}, err
	}
	return landlockABIs[min(version, len(landlockABIs)-1)], nil
}

// probes are what the effects of Landlock are tried on: sockets and rulesets of the monitor, which the relay
// loses with all other descriptors.
type probes struct {
	open []int
}

func (p *probes) keep(fd int, err error) (int, error) {
	if err == nil {
		p.open = append(p.open, fd)
	}
	return fd, err
}

func (p *probes) socket(domain, typ int) (int, error) {
	return p.keep(unix.Socket(domain, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0))
}

// close is for when all relays have been forked.
func (p *probes) close() {
	for _, fd := range p.open {
		unix.Close(fd)
	}
	p.open = nil
}

// ruleset appends the enforcement of a new ruleset, and returns it for rules to be added.
func (j *Jail) ruleset(b *builder, attr ll.RulesetAttr) (fd int, err error) {
	if attr == (ll.RulesetAttr{}) {
		if _, err := ll.LandlockGetABIVersion(); err != nil {
			return 0, err
		}
		return 0, unix.EINVAL // as the kernel answers to rights that it does not know
	}
	fd, err = j.probes.keep(ll.LandlockCreateRuleset(&attr, 0))
	if err == nil {
		b.do(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(fd), 0)
	}
	return fd, err
}

func (j *Jail) landlockFS(b *builder) error {
	abi, err := landlockABI()
	if err != nil {
		return err
	}
	if _, err := j.ruleset(b, ll.RulesetAttr{HandledAccessFS: uint64(abi.HandledAccessFS &^ ll.AccessFSResolveUnix)}); err != nil {
		return err
	}
	b.expect(refusal(unix.EACCES), unix.SYS_OPENAT, atCWD, b.text("."), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	return nil
}

func (j *Jail) landlockTCP(b *builder) error {
	abi, _ := landlockABI()
	const rights = ll.AccessNetBindTCP | ll.AccessNetConnectTCP
	fd, err := j.ruleset(b, ll.RulesetAttr{HandledAccessNet: uint64(abi.HandledAccessNet) & rights})
	if err != nil {
		return err
	}
	port := uint16(0)
	if j.upstream.Family != unix.AF_UNIX {
		port = j.upstream.Addr.Port()
		rule := ll.NetPortAttr{AllowedAccess: ll.AccessNetConnectTCP, Port: uint64(port)}
		if err := ll.LandlockAddNetPortRule(fd, &rule, 0); err != nil {
			return err
		}
	}
	s, err := j.probes.socket(unix.AF_INET, unix.SOCK_STREAM)
	if err != nil {
		return nil // no IPv4 here
	}
	b.expectConnect(unix.EACCES, s, loopback(port^1))
	return nil
}

// expectConnect appends a connect of s to addr that fails with errno before anything is sent.
func (b *builder) expectConnect(errno unix.Errno, s int, addr []byte) {
	b.expect(refusal(errno), unix.SYS_CONNECT, uintptr(s), address(put(b, addr...)), uintptr(len(addr)))
}

// loopback is a sockaddr_in, ip(7), of that port.
func loopback(port uint16) []byte {
	return []byte{unix.AF_INET, 0, byte(port >> 8), byte(port), 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}
}

// landlockScope leaves abstract names reachable if the external address is one.
func (j *Jail) landlockScope(b *builder) error {
	abi, _ := landlockABI()
	scoped := uint64(abi.Scoped)
	if j.upstream.Abstract() {
		scoped &^= ll.ScopeAbstractUnixSocket
	}
	if _, err := j.ruleset(b, ll.RulesetAttr{Scoped: scoped}); err != nil || j.upstream.Abstract() {
		return err
	}
	// An abstract socket whose name the kernel chooses, unix(7); it lives until the relays are forked.
	listener, err := j.probes.socket(unix.AF_UNIX, unix.SOCK_STREAM)
	if err != nil {
		return err
	}
	if err := unix.Bind(listener, &unix.SockaddrUnix{}); err != nil {
		return err
	}
	if err := unix.Listen(listener, 1); err != nil {
		return err
	}
	name, err := unix.Getsockname(listener)
	if err != nil {
		return err
	}
	s, err := j.probes.socket(unix.AF_UNIX, unix.SOCK_STREAM)
	if err != nil {
		return err
	}
	addr := append([]byte{unix.AF_UNIX, 0, 0}, name.(*unix.SockaddrUnix).Name[1:]...)
	b.expectConnect(unix.EPERM, s, addr)
	return nil
}

func (j *Jail) landlockUnix(b *builder) error {
	abi, _ := landlockABI()
	fd, err := j.ruleset(b, ll.RulesetAttr{HandledAccessFS: uint64(abi.HandledAccessFS & ll.AccessFSResolveUnix)})
	if err != nil || j.place.dir == "" {
		return err
	}
	dir, err := unix.Open(j.place.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return ll.LandlockAddPathBeneathRule(fd, &ll.PathBeneathAttr{AllowedAccess: ll.AccessFSResolveUnix, ParentFd: dir}, 0)
}

func (j *Jail) landlockUDP(b *builder) error {
	abi, _ := landlockABI()
	const rights = ll.AccessNetBindUDP | ll.AccessNetConnectSendUDP
	if _, err := j.ruleset(b, ll.RulesetAttr{HandledAccessNet: uint64(abi.HandledAccessNet) & rights}); err != nil {
		return err
	}
	s, err := j.probes.socket(unix.AF_INET, unix.SOCK_DGRAM)
	if err != nil {
		return nil // no IPv4 here
	}
	b.expectConnect(unix.EACCES, s, loopback(9)) // discard
	return nil
}

// atCWD is AT_FDCWD as an argument.
const atCWD = ^uintptr(-unix.AT_FDCWD - 1)

// restrictMonitor takes all that the kernel's version can restrict, but for signals: the monitor ends its relays.
func (j *Jail) restrictMonitor() error {
	abi, err := landlockABI()
	if err != nil {
		return err
	}
	abi.Scoped &^= ll.ScopeSignal
	if err := abi.Restrict(); err != nil {
		return err
	}
	f, err := os.Open("/")
	if err == nil {
		f.Close()
		return errors.New("no effect: the root can be opened")
	}
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}
