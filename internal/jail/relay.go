package jail

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"syd/internal/policy"
)

// The steps that the relay carries out, in the order of the table: each appends its calls to the program.

// await waits for the byte that says that the identity maps are written. End of file: the monitor is gone. That comes
// only where nobody else has the monitor's end; relays that are forked later close theirs in turn.
func (j *Jail) await(b *builder) error {
	b.do(unix.SYS_CLOSE, uintptr(b.relay.Other))
	b.receive()
	return nil
}

func (b *builder) receive() {
	b.expect(1, unix.SYS_READ, uintptr(b.relay.Socket), address(put(b, byte(0))), 1)
}

// inspect lets the monitor look at the relay as long as it may.
func (b *builder) inspect() {
	b.expect(1, unix.SYS_WRITE, uintptr(b.relay.Socket), address(put(b, byte(0))), 1)
	b.receive()
}

// tryExec sees the effect of PR_SET_MDWE, which the relay inherited.
func (j *Jail) tryExec(b *builder) error {
	b.expect(refusal(unix.EACCES), unix.SYS_MPROTECT, b.spare(), pageSize, unix.PROT_READ|unix.PROT_EXEC)
	return nil
}

// Securebits, capabilities(7), include/uapi/linux/securebits.h.
const (
	secNoRoot        = 1 << 0
	secNoSetuidFixup = 1 << 2
	secKeepCaps      = 1 << 4
	secNoAmbient     = 1 << 6
	secLocked        = 1 // the lock of each bit is the next higher one
)

func (j *Jail) takeIdentity(b *builder) error {
	u := j.user
	if u.change {
		if j.flags&unix.CLONE_NEWUSER == 0 {
			// Root's capabilities would go with its id, and the next steps take them.
			b.do(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, secNoSetuidFixup)
		}
		groups := uintptr(0)
		if len(u.groups) > 0 {
			groups = address(put(b, u.groups...))
		}
		b.do(sysSetgroups, uintptr(len(u.groups)), groups)
		gid, uid := uintptr(u.gid), uintptr(u.uid)
		b.do(sysSetresgid, gid, gid, gid)
		b.do(sysSetresuid, uid, uid, uid)
	}
	b.expect(uintptr(u.uid), sysGeteuid)
	b.expect(uintptr(u.gid), sysGetegid)
	return nil
}

// changeDir comes after the identity: what nobody cannot search, the relay could not use either.
func (j *Jail) changeDir(b *builder) error {
	dir := "/"
	if j.place.dir != "" {
		dir = j.place.dir
	}
	b.do(unix.SYS_CHDIR, b.text(dir))
	return nil
}

func (j *Jail) dieWithParent(b *builder) error {
	b.do(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL))
	word := put(b, uint32(0))
	b.expectWord(word, uint32(unix.SIGKILL), unix.SYS_PRCTL, unix.PR_GET_PDEATHSIG, address(word))
	return nil
}

// pivot puts an empty filesystem, or the directory of the external socket, in the place of the root. It is
// mounted on /proc because that exists wherever this program runs; nothing else sees it. A chroot would keep the
// host's mounts within reach.
func (j *Jail) pivot(b *builder) error {
	const locked = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	none, at, here := b.text("none"), b.text("/proc"), b.text(".")
	b.do(unix.SYS_MOUNT, none, b.text("/"), 0, unix.MS_REC|unix.MS_PRIVATE, 0)
	if j.place.dir != "" {
		b.do(unix.SYS_MOUNT, here, at, 0, unix.MS_BIND, 0)
	} else {
		b.do(unix.SYS_MOUNT, none, at, b.text("tmpfs"), locked, b.text("mode=0555"))
	}
	b.do(unix.SYS_CHDIR, at)
	b.do(unix.SYS_MOUNT, none, here, 0, unix.MS_REMOUNT|unix.MS_BIND|locked, 0)
	// The old root ends up on top of the new one, and goes: pivot_root(2), "pivot_root(".", ".")".
	b.do(unix.SYS_PIVOT_ROOT, here, here)
	b.do(unix.SYS_UMOUNT2, here, unix.MNT_DETACH)
	b.do(unix.SYS_CHDIR, b.text("/"))
	b.expect(refusal(unix.ENOENT), unix.SYS_CHDIR, b.text("/proc"))
	return nil
}

// limits are the resource limits of the relay, with their lines in /proc/PID/limits; descriptors come beside them.
var limits = []struct {
	resource int
	line     string
}{
	{unix.RLIMIT_NPROC, "Max processes"},
	{unix.RLIMIT_FSIZE, "Max file size"},
	{unix.RLIMIT_CORE, "Max core file size"},
	{unix.RLIMIT_MEMLOCK, "Max locked memory"},
	{unix.RLIMIT_MSGQUEUE, "Max msgqueue size"},
}

func (j *Jail) limit(b *builder) error {
	set := func(resource int, n uint64) {
		limit := put(b, [2]uint64{n, n})
		b.do(unix.SYS_PRLIMIT64, 0, uintptr(resource), address(limit), 0)
	}
	for _, l := range limits {
		set(l.resource, 0)
	}
	set(unix.RLIMIT_NOFILE, uint64(b.relay.Descriptors))
	return nil
}

// dropBounding takes CAP_SETPCAP, which an ordinary user has in a namespace of his own.
func (j *Jail) dropBounding(b *builder) error {
	for c := range lastCapability() + 1 {
		b.do(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c)
	}
	const bits = secNoRoot | secNoSetuidFixup | secNoAmbient
	b.do(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, bits|bits<<secLocked|secKeepCaps<<secLocked)
	return nil
}

func lastCapability() uintptr {
	text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 6); err == nil {
			return uintptr(n)
		}
	}
	return unix.CAP_LAST_CAP
}

func (j *Jail) dropCapabilities(b *builder) error {
	b.do(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL)
	header := put(b, unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3})
	data := put(b, [2]unix.CapUserData{})
	b.do(unix.SYS_CAPSET, address(header), address(data))
	return nil
}

func (j *Jail) hide(b *builder) error {
	b.do(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
	b.expect(0, unix.SYS_PRCTL, unix.PR_GET_DUMPABLE)
	return nil
}

func (j *Jail) renounce(b *builder) error {
	b.do(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
	b.expect(1, unix.SYS_PRCTL, unix.PR_GET_NO_NEW_PRIVS)
	return nil
}

// relayDescriptors is how many descriptors the relay begins with, numbered from 0.
const relayDescriptors = 4

// checkClosed looks at what the relay did itself between the halves of the program.
func (j *Jail) checkClosed(b *builder) error {
	b.expect(refusal(unix.EBADF), sysFcntl, relayDescriptors, unix.F_GETFD)
	return nil
}

func (j *Jail) denyCounter(b *builder) error {
	b.do(unix.SYS_PRCTL, unix.PR_SET_TSC, unix.PR_TSC_SIGSEGV)
	word := put(b, uint32(0))
	b.expectWord(word, unix.PR_TSC_SIGSEGV, unix.SYS_PRCTL, unix.PR_GET_TSC, address(word))
	return nil
}

// families are the programs of the policy by the external address's family.
var families = map[int]policy.Family{unix.AF_INET: policy.Inet, unix.AF_INET6: policy.Inet6, unix.AF_UNIX: policy.Unix}

func (j *Jail) filter(b *builder) error {
	p, err := policy.Relay(families[j.upstream.Family])
	if err != nil {
		return err
	}
	rules, err := p.Relocate(b.relay.Filter)
	if err != nil {
		return err
	}
	j.filters = append(j.filters, bound{p, b.relay.Filter})
	prog := put(b, unix.SockFprog{Len: uint16(len(rules)), Filter: put(b, rules...)})
	b.do(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, address(prog))
	return nil
}

// bound is a program with the values of one process.
type bound struct {
	program *policy.Program
	values  policy.Values
}

// Rules returns the seccomp rules of the relays forked so far and of the monitor, as libseccomp's pseudo filter
// code with the values of this run.
func (j *Jail) Rules() (texts []string, err error) {
	for _, f := range j.filters {
		text, err := f.program.PFC(f.values)
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, nil
}

var pageSize = uintptr(unix.Getpagesize())
