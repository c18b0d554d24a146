package jail_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"syd/arch"
	"syd/internal/config"
	"syd/internal/jail"
	"syd/internal/jail/victim"
	"syd/internal/relay"
	"syd/internal/vault"
)

// A victim is a relay that goes through the real steps and then, instead of forwarding, does what a compromised
// one might. This file has the machinery, attacks_test.go the attacks.
//
// The test binary runs itself once per attack and mode, as the monitor of one victim: forking needs the main
// thread, and the steps that a monitor takes are for good.

// victimEnv holds the order that such a process carries out.
const victimEnv = "JAIL_TEST_VICTIM"

// executedEnv makes the binary end with status executed: an attack has started it.
const (
	executedEnv = "JAIL_TEST_EXECUTED"
	executed    = 43
)

func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	if os.Getenv(executedEnv) != "" {
		os.Exit(executed)
	}
	if text := os.Getenv(victimEnv); text != "" {
		var o order
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			panic(err)
		}
		if o.Bare {
			makeBare(&o)
		}
		if o.Check {
			check(&o)
		}
		if o.Monitor {
			attackMonitor(&o)
		}
		result, err := carryOut(&o)
		if err != nil {
			fmt.Println("victim:", err)
			os.Exit(1)
		}
		json.NewEncoder(os.Stdout).Encode(result)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// order names an attack and the confinement that it meets.
type order struct {
	Attack  string
	Layers  []string // the only steps that are carried out
	All     bool     // all are
	Monitor bool     // the attack is the monitor's
	Check   bool     // nothing is attacked: report the steps
	Bare    bool     // there are no user namespaces to be had
	Orphan  bool     // the monitor dies before the attack
	Weak    bool     // root may not change identities
	Unix    bool     // the external address is a socket with a path
}

// without lists the steps to leave off.
func (o *order) without() []string {
	var off []string
	for _, s := range jail.Steps {
		if !o.All && !s.Always && !slices.Contains(o.Layers, s.Name) {
			off = append(off, s.Name)
		}
	}
	return off
}

// outcome is what became of a victim.
type outcome struct {
	Signal   int   // that ended it; 0: none
	Status   int   // with which it exited
	At       int   // the call that it came to, from 0
	First    int   // the first call that is an attack; those before it are a relay's everyday
	Result   int64 // of the last call that returned
	Visitors int   // connections that arrived where none should
	Missing  []string
}

// Exit codes of a victim: it got through, or was refused before its last call.
const (
	through  = 42
	stumbled = 41
)

type kind uint32

const (
	system  kind = iota // a system call
	load                // a byte is read
	store               // and written
	counter             // the functions of package victim
	counterP
	int80
	gateTime
	thread
	fork // a system call after which a child must not go on
)

// move is one thing that a victim does.
type move struct {
	kind kind
	nr   uintptr
	args [6]uintptr
	refs [6]uint32 // if not 0, the argument is the result of that move, counted from 1
}

// script is what a victim does, in memory that it keeps.
type script struct {
	moves  []move
	result [maxMoves]uintptr
	shared *shared
}

const maxMoves = 16

// shared is the page in which victim and monitor meet.
type shared struct {
	ready, begin uint32
	at           uint32
	result       int64
}

// playing is the victim that is forked: its script and its relay's state.
var (
	playing *script
	worker  *relay.Worker
)

// attack is what the victim runs, from its first instruction on.
//
//go:nosplit
func attack() {
	jail.First()
	worker.Adopt()
	jail.Second()
	s := playing
	atomic.StoreUint32(&s.shared.ready, 1)
	for atomic.LoadUint32(&s.shared.begin) == 0 {
	}
	for i := range s.moves {
		s.shared.at = uint32(i)
		r := s.make(&s.moves[i])
		s.result[i%maxMoves] = r
		s.shared.result = int64(int(r))
		if i+1 < len(s.moves) && arch.Errno(r) != 0 {
			arch.Exit(stumbled)
		}
	}
	arch.Exit(through)
}

//go:nosplit
//go:noinline
func (s *script) make(m *move) uintptr {
	for i := range m.refs {
		if m.refs[i] != 0 {
			m.args[i] = s.result[(m.refs[i]-1)%maxMoves]
		}
	}
	switch m.kind {
	case load:
		return uintptr(**(**byte)(unsafe.Pointer(&m.args[0])))
	case store:
		**(**byte)(unsafe.Pointer(&m.args[0])) = byte(m.args[1])
		return 0
	case counter:
		return victim.Counter()
	case counterP:
		return victim.CounterP()
	case int80:
		return victim.Int80(m.args[0])
	case gateTime:
		return victim.GateTime()
	case thread:
		return victim.Thread(m.args[0], m.args[1])
	}
	r := arch.Syscall6(m.nr, m.args[0], m.args[1], m.args[2], m.args[3], m.args[4], m.args[5])
	if m.kind == fork && r == 0 {
		arch.Exit(0)
	}
	return r
}

// target is what an attack may aim at. Its methods write the script.
type target struct {
	vault    *vault.Vault
	filter   relayValues
	monitor  int     // its process id
	heap     uintptr // a byte of the monitor's
	environ  uintptr // another, of its environment
	clock    uintptr // a page of the kernel's that tells the time
	stack    uintptr // above the victim's stack
	elsePort int
	elsePath string
	abstract []byte  // sockaddr of a server with an abstract name
	segment  uintptr // key of a segment of System V shared memory
	private  string  // a file that root alone may open
	other    []byte  // sockaddr of a server that the relay must not reach
	page     int
	arena    []byte
	used     int
	script   *script
	first    int
}

type relayValues struct{ addr, addrLen, linger, event, events, ends uintptr }

// put copies b, or size zero bytes, into memory that the victim keeps.
func (t *target) put(b []byte) uintptr {
	at := t.used
	t.used += (len(b) + 15) &^ 15
	copy(t.arena[at:t.used], b)
	return uintptr(unsafe.Pointer(&t.arena[at]))
}

func (t *target) text(s string) uintptr { return t.put(append([]byte(s), 0)) }

// words are words of the machine's.
func (t *target) words(w ...uintptr) uintptr {
	return t.put(unsafe.Slice((*byte)(unsafe.Pointer(&w[0])), len(w)*int(unsafe.Sizeof(w[0]))))
}

// spare is a whole page that nobody uses.
func (t *target) spare() uintptr { return uintptr(unsafe.Pointer(&t.arena[len(t.arena)-t.page])) }

func (t *target) sealed() uintptr { return t.vault.Addr() }

// legit appends a move that a relay makes every day, sys a system call that is an attack, and do any other move.
// They return the move's number for ref.
func (t *target) legit(nr uintptr, args ...uintptr) uint32 {
	n := t.sys(nr, args...)
	t.first = len(t.script.moves)
	return n
}

func (t *target) sys(nr uintptr, args ...uintptr) uint32 { return t.do(system, nr, args...) }

func (t *target) do(k kind, nr uintptr, args ...uintptr) uint32 {
	m := move{kind: k, nr: nr}
	for i, a := range args {
		if a >= refBase && a < refBase+maxMoves {
			m.refs[i] = uint32(a - refBase)
			continue
		}
		m.args[i] = a
	}
	t.script.moves = append(t.script.moves, m)
	return uint32(len(t.script.moves))
}

// refBase marks an argument as the result of a move; no address and no number of these tests is near.
const refBase = 0x7abc0000

func ref(n uint32) uintptr { return refBase + uintptr(n) }

var secret = []byte("root's own")

// carryOut is the monitor of one victim.
func carryOut(o *order) (*outcome, error) {
	debug.SetGCPercent(-1)
	a, ok := attackByName(o.Attack)
	if !ok {
		return nil, fmt.Errorf("no attack %q", o.Attack)
	}
	_, rightPort, err := listenTCP()
	if err != nil {
		return nil, err
	}
	elsewhere, elsePort, err := listenTCP()
	if err != nil {
		return nil, err
	}
	upstream, err := config.ParseAddr(fmt.Sprintf("127.0.0.1:%d", rightPort))
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "jail")
	if err != nil {
		return nil, err
	}
	var undo []func()
	leave := func() {
		for _, f := range undo {
			f()
		}
	}
	defer leave()
	undo = append(undo, func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o755)
	other := dir + ".other"
	if o.Unix {
		if _, err = listenUnix(dir + "/socket"); err != nil {
			return nil, err
		}
		if elsewhere, err = listenUnix(other); err != nil {
			return nil, err
		}
		undo = append(undo, func() { os.Remove(other) })
		if upstream, err = config.ParseUnix(dir + "/socket"); err != nil {
			return nil, err
		}
	}
	j, err := jail.New(upstream, o.without(), false)
	if err != nil {
		return nil, err
	}
	v, err := vault.New(j.Sockaddr())
	if err != nil {
		return nil, err
	}
	if err := j.Protect(v); err != nil {
		return nil, err
	}

	t := &target{vault: v, page: unix.Getpagesize(), monitor: os.Getpid(), elsePort: elsePort, elsePath: other}
	size := 16 * t.page
	if t.arena, err = unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON); err != nil {
		return nil, err
	}
	page, err := unix.Mmap(-1, 0, t.page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
	if err != nil {
		return nil, err
	}
	common := (*shared)(unsafe.Pointer(&page[0]))
	t.other = loopback(elsePort)
	if o.Unix {
		t.other = append(append([]byte{unix.AF_UNIX, 0}, other...), 0)
	}
	heap := make([]byte, 1<<20)
	t.heap = uintptr(unsafe.Pointer(&heap[0]))
	t.environ, t.clock = ownMappings()
	t.private = other + ".private"
	if err := os.WriteFile(t.private, secret, 0o600); err != nil {
		return nil, err
	}
	undo = append(undo, func() { os.Remove(t.private) })
	name := fmt.Sprintf("jail-test-%d", os.Getpid())
	if _, err := listenUnix("@" + name); err != nil {
		return nil, err
	}
	t.abstract = append([]byte{unix.AF_UNIX, 0, 0}, name...)
	t.segment = uintptr(os.Getpid())
	segment, err := unix.SysvShmGet(int(t.segment), t.page, unix.IPC_CREAT|unix.IPC_EXCL|0o600)
	if err != nil {
		return nil, err
	}
	undo = append(undo, func() { unix.SysvShmCtl(segment, unix.IPC_RMID, nil) })

	region, socket, theirs, err := newRegion(upstream, v)
	if err != nil {
		return nil, err
	}
	worker = region.Worker()
	t.stack = region.Stack()
	f := region.FilterValues()
	t.filter = relayValues{uintptr(f.AddrPtr), uintptr(f.AddrLen), uintptr(f.LingerPtr), uintptr(f.EventPtr), uintptr(f.EventsPtr), uintptr(f.PipePtr)}

	t.script = &script{shared: common}
	a.play(t)
	place := (*script)(unsafe.Pointer(&t.arena[t.used]))
	t.used += int(unsafe.Sizeof(script{}))
	moves := unsafe.Slice((*move)(unsafe.Pointer(&t.arena[(t.used+15)&^15])), len(t.script.moves))
	copy(moves, t.script.moves)
	*place = script{moves: moves, shared: common}
	playing = place

	results := (*jail.Results)(&region.Shared().Steps)
	p, err := j.Fork(jail.Relay{
		Stack: region.Stack(), Maps: append(region.Maps(), t.arena, page), Results: results,
		Filter: f, Descriptors: region.Limit(), Socket: theirs, Other: socket,
	}, attack)
	if err != nil {
		return nil, err
	}
	unix.Close(theirs)
	if err := p.Confine(socket); err != nil {
		if why := p.Explain(); why != nil {
			err = why
		}
		return nil, err
	}
	for deadline := time.Now().Add(20 * time.Second); atomic.LoadUint32(&common.ready) == 0; runtime.Gosched() {
		if err := p.Explain(); err != nil {
			return nil, err
		}
		if time.Now().After(deadline) {
			unix.Kill(p.PID, unix.SIGKILL)
			return nil, fmt.Errorf("the victim was never confined")
		}
	}
	if err := p.Confirm(); err != nil {
		return nil, err
	}
	result := &outcome{First: t.first}
	for _, row := range j.Report().Steps {
		wanted := o.All || slices.Contains(o.Layers, row.Name)
		monitors := row.Where == jail.After // not carried out here
		if wanted && !monitors && row.Status != jail.Holds && row.Status != jail.Unneeded {
			result.Missing = append(result.Missing, row.Name)
		}
	}
	if o.Orphan {
		fmt.Println(p.PID)
		leave()
		unix.Kill(os.Getpid(), unix.SIGKILL)
	}
	atomic.StoreUint32(&common.begin, 1)
	var status unix.WaitStatus
	kill := time.AfterFunc(20*time.Second, func() { unix.Kill(p.PID, unix.SIGKILL) })
	defer kill.Stop()
	for {
		_, err := unix.Wait4(p.PID, &status, 0, nil)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return nil, err
		}
	}
	if status.Signaled() {
		result.Signal = int(status.Signal())
	} else {
		result.Status = status.ExitStatus()
	}
	result.At, result.Result = int(common.at), common.result
	for {
		fd, _, err := unix.Accept4(elsewhere, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != nil {
			break
		}
		unix.Close(fd)
		result.Visitors++
	}
	runtime.KeepAlive(heap)
	return result, nil
}

func newRegion(u config.Upstream, v *vault.Vault) (r *relay.Region, ours, theirs int, err error) {
	listener, _, err := listenTCP()
	if err != nil {
		return nil, 0, 0, err
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, 0, 0, err
	}
	owner, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return nil, 0, 0, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, 0, err
	}
	unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20})
	r, err = relay.NewRegion(relay.Plan{Listener: listener, Epoll: epoll, Owner: owner, Monitor: pair[1], Upstream: u, Vault: v, Descriptors: 64})
	return r, pair[0], pair[1], err
}

func listenTCP() (fd, port int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, 0, err
	}
	if err := unix.Listen(fd, 16); err != nil {
		return 0, 0, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return 0, 0, err
	}
	return fd, name.(*unix.SockaddrInet4).Port, nil
}

func listenUnix(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return 0, err
	}
	if path[0] != '@' {
		if err := os.Chmod(path, 0o666); err != nil {
			return 0, err
		}
	}
	return fd, unix.Listen(fd, 16)
}

func loopback(port int) []byte {
	return []byte{unix.AF_INET, 0, byte(port >> 8), byte(port), 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}
}

// ownMappings finds a byte of the environment, and a page of the kernel's that tells the time; 0: there is none.
func ownMappings() (environ, clock uintptr) {
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(text)) {
		var start, end uintptr
		if n, _ := fmt.Sscanf(line, "%x-%x", &start, &end); n != 2 {
			continue
		}
		switch {
		case strings.Contains(line, "[stack]"):
			environ = end - 64
		case strings.Contains(line, "[vvar]"):
			clock = start
		}
	}
	return environ, clock
}

// runOrder carries an order out in a process of its own.
func runOrder(t *testing.T, o order) *outcome {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), victimEnv+"="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var result outcome
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return &result
}
