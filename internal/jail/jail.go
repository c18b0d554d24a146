package jail

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"syd/arch"
	"syd/internal/config"
	"syd/internal/exit"
	"syd/internal/policy"
	"syd/internal/vault"
)

// Status is what became of a step.
type Status string

const (
	Holds    Status = "holds"    // its effect was seen
	Absent   Status = "absent"   // the kernel, or what the user may do here, has no such thing
	Failed   Status = "failed"   // it was refused for another reason, or has no effect
	Off      Status = "off"      // left off because it was asked for
	Unneeded Status = "unneeded" // the external address is not one that it speaks of
)

// Outcome is a step's status with its reason.
type Outcome struct {
	Status Status
	Errno  unix.Errno // 0: none
	Detail string
}

// Jail carries out the steps, for any number of relays with one external address.
type Jail struct {
	upstream config.Upstream
	place    place // of the external socket, where it has a path
	vault    *vault.Vault
	off      bool // every step is left off that can be
	without  [numSteps]bool
	known    [numSteps]Outcome // what the monitor knows without asking a relay; Status "": nothing
	user     user
	flags    uintptr // of clone(2)
	settled  bool    // flags are those of the first relay
	probes   probes
	pids     []*Prisoner
	filters  []bound // in force
	monitor  Monitor
}

// place is where a UNIX socket lies.
type place struct{ dir, name string }

// New decides which steps apply. It fails if without names what is no step, or one that cannot be left off. If
// all is true, or without says "all", every step is left off that can be.
func New(u config.Upstream, without []string, all bool) (*Jail, error) {
	all = all || slices.Contains(without, "all")
	j := &Jail{upstream: u, off: all}
	for _, name := range without {
		if name == "all" {
			continue
		}
		id := slices.IndexFunc(Steps[:], func(s Step) bool { return s.Name == name })
		switch {
		case id < 0:
			return nil, exit.Errorf(exit.Usage, "--without %q: not a step; --check lists them", name)
		case Steps[id].Always:
			return nil, exit.Errorf(exit.Usage, "--without %q: the relay cannot work without this step", name)
		}
		j.without[id] = true
	}
	for id, s := range Steps {
		if all && !s.Always {
			j.without[id] = true
		}
	}
	// What needs a step that is left off is left off with it. Needed steps come first in the table.
	for id, s := range Steps {
		for _, need := range s.Needs {
			j.without[id] = j.without[id] || j.without[need]
		}
		if j.without[id] {
			j.known[id] = Outcome{Status: Off}
		}
	}
	// A kernel that lacks the family would leave every client waiting.
	s, err := unix.Socket(u.Family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, u.Protocol())
	if err != nil {
		return nil, exit.Errorf(exit.OS, "-o %q: socket: %w", u, err) // UNIX sockets are always there
	}
	unix.Close(s)
	if err := j.locate(); err != nil {
		return nil, err
	}
	j.user = j.chooseUser()
	return j, j.checkAccess()
}

// locate finds the directory of an external socket with a path. Its name is then looked up there and nowhere
// else, each time a connection is made; the server may make the socket anew.
func (j *Jail) locate() error {
	if j.upstream.Family != unix.AF_UNIX || j.upstream.Abstract() || j.without[workdir] {
		return nil
	}
	path := j.upstream.Path
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // a link at the end may lead out of the directory
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return exit.Errorf(exit.Unavailable, "-u %q: its directory: %w", j.upstream.Path, err)
	}
	j.place = place{dir, filepath.Base(path)}
	if len(j.Sockaddr()) > unix.SizeofSockaddrUnix {
		return exit.Errorf(exit.Usage, "-u %q: a name that begins with @ must leave room for ./ before it", j.upstream.Path)
	}
	return nil
}

// Sockaddr is the external address as the relay must know it: a socket with a path goes by its name in the
// relay's working directory.
func (j *Jail) Sockaddr() []byte {
	u := j.upstream
	if j.place.dir != "" {
		u.Path = j.place.name
	}
	if j.place.name != "" && j.place.name[0] == '@' {
		u.Path = "./" + j.place.name // not an abstract name
	}
	return u.Sockaddr()
}

// Protect names the vault that the relay's calls point at, and carries out the steps before the fork.
func (j *Jail) Protect(v *vault.Vault) error {
	j.vault = v
	// The filter comes last in the relay. Where there is none at all, under user emulation for one, do not begin.
	if _, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0); err != nil && !j.without[seccomp] {
		return failure(seccomp, err)
	}
	for id, s := range Steps {
		if s.Where == Before && !j.without[id] {
			if err := j.settle(StepID(id), s.apply(j)); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle notes how a step of the monitor's went; the error is for a required one.
func (j *Jail) settle(id StepID, err error) error {
	if err == nil {
		j.known[id] = Outcome{Status: Holds}
		return nil
	}
	if j.known[id].Status == "" {
		j.known[id] = outcomeOf(err)
	}
	if Steps[id].Required {
		return failure(id, err)
	}
	return nil
}

func failure(id StepID, err error) error {
	return exit.Errorf(exit.Unavailable, "confinement step %s: %w", Steps[id].Name, err)
}

// missing are the errors that say that there is no such thing here, rather than that something is wrong.
var missing = []unix.Errno{unix.ENOSYS, unix.EINVAL, unix.EOPNOTSUPP, unix.EPERM, unix.ENOSPC, unix.EUSERS, unix.ENODEV}

func outcomeOf(err error) Outcome {
	o := Outcome{Status: Failed, Detail: err.Error()}
	if errno, ok := err.(unix.Errno); ok {
		o.Errno, o.Detail = errno, ""
		if slices.Contains(missing, errno) {
			o.Status = Absent
		}
	}
	return o
}

// on tells whether a step is neither left off nor known to be missing.
func (j *Jail) on(id StepID) bool {
	return j.known[id].Status == "" || j.known[id].Status == Holds
}

// Relay is what the steps must know of one relay.
type Relay struct {
	Stack       uintptr  // for the fork
	Maps        [][]byte // its memory, besides the ELF image and the vault
	Results     *Results // in memory shared with it
	Filter      policy.Values
	Descriptors int // its limit
	Socket      int // its end of the handshake, before it moves its descriptors
	Other       int // the monitor's end
}

// Prisoner is a relay that was forked.
type Prisoner struct {
	PID     int
	results *Results
	memory  []span // all that it may have mapped
	jail    *Jail
}

// Fork starts a relay: a process in its own namespaces that runs entry, which must be nosplit, begin with First
// and Second, and never return. The first relay settles which namespaces can be had.
//
// Requires: the main thread, see arch.Fork.
func (j *Jail) Fork(r Relay, entry func()) (*Prisoner, error) {
	attempts := []uintptr{j.flags}
	if !j.settled {
		all := j.wantedNamespaces()
		attempts = slices.Compact([]uintptr{all, all &^ unix.CLONE_NEWUSER, 0})
	}
	var first unix.Errno
	for _, flags := range attempts {
		j.flags = flags
		j.noteNamespaces(first)
		filters := len(j.filters)
		p, errno, err := j.fork(r, entry)
		if err != nil {
			return nil, err
		}
		if errno == 0 {
			j.settled = true
			j.pids = append(j.pids, p)
			return p, nil
		}
		j.filters = j.filters[:filters] // nobody runs under it
		if first == 0 {
			first = errno
		}
		if !slices.Contains(missing, errno) {
			break
		}
	}
	return nil, exit.Errorf(exit.OS, "clone of the relay: %w", first)
}

func (j *Jail) fork(r Relay, entry func()) (*Prisoner, unix.Errno, error) {
	b, err := newBuilder()
	if err != nil {
		return nil, 0, exit.Errorf(exit.OS, "mmap: %w", err)
	}
	defer unix.Munmap(b.arena) // the relay has its own copy
	p := &Prisoner{results: r.Results, jail: j}
	half, err := j.build(b, &r, p)
	if err != nil {
		return nil, 0, err
	}
	if current, err = b.finish(r.Results, half); err != nil {
		return nil, 0, err
	}
	pid, errno := arch.Fork(j.flags|uintptr(unix.SIGCHLD), r.Stack, entry)
	current = nil
	p.PID = pid
	return p, errno, nil
}

// build appends the calls of every step that applies, and returns how many come before the descriptors move.
func (j *Jail) build(b *builder, r *Relay, p *Prisoner) (half int, err error) {
	b.relay, b.prisoner = r, p
	for i, s := range Steps {
		id := StepID(i)
		switch id {
		case dumpable:
			b.step, b.required = handshake, true
			b.inspect()
		case descriptors:
			half = len(b.calls)
		}
		if s.build == nil || !j.on(id) {
			continue
		}
		if need := slices.IndexFunc(s.Needs, func(n StepID) bool { return !j.on(n) }); need >= 0 {
			j.known[id] = j.known[s.Needs[need]]
			j.known[id].Detail = "needs " + Steps[s.Needs[need]].Name
			continue
		}
		b.step, b.required = id, s.Required
		if err := s.build(j, b); err != nil {
			if err := j.settle(id, err); err != nil {
				return 0, err
			}
		}
	}
	return half, nil
}

// wantedNamespaces are those that are not left off, apply, and have a file in /proc/self/ns: the kernel has them.
func (j *Jail) wantedNamespaces() (flags uintptr) {
	for i, s := range Steps {
		id := StepID(i)
		if s.Where != Clone || !j.on(id) {
			continue
		}
		if id == netNS && j.place.dir == "" {
			j.known[id] = Outcome{Status: Unneeded, Detail: "the external address lies in the network namespace"}
			continue
		}
		if _, err := os.Stat("/proc/self/ns/" + namespaceFiles[id]); err != nil {
			j.known[id] = Outcome{Status: Absent, Errno: unix.ENOSYS}
			continue
		}
		flags |= s.flag
	}
	return flags
}

// noteNamespaces notes the namespaces that are asked for no more, because of errno.
func (j *Jail) noteNamespaces(errno unix.Errno) {
	for id, s := range Steps {
		if s.Where == Clone && j.on(StepID(id)) && j.flags&s.flag == 0 {
			j.known[id] = Outcome{Status: Absent, Errno: errno}
		}
	}
}

// user is the identity that the relay takes.
type user struct {
	uid, gid int
	groups   []uint32
	change   bool // it is another than the monitor's
}

// nobody is the user and group of no files and no other processes.
const nobody = 65534

// chooseUser decides for nobody if root started the monitor, and nobody exists in its user namespace.
func (j *Jail) chooseUser() user {
	own := user{uid: os.Geteuid(), gid: os.Getegid()}
	if own.uid != 0 || j.without[identity] || !mapped("/proc/self/uid_map", nobody) || !mapped("/proc/self/gid_map", nobody) {
		return own
	}
	u := user{uid: nobody, gid: nobody, change: true}
	var st unix.Stat_t
	if j.place.dir != "" && unix.Stat(j.path(), &st) == nil && st.Gid != nobody {
		u.groups = []uint32{st.Gid}
	}
	return u
}

func (j *Jail) path() string { return filepath.Join(j.place.dir, j.place.name) }

// mapped tells whether an id has a meaning in the namespace of file, user_namespaces(7).
func mapped(file string, id uint64) bool {
	text, err := os.ReadFile(file)
	if err != nil {
		return true // a kernel without user namespaces
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		first, _ := strconv.ParseUint(f[0], 10, 32)
		count, _ := strconv.ParseUint(f[2], 10, 32)
		if id >= first && id-first < count {
			return true
		}
	}
	return false
}

// checkAccess tells early that the identity cannot reach the external socket: every connection would be refused.
func (j *Jail) checkAccess() error {
	if j.place.dir == "" {
		return nil
	}
	if !j.user.change {
		if err := unix.Faccessat(unix.AT_FDCWD, j.place.dir, unix.X_OK, unix.AT_EACCESS); err != nil {
			return exit.Errorf(exit.Unavailable, "-u %q: its directory %s: %w", j.upstream.Path, j.place.dir, err)
		}
		return nil
	}
	path := j.path()
	for need := uint32(unix.W_OK); ; need = unix.X_OK {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err == nil && !j.user.may(&st, need) {
			return exit.Errorf(exit.Unavailable, "-u %q: %s is closed to nobody, whose identity the relay takes: "+
				"open it to others or to the socket's group, or start syd-tor as its owner", j.upstream.Path, path)
		}
		if path == "/" {
			return nil
		}
		path = filepath.Dir(path)
	}
}

// may tells whether the mode bits give u all of need, the bits of access(2).
func (u user) may(st *unix.Stat_t, need uint32) bool {
	mode := st.Mode
	switch {
	case int(st.Uid) == u.uid:
		mode >>= 6
	case int(st.Gid) == u.gid || slices.Contains(u.groups, st.Gid):
		mode >>= 3
	}
	return mode&need == need
}

// writeMaps gives the relay's user namespace its one user and its groups.
func (j *Jail) writeMaps(pid int) error {
	if j.flags&unix.CLONE_NEWUSER == 0 {
		return nil
	}
	u := j.user
	gids := fmt.Sprintf("%d %d 1\n", u.gid, u.gid)
	for _, g := range u.groups {
		gids += fmt.Sprintf("%d %d 1\n", g, g)
	}
	files := []struct{ name, text string }{
		{"uid_map", fmt.Sprintf("%d %d 1\n", u.uid, u.uid)},
		{"gid_map", gids},
	}
	if !u.change {
		// An ordinary user may map his group only once groups cannot be dropped, user_namespaces(7).
		files = slices.Insert(files, 0, struct{ name, text string }{"setgroups", "deny"})
	}
	for _, f := range files {
		path := fmt.Sprintf("/proc/%d/%s", pid, f.name)
		if err := os.WriteFile(path, []byte(f.text), 0); err != nil {
			return err
		}
	}
	return nil
}
