package bench

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	chunk     = 256 << 10 // bytes per read and write of bulk data
	echoChunk = 64 << 10
)

// peerConn is one connection at the backend.
type peerConn struct {
	mode    byte
	want    uint32 // events registered now
	pending []byte // echo: read and not yet sent
	owed    uint64 // answer: bytes still to send
	request []byte // answer: the part of a request that has arrived
}

// backend is the upstream of every forwarder: a level-triggered loop that makes as few calls as it can.
type backend struct {
	ep    int
	conns map[int]*peerConn
	buf   []byte
	zero  []byte
}

// serve runs the backend on the given addresses until standard input ends, as it does when its starter is gone. It
// writes one line to ready once all listen.
func serve(addrs []string, ready io.Writer) error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	b := &backend{ep: ep, conns: map[int]*peerConn{}, buf: make([]byte, chunk), zero: make([]byte, chunk)}
	listeners := map[int]bool{}
	for _, a := range addrs {
		fd, err := listen(a)
		if err != nil {
			return err
		}
		listeners[fd] = true
		if err := epollCtl(ep, unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN); err != nil {
			return fmt.Errorf("epoll_ctl: %w", err)
		}
	}
	if err := epollCtl(ep, unix.EPOLL_CTL_ADD, 0, unix.EPOLLIN); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	fmt.Fprintln(ready, "ready")
	events := make([]unix.EpollEvent, 256)
	for {
		n := epollWait(ep, events, -1)
		for _, ev := range events[:n] {
			fd := int(ev.Fd)
			if fd == 0 {
				return nil // nobody writes there: it is the end
			}
			if listeners[fd] {
				b.welcome(fd)
				continue
			}
			if c := b.conns[fd]; c != nil && !b.turn(fd, c, ev.Events) {
				delete(b.conns, fd)
				closeFD(fd)
			}
		}
	}
}

func (b *backend) welcome(listener int) {
	// One accept per event: the listener is level-triggered, and a failing accept costs as much as a good one.
	fd, err := accept(listener)
	if err != nil {
		return
	}
	if epollCtl(b.ep, unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN) != nil {
		closeFD(fd)
		return
	}
	b.conns[fd] = &peerConn{want: unix.EPOLLIN}
}

func (b *backend) watch(fd int, c *peerConn, events uint32) {
	if c.want != events {
		c.want = events
		_ = epollCtl(b.ep, unix.EPOLL_CTL_MOD, fd, events)
	}
}

// turn handles one event and reports whether the connection goes on.
func (b *backend) turn(fd int, c *peerConn, events uint32) bool {
	if events&unix.EPOLLOUT != 0 {
		return b.write(fd, c)
	}
	size := chunk
	if c.mode == modeEcho {
		size = echoChunk
	}
	n, err := recv(fd, b.buf[:size])
	if err == unix.EAGAIN || err == unix.EINTR {
		return true
	}
	if err != nil || n == 0 {
		return false
	}
	if c.mode == 0 {
		c.mode = b.buf[0]
	}
	switch c.mode {
	case modeWait:
		c.mode = 0
		_, err := send(fd, b.buf[:1])
		return err == nil
	case modeEcho:
		w, err := send(fd, b.buf[:n])
		if err == unix.EAGAIN {
			w, err = 0, nil
		}
		if err != nil {
			return false
		}
		if w < n {
			c.pending = append(c.pending[:0], b.buf[w:n]...)
			b.watch(fd, c, unix.EPOLLOUT)
		}
		return true
	case modeSource:
		b.watch(fd, c, unix.EPOLLOUT)
		return true
	case modeSink:
		return true
	case modeAnswer:
		c.request = append(c.request, b.buf[:n]...)
		if len(c.request) < requestSize {
			return true
		}
		c.owed = binary.LittleEndian.Uint64(c.request[1:requestSize])
		c.request = c.request[:0]
		return b.write(fd, c)
	}
	return false
}

// write sends what a connection is owed, one write per event, so that streams share the backend evenly.
func (b *backend) write(fd int, c *peerConn) bool {
	p := b.zero
	switch c.mode {
	case modeEcho:
		p = c.pending
	case modeAnswer:
		p = b.zero[:min(c.owed, chunk)]
	}
	n, err := send(fd, p)
	if err == unix.EAGAIN || err == unix.EINTR {
		n, err = 0, nil
	}
	if err != nil {
		return false
	}
	more := true
	switch c.mode {
	case modeEcho:
		c.pending = c.pending[n:]
		more = len(c.pending) > 0
	case modeAnswer:
		c.owed -= uint64(n)
		more = c.owed > 0
	}
	if more {
		b.watch(fd, c, unix.EPOLLOUT)
	} else {
		b.watch(fd, c, unix.EPOLLIN)
	}
	return true
}

// listen opens a listening stream socket without the runtime's poller.
func listen(addr string) (int, error) {
	sa, family, err := sockaddr(addr)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if family != unix.AF_UNIX {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // inherited by what it accepts
	}
	if err := unix.Bind(fd, sa); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind %s: %w", addr, err)
	}
	if family == unix.AF_UNIX {
		// Forwarders run as users of their own.
		if err := os.Chmod(addr, 0o666); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	if err := unix.Listen(fd, 4096); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen %s: %w", addr, err)
	}
	return fd, nil
}

// sockaddr reads addr:port or a path.
func sockaddr(addr string) (unix.Sockaddr, int, error) {
	if strings.HasPrefix(addr, "/") {
		return &unix.SockaddrUnix{Name: addr}, unix.AF_UNIX, nil
	}
	a, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return nil, 0, fmt.Errorf("address %q: %w", addr, err)
	}
	sa := &unix.SockaddrInet4{Port: a.Port}
	copy(sa.Addr[:], a.IP.To4())
	return sa, unix.AF_INET, nil
}
