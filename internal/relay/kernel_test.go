//go:build fakekernel

package relay

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"syd/arch"
	"syd/internal/config"
	"syd/internal/policy"
	"syd/internal/vault"
)

// The fake kernel: descriptors, sockets, pipes and epoll for one or more relays and the far ends of their
// connections, in one goroutine at a time and with every choice drawn from one source, so that a seed is a test.
// What it does is what the real one may do, and the rules that a relay must keep are checked at each call. Bytes
// are numbers: a pipe holds from where to where, of which socket.
//
// It differs from the real one in that it makes the rare common: calls fail for want of something, are
// interrupted, move less than they could; events come twice, in any order, late, for nothing, or for descriptors
// that were closed since; and the far ends go on between any two calls.

// socket is one that the relay has or will have; the far end is part of it.
type socket struct {
	name  string
	up    bool    // it leads to the external address
	other *socket // the one that it was joined to
	state state
	proof bool // a read of fewer bytes than slots has read all there is, as on TCP
	hurt  bool // something happened that lets the connection end in a reset
	gone  bool // closed by the relay

	// From the far end.
	total, sent, read int  // bytes that it will send, has sent, and that the relay has read
	late              bool // sends only after it has read EOF
	stays, stalls     bool // sends no FIN, and reads nothing, before it is released
	resetAt           int  // resets once it sent so many; -1: never
	urgentAt          int  // the same with urgent data
	refuses           bool
	fin, finRead      bool
	reset, urgent     bool
	err               unix.Errno

	// To the far end.
	got, taken, room int
	full             bool // a write was refused, and the place for the next will be announced
	shut             bool
	linger           bool
	shortages        int // connects that were put off
	busy             int // connects that find the backlog full
}

type state int

const (
	fresh state = iota
	connecting
	connected
)

// conduit is a pipe.
type conduit struct {
	slots  int
	from   *socket // whose bytes it holds
	start  int
	length int
	ends   int // open descriptors
}

// file is what a descriptor stands for; a registration lies beside it.
type file struct {
	socket *socket
	pipe   *conduit
	write  bool // the pipe's end for writing
	other  string

	watched bool
	ready   bool
	event   unix.EpollEvent
}

// process is one relay with its descriptors.
type process struct {
	*Worker
	region   *Region
	fds      []*file
	limit    int
	asleep   bool // in epoll_wait, and not woken yet
	timeout  int32
	go_      bool // the monitor said go
	ownerEnd bool
	exited   bool
	closed   []unix.EpollEvent // of registrations that are gone
	next     func() (struct{}, bool)
	stop     func()
	yield    func(struct{}) bool
}

// world is the fake kernel and all that it serves.
type world struct {
	*rand.Rand
	current   *process
	processes []*process
	waiters   []*process // on the listener, in the order in which they are woken
	backlog   []*socket
	sockets   []*socket
	clients   int  // that are still to come
	slow      bool // one comes when the others are at rest
	make      func(up bool) *socket
	released  bool // far ends that stay or stall go on

	chaos  int     // calls for which faults go on
	rate   float64 // of faults
	calls  int
	failAt int // the one call that fails, with failWith; -1: none
	failed bool
	with   unix.Errno
	trace  []string
}

// exited unwinds the relay that called Exit.
type exited struct{}

// violation unwinds whatever broke a rule.
type violation struct{ what string }

func (k *world) fail(format string, args ...any) { panic(violation{fmt.Sprintf(format, args...)}) }

func (k *world) chance(p float64) bool { return k.Float64() < p }

func (k *world) log(format string, args ...any) {
	if len(k.trace) >= 400 {
		k.trace = slices.Delete(k.trace, 0, 200)
	}
	k.trace = append(k.trace, fmt.Sprintf("%d: ", k.calls)+fmt.Sprintf(format, args...))
}

// call begins a system call: the far ends may go on meanwhile, and the errno that it is to fail with is returned,
// one of those that fit, or 0.
func (k *world) call(fits ...unix.Errno) unix.Errno {
	k.calls++
	if k.calls > 200_000 {
		k.fail("no end after %d calls", k.calls)
	}
	for k.chance(.2) && k.act() {
	}
	if k.failAt == k.calls {
		if slices.Contains(fits, k.with) {
			k.failed = true
			return k.with
		}
		return 0
	}
	if len(fits) > 0 && k.calls < k.chaos && k.chance(k.rate) {
		return fits[k.IntN(len(fits))]
	}
	return 0
}

func (k *world) file(fd int32) *file {
	if fd < 0 || int(fd) >= len(k.current.fds) || k.current.fds[fd] == nil {
		k.fail("a call on descriptor %d, which is not open", fd)
	}
	return k.current.fds[fd]
}

func (k *world) sock(fd int32) *socket {
	s := k.file(fd).socket
	if s == nil {
		k.fail("a call for sockets on descriptor %d", fd)
	}
	return s
}

// open gives f the lowest free descriptor.
func (k *world) open(f *file) int {
	p := k.current
	for fd := range p.limit {
		if fd == len(p.fds) {
			p.fds = append(p.fds, nil)
		}
		if p.fds[fd] == nil {
			p.fds[fd] = f
			return fd
		}
	}
	return -int(unix.EMFILE)
}

// poll is what epoll would report of a file.
func (k *world) poll(p *process, f *file) uint32 {
	switch f.other {
	case "listener":
		if len(k.backlog) > 0 {
			return unix.EPOLLIN
		}
	case "owner":
		if p.ownerEnd {
			return unix.EPOLLIN
		}
	case "monitor":
		if p.go_ {
			return unix.EPOLLIN
		}
	}
	s := f.socket
	if s == nil {
		return 0
	}
	var mask uint32
	if s.sent > s.read || s.fin || s.reset {
		mask |= unix.EPOLLIN
	}
	if s.fin || s.reset {
		mask |= unix.EPOLLRDHUP
	}
	if s.reset || s.fin && s.shut || s.state == fresh {
		mask |= unix.EPOLLHUP
	}
	if s.err != 0 {
		mask |= unix.EPOLLERR
	}
	if s.urgent {
		mask |= unix.EPOLLPRI
	}
	if s.state != connecting && (s.reset || s.shut || 3*(s.room-s.got+s.taken) >= s.room) {
		mask |= unix.EPOLLOUT
	}
	return mask
}

// watch marks a registration ready if there is something to report.
func (k *world) watch(p *process, f *file) {
	if f.watched && k.poll(p, f)&(f.event.Events|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		f.ready = true
		p.asleep = false
	}
}

// wake announces that s changed.
func (k *world) wake(s *socket) {
	for _, p := range k.processes {
		for _, f := range p.fds {
			if f != nil && f.socket == s {
				k.watch(p, f)
			}
		}
	}
}

// arrived announces one connection in the backlog: to the first exclusive waiter that sleeps, and to those before
// it, who will look by themselves (fs/eventpoll.c ep_poll_callback, Linux 6.18).
func (k *world) arrived() {
	for _, p := range k.waiters {
		f := p.fds[ListenFD]
		slept := p.asleep
		k.watch(p, f)
		if slept && f.event.Events&unix.EPOLLEXCLUSIVE != 0 {
			return
		}
	}
}

// act lets one far end do one thing. False: none can do anything.
func (k *world) act() bool {
	type deed struct {
		s    *socket
		what byte
	}
	var deeds []deed
	for _, s := range k.sockets {
		if s.gone || s.reset || s.urgent || s.state == fresh {
			continue
		}
		if s.state == connecting {
			deeds = append(deeds, deed{s, 'c'})
			continue
		}
		switch {
		case s.resetAt >= 0 && s.sent >= s.resetAt:
			deeds = append(deeds, deed{s, 'r'})
		case s.urgentAt >= 0 && s.sent >= s.urgentAt:
			deeds = append(deeds, deed{s, 'u'})
		case s.late && !(s.shut && s.taken == s.got):
		case s.sent < s.total:
			if s.sent-s.read < 4<<20 {
				deeds = append(deeds, deed{s, 's'})
			}
		case !s.fin && !(s.stays && !k.released):
			deeds = append(deeds, deed{s, 'f'})
		}
		if s.taken < s.got && !(s.stalls && !k.released) {
			deeds = append(deeds, deed{s, 't'})
		}
	}
	if k.clients > 0 && !(k.slow && len(deeds) > 0) {
		deeds = append(deeds, deed{nil, 'a'})
	}
	if len(deeds) == 0 {
		return false
	}
	d := deeds[k.IntN(len(deeds))]
	s := d.s
	switch d.what {
	case 'a':
		k.clients--
		s = k.make(false)
		k.sockets = append(k.sockets, s)
		k.backlog = append(k.backlog, s)
		k.log("%s arrives", s.name)
		k.arrived()
		return true
	case 'c':
		s.state = connected
		if s.refuses {
			s.reset, s.hurt, s.err = true, true, unix.ECONNREFUSED
		}
	case 's':
		s.sent += k.some(s.total - s.sent)
	case 'f':
		s.fin = true
	case 'r':
		s.reset, s.hurt, s.err = true, true, unix.ECONNRESET
	case 'u':
		s.urgent, s.hurt = true, true
	case 't':
		s.taken += k.some(s.got - s.taken)
		s.room = max(s.room, min(s.room+s.room/4+1, 1<<23)) // or large transfers would take for ever
		if !s.full || 3*(s.room-s.got+s.taken) < s.room {
			return true // no news
		}
		s.full = false
	}
	k.log("%s does %c: sent %d read %d got %d taken %d", s.name, d.what, s.sent, s.read, s.got, s.taken)
	k.wake(s)
	return true
}

// some draws from 1 to n, often all of it.
func (k *world) some(n int) int {
	if n < 2 || k.chance(.5) {
		return n
	}
	return 1 + k.IntN(n)
}

func (k *world) Accept4(fd int32) int {
	e := k.call(unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED, unix.EINTR, unix.EPERM)
	if k.file(fd).other != "listener" {
		k.fail("accept4 on descriptor %d", fd)
	}
	if e != 0 {
		return -int(e)
	}
	if len(k.backlog) == 0 {
		return -int(unix.EAGAIN)
	}
	r := k.open(&file{socket: k.backlog[0]})
	if r >= 0 {
		k.log("accept %s = %d", k.backlog[0].name, r)
		k.backlog[0].linger = len(k.processes) > 1 // another relay may have set it on the listener
		k.backlog = k.backlog[1:]
	}
	return r
}

func (k *world) Socket(domain, typ, proto int32) int {
	if e := k.call(unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EACCES); e != 0 {
		return -int(e)
	}
	s := k.make(true)
	r := k.open(&file{socket: s})
	if r >= 0 {
		k.sockets = append(k.sockets, s)
	}
	return r
}

func (k *world) Connect(fd int32, addr, length uintptr) int {
	e := k.call(unix.EAGAIN, unix.EADDRNOTAVAIL, unix.ENOBUFS, unix.ENOMEM, unix.ECONNREFUSED, unix.ENETUNREACH, unix.EPERM, unix.EINTR)
	s := k.sock(fd)
	client := k.sock(k.current.sides[fd].peer)
	if addr != k.current.addr || length != k.current.addrLen {
		k.fail("connect to another address")
	}
	if s.state != fresh || !s.up || client.up || s.other != nil && s.other != client || client.other != nil && client.other != s {
		k.fail("connect of %s for %s", s.name, client.name)
	}
	s.other, client.other = client, s
	if s.busy > 0 {
		s.busy--
		e = unix.EAGAIN
	}
	k.log("connect %s for %s: %v", s.name, client.name, e)
	switch e {
	case 0:
	case unix.EAGAIN, unix.EADDRNOTAVAIL, unix.ENOBUFS, unix.ENOMEM:
		s.shortages++
		s.hurt = s.hurt || s.shortages > retryTicks
		return -int(e)
	default:
		s.hurt = true
		return -int(e)
	}
	if k.chance(.5) {
		s.state = connecting
		return -int(unix.EINPROGRESS)
	}
	s.state = connected
	return 0
}

func (k *world) Setsockopt(fd, level, name int32, value, length uintptr) int {
	e := k.call(unix.ENOMEM, unix.ENOPROTOOPT)
	s := k.sock(fd)
	if level == unix.SOL_SOCKET && name == unix.SO_LINGER {
		s.linger = value == k.current.linger
	}
	return -int(e)
}

func (k *world) Shutdown(fd int32) int {
	k.call()
	f := k.file(fd)
	switch f.other {
	case "monitor":
		k.current.go_ = true
		k.watch(k.current, f)
		return 0
	case "listener": // does nothing to a listener but wake all who wait (net/ipv4/af_inet.c inet_shutdown)
		for _, p := range k.waiters {
			k.watch(p, p.fds[ListenFD])
		}
		return 0
	}
	s := k.sock(fd)
	k.log("shutdown %s", s.name)
	switch {
	case s.reset:
		return -int(unix.ENOTCONN)
	case s.state != connected:
		k.fail("shutdown of %s while it is connecting", s.name)
	case s.shut:
		k.fail("second shutdown of %s", s.name)
	}
	k.complete(s.other, s)
	s.shut = true
	k.wake(s)
	return 0
}

// complete checks that all of from has reached to, so that its end may be told.
func (k *world) complete(from, to *socket) {
	if !from.finRead || to.got != from.total {
		k.fail("%s is told the end at byte %d of %d", to.name, to.got, from.total)
	}
}

func (k *world) Close(fd int32) int {
	e := k.call(unix.EINTR, unix.EIO) // the descriptor is closed all the same (close(2))
	f := k.file(fd)
	if fd < firstFD {
		k.fail("close of descriptor %d", fd)
	}
	p := k.current
	p.fds[fd] = nil
	if f.watched {
		p.closed = append(p.closed, f.event)
	}
	if f.pipe != nil {
		f.pipe.ends--
		return -int(e)
	}
	s := f.socket
	s.gone = true
	k.log("close %s (%d), linger %v", s.name, fd, s.linger)
	o := s.other
	switch {
	case o == nil:
		k.fail("close of %s, which was joined to none", s.name)
	case s.linger && !s.hurt && !o.hurt:
		k.fail("reset of %s, though nothing happened", s.name)
	case !s.linger:
		k.complete(s, o)
		k.complete(o, s)
	}
	if o.gone && o.linger != s.linger {
		k.fail("%s is reset and %s is not", s.name, o.name)
	}
	return -int(e)
}

func (k *world) Pipe2(ends uintptr) int {
	p := k.current
	if ends != uintptr(unsafe.Pointer(&p.ends)) {
		k.fail("pipe2 to another place")
	}
	if e := k.call(unix.EMFILE, unix.ENFILE, unix.ENOMEM); e != 0 {
		return -int(e)
	}
	c := &conduit{slots: 16, ends: 2}
	r := k.open(&file{pipe: c})
	if r < 0 {
		return r
	}
	w := k.open(&file{pipe: c, write: true})
	if w < 0 {
		p.fds[r] = nil
		return w
	}
	p.ends = [2]int32{int32(r), int32(w)}
	return 0
}

func (k *world) Fcntl(fd, cmd int32, arg uintptr) int {
	e := k.call(unix.EPERM, unix.EBUSY, unix.ENOMEM)
	c := k.file(fd).pipe
	if c == nil {
		k.fail("fcntl of descriptor %d", fd)
	}
	if e != 0 {
		return -int(e)
	}
	if cmd == unix.F_SETPIPE_SZ {
		if arg != uintptr(k.current.largePipe) && arg != policy.SmallPipe {
			k.fail("pipe of %d bytes", arg)
		}
		c.slots = max(int(arg)>>k.current.pageShift, 1)
	}
	return c.slots << k.current.pageShift
}

func (k *world) Splice(from, to int32, n uint32) int {
	e := k.call(unix.EINTR, unix.EINTR, unix.EINTR, unix.ENOMEM, unix.EIO)
	src, dst := k.file(from), k.file(to)
	switch {
	case src.socket != nil && dst.pipe != nil && dst.write:
		return k.fill(src.socket, dst.pipe, int(n), e)
	case src.pipe != nil && !src.write && dst.socket != nil:
		return k.drain(src.pipe, dst.socket, int(n), e)
	}
	k.fail("splice from %d to %d", from, to)
	return 0
}

func (k *world) fill(s *socket, c *conduit, n int, e unix.Errno) int {
	if c.length > 0 {
		k.fail("read of %s into a pipe that holds bytes of %s", s.name, c.from.name)
	}
	n = min(n, s.sent-s.read)
	switch {
	case e == unix.EINTR:
		return -int(e)
	case s.state == fresh || e != 0:
		s.hurt = true
		return -int(max(e, unix.ENOTCONN))
	case s.urgent: // splice never passes the mark
		return -int(unix.EAGAIN)
	case n > 0:
		// Each slot holds at least a byte; a fragment may fill one.
		least := 1
		if s.proof {
			least = min(n, c.slots)
		}
		n = least + k.some(n-least+1) - 1
		c.from, c.start, c.length = s, s.read, n
		s.read += n
		return n
	case s.err != 0:
		e, s.err = s.err, 0
		return -int(e)
	case s.fin:
		s.finRead = true
		return 0
	case s.reset:
		return 0 // the error was told before; now it looks like an end
	}
	return -int(unix.EAGAIN)
}

func (k *world) drain(c *conduit, s *socket, n int, e unix.Errno) int {
	switch {
	case n != c.length || n == 0:
		k.fail("splice of %d bytes out of a pipe that holds %d", n, c.length)
	case c.from.other != s:
		k.fail("bytes of %s go to %s", c.from.name, s.name)
	case c.start != s.got:
		k.fail("byte %d of %s comes after %d", c.start, c.from.name, s.got)
	case s.shut:
		k.fail("bytes to %s after its end", s.name)
	}
	room := s.room - s.got + s.taken
	switch {
	case e == unix.EINTR:
		return -int(e)
	case s.state == fresh || e != 0:
		s.hurt = true
		return -int(max(e, unix.ENOTCONN))
	case s.err != 0:
		e, s.err = s.err, 0
		return -int(e)
	case s.reset:
		return -int(unix.EPIPE)
	case s.state == connecting || room == 0:
		s.full = true
		return -int(unix.EAGAIN)
	}
	n = k.some(min(n, room))
	s.got += n
	c.start += n
	c.length -= n
	return n
}

func (k *world) EpollCtl(ep, op, fd int32, event uintptr) int {
	p := k.current
	if event != uintptr(unsafe.Pointer(&p.event)) || k.file(ep).other != "epoll" {
		k.fail("epoll_ctl with other arguments")
	}
	f := k.file(fd)
	var e unix.Errno
	if op == unix.EPOLL_CTL_ADD && (f.socket != nil || f.other == "listener") {
		e = k.call(unix.ENOMEM, unix.ENOSPC) // the others are in at the start, or the relay says so and ends
	} else {
		k.call()
	}
	if f.watched == (op == unix.EPOLL_CTL_ADD) {
		k.fail("epoll_ctl %d of descriptor %d, registered: %v", op, fd, f.watched)
	}
	if e != 0 {
		if f.socket != nil {
			f.socket.hurt = true
		}
		return -int(e)
	}
	if f.other == "listener" {
		k.waiters = slices.DeleteFunc(k.waiters, func(q *process) bool { return q == p })
		if op == unix.EPOLL_CTL_ADD {
			k.waiters = append(k.waiters, p)
		}
	}
	if op == unix.EPOLL_CTL_DEL {
		f.watched, f.ready = false, false
		return 0
	}
	f.watched, f.event = true, p.event
	k.watch(p, f)
	return 0
}

func (k *world) EpollWait(ep int32, events, count uintptr, timeout int32) int {
	p := k.current
	if events != uintptr(unsafe.Pointer(&p.events)) || count != policy.EventsMax || k.file(ep).other != "epoll" {
		k.fail("epoll_wait with other arguments")
	}
	if k.call(unix.EINTR) != 0 {
		return -int(unix.EINTR)
	}
	p.timeout = timeout
	if p.asleep = timeout != 0 && !p.hasReady(); p.asleep || k.chance(.3) {
		if !p.yield(struct{}{}) { // others have their turn
			panic(exited{}) // the test has seen enough
		}
	}
	p.asleep = false
	var batch []unix.EpollEvent
	chaos := k.calls < k.chaos
	for _, f := range p.fds {
		if f == nil || !f.watched {
			continue
		}
		mask := k.poll(p, f) & (f.event.Events | unix.EPOLLERR | unix.EPOLLHUP)
		spurious := chaos && k.chance(.02) && f.other != "monitor" && f.other != "owner"
		if !f.ready && !spurious || chaos && k.chance(.1) && !spurious {
			continue // those that are ready may still come later
		}
		if f.ready {
			f.ready = mask != 0 && f.event.Events&unix.EPOLLET == 0
			if mask == 0 {
				continue
			}
		} else if f.socket != nil && f.socket.state == connected {
			mask |= f.event.Events & (unix.EPOLLIN | unix.EPOLLOUT)
		}
		e := f.event
		e.Events = mask
		batch = append(batch, e)
		if chaos && k.chance(.02) && f.other != "monitor" {
			batch = append(batch, e)
		}
	}
	if chaos && len(p.closed) > 0 && k.chance(.1) {
		e := p.closed[k.IntN(len(p.closed))]
		e.Events = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLERR | unix.EPOLLHUP | unix.EPOLLPRI
		batch = append(batch, e)
	}
	k.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
	for _, e := range batch {
		k.log("event %x of %d, connection %d", e.Events, e.Fd, e.Pad)
	}
	return copy(p.events[:], batch)
}

func (p *process) hasReady() bool {
	return slices.ContainsFunc(p.fds, func(f *file) bool { return f != nil && f.ready })
}

func (k *world) Exit(code int32) { panic(exited{}) }

// tcp and local are external addresses. Their vaults stay mapped, so there is one of each.
var (
	tcp   = sync.OnceValues(func() (config.Upstream, *vault.Vault) { return sealed(config.ParseAddr("127.0.0.1:9050")) })
	local = sync.OnceValues(func() (config.Upstream, *vault.Vault) { return sealed(config.ParseUnix("@fake")) })
)

func sealed(u config.Upstream, err error) (config.Upstream, *vault.Vault) {
	v, vaultErr := vault.New(u.Sockaddr())
	if err != nil || vaultErr != nil {
		panic(fmt.Sprint(err, vaultErr))
	}
	return u, v
}

// newWorld starts relays that share a listener. Their descriptor limit is low, so that it counts.
func newWorld(t testing.TB, r *rand.Rand, relays, limit int, external func() (config.Upstream, *vault.Vault)) *world {
	k := &world{Rand: r, failAt: -1}
	upstream, v := external()
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(listener)
	for range relays {
		region, err := NewRegion(Plan{Listener: listener, Upstream: upstream, Vault: v, Descriptors: limit, Exclusive: relays > 1})
		if err != nil {
			t.Fatal(err)
		}
		p := &process{Worker: region.Worker(), region: region, limit: limit}
		p.fds = []*file{ListenFD: {other: "listener"}, EpollFD: {other: "epoll"}, OwnerFD: {other: "owner"}, MonitorFD: {other: "monitor"}}
		p.next, p.stop = iter.Pull(func(yield func(struct{}) bool) {
			defer func() {
				if r := recover(); r != nil && r != (exited{}) {
					panic(r)
				}
				p.exited = true
			}()
			p.yield = yield
			p.Run()
		})
		k.processes = append(k.processes, p)
	}
	return k
}

// run goes on until done says so or nothing can happen any more. It returns what broke, or nothing.
func (k *world) run(done func() bool) (err error) {
	arch.Fake = k
	defer func() {
		switch r := recover().(type) {
		case nil:
		case violation:
			err = fmt.Errorf("%s\n%s", r.what, strings.Join(k.trace[max(0, len(k.trace)-60):], "\n"))
		default:
			panic(r)
		}
	}()
	for waited := 0; !done(); {
		acted := k.chance(.5) && k.act()
		var can, sleepers []*process
		for _, p := range k.processes {
			switch {
			case p.exited:
			case !p.asleep || p.hasReady() || p.timeout == 0:
				can = append(can, p)
			case p.timeout > 0:
				sleepers = append(sleepers, p)
			}
		}
		switch {
		case len(can) > 0 && !(len(sleepers) > 0 && waited == 0 && k.chance(.1)):
			k.resume(can[k.IntN(len(can))])
			waited = 0
		case acted || k.act():
			waited = 0
		case len(sleepers) > 0 && (k.calls < k.chaos || waited < 1000*len(sleepers)):
			k.resume(sleepers[k.IntN(len(sleepers))])
			waited++
		case len(sleepers) > 0 && k.released:
			k.fail("waiting for ever: %s", k.state())
		default:
			return nil
		}
	}
	return nil
}

func (k *world) resume(p *process) {
	k.current = p
	if p.timeout > 0 && p.asleep {
		k.log("time passes")
	}
	p.next()
}

// state describes what is left.
func (k *world) state() string {
	var b strings.Builder
	for i, p := range k.processes {
		fmt.Fprintf(&b, "relay %d: left %d, paused %v, short %v, starving %v, timeout %d, open %d, pipes %d, idle %d, ready %d, retry %d\n",
			i, p.left, p.paused, p.short, p.starving, p.timeout, p.counters[Open], p.counters[Pipes], p.counters[PipesIdle], p.ready.head, p.retry.head)
		for fd, f := range p.fds {
			if f != nil && f.socket != nil {
				fmt.Fprintf(&b, "  %d: %+v flags %b held %d pipe %d, registered %v ready %v for %x\n",
					fd, *f.socket, p.sides[fd].flags, p.sides[fd].held, p.sides[fd].pipe, f.watched, f.ready, f.event.Events)
			}
		}
	}
	fmt.Fprintf(&b, "%d wait in the backlog, %d to come", len(k.backlog), k.clients)
	return b.String()
}
