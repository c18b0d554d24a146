package bench

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// loader is the client end of the traffic: one thread, one epoll instance, one order at a time.
type loader struct {
	ep     int
	events []unix.EpollEvent
	buf    []byte
	out    []byte
	held   []int // connections that Hold opened
}

// load answers orders (one JSON value each) from r on w until r ends.
func load(r io.Reader, w io.Writer) error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	l := &loader{ep: ep, events: make([]unix.EpollEvent, 512), buf: make([]byte, chunk), out: make([]byte, chunk)}
	l.out[0] = modeEcho
	orders, answers := json.NewDecoder(r), json.NewEncoder(w)
	for {
		var op Op
		if err := orders.Decode(&op); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		s := l.run(op)
		if err := answers.Encode(s); err != nil {
			return err
		}
		runtime.GC()
	}
}

// actions maps a kind of measurement to its code.
var actions = map[Kind]func(*loader, Op) (Sample, error){
	Bulk:     (*loader).bulk,
	Upload:   (*loader).upload,
	PingPong: (*loader).pingPong,
	Answer:   (*loader).pingPong,
	Churn:    (*loader).churn,
	Hold:     (*loader).hold,
	Release:  (*loader).release,
}

func (l *loader) run(op Op) Sample {
	f := actions[op.Kind]
	if f == nil {
		return Sample{Err: fmt.Sprintf("unknown kind %q", op.Kind)}
	}
	s, err := f(l, op)
	if err != nil {
		s.Err = err.Error()
	}
	return s
}

// dial connects and blocks for it, 5 seconds at most.
func dial(addr string) (int, error) {
	sa, family, err := sockaddr(addr)
	if err != nil {
		return -1, err
	}
	return dialSockaddr(sa, family)
}

func dialSockaddr(sa unix.Sockaddr, family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if family != unix.AF_UNIX {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	// Bounds connect as well: socket(7), SO_SNDTIMEO.
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 5})
	if err := unix.Connect(fd, sa); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect: %w", err)
	}
	return fd, nil
}

// open connects n times, waits until every connection stands from end to end, and registers each for events.
func (l *loader) open(addr string, n int, events uint32) (map[int]*stream, error) {
	sa, family, err := sockaddr(addr)
	if err != nil {
		return nil, err
	}
	conns := make(map[int]*stream, n)
	for range n {
		fd, err := dialSockaddr(sa, family)
		if err == nil {
			conns[fd] = &stream{}
			err = l.echo(fd, modeWait)
		}
		if err == nil {
			err = epollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, events)
		}
		if err != nil {
			l.closeAll(conns)
			return nil, err
		}
	}
	return conns, nil
}

// echo sends one byte and blocks until it has come back, 5 seconds at most.
func (l *loader) echo(fd int, b byte) error {
	if _, err := send(fd, []byte{b}); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	n, err := unix.Read(fd, l.buf[:1])
	switch {
	case err == unix.EAGAIN:
		return errors.New("no echo in 5 s")
	case err != nil:
		return fmt.Errorf("echo: %w", err)
	case n == 0:
		return errEnded
	}
	return nil
}

func (l *loader) closeAll(conns map[int]*stream) {
	for fd := range conns {
		closeFD(fd)
	}
}

// stream is one connection of the load.
type stream struct {
	bytes int64     // in the window
	got   int       // of the answer under way
	sent  time.Time // of the request under way
}

// window tells the phases of a measurement apart and takes the readings at its borders.
type window struct {
	op         Op
	warmUntil  time.Time
	start, end time.Time
	cpu        time.Duration
	err        error
}

func newWindow(op Op) *window { return &window{op: op, warmUntil: time.Now().Add(op.Warm)} }

// tick reports what the moment now is: begins is true once, when counting starts; over is true at the end.
func (w *window) tick(now time.Time) (begins, over bool) {
	if w.start.IsZero() {
		if now.Before(w.warmUntil) {
			return false, false
		}
		w.cpu, w.err = w.op.Meter.Read()
		w.start = time.Now()
		return true, false
	}
	return false, now.Sub(w.start) >= w.op.Window
}

// close fills in what the window has seen.
func (w *window) close(s *Sample) error {
	w.end = time.Now()
	s.Elapsed = w.end.Sub(w.start)
	s.CPU = -1
	if w.op.Meter.Kind == "" {
		return w.err
	}
	cpu, err := w.op.Meter.Read()
	if err = errors.Join(w.err, err); err != nil {
		return fmt.Errorf("meter: %w", err)
	}
	s.CPU = cpu - w.cpu
	return nil
}

var errEnded = errors.New("connection ended early")

func (l *loader) bulk(op Op) (s Sample, err error) {
	conns, err := l.open(op.Addr, op.Conns, unix.EPOLLIN)
	if err != nil {
		return s, err
	}
	defer l.closeAll(conns)
	for fd := range conns {
		if _, err := send(fd, []byte{modeSource}); err != nil {
			return s, fmt.Errorf("send: %w", err)
		}
	}
	return l.pour(op, conns, func(fd int) (int, error) {
		n, err := recv(fd, l.buf)
		if err == nil && n == 0 {
			err = errEnded
		}
		return n, err
	})
}

func (l *loader) upload(op Op) (s Sample, err error) {
	conns, err := l.open(op.Addr, op.Conns, unix.EPOLLOUT)
	if err != nil {
		return s, err
	}
	defer l.closeAll(conns)
	l.out[0] = modeSink // of any later byte, too: the backend looks at the first alone
	defer func() { l.out[0] = modeEcho }()
	return l.pour(op, conns, func(fd int) (int, error) { return send(fd, l.out) })
}

// pour moves bulk data with one step per event until the window is over.
func (l *loader) pour(op Op, conns map[int]*stream, step func(fd int) (int, error)) (s Sample, err error) {
	w := newWindow(op)
	for {
		begins, over := w.tick(time.Now())
		if over {
			break
		}
		if begins {
			for _, c := range conns {
				c.bytes = 0
			}
		}
		for _, ev := range l.events[:epollWait(l.ep, l.events, 100)] {
			n, err := step(int(ev.Fd))
			if err == unix.EAGAIN || err == unix.EINTR {
				continue
			}
			if err != nil {
				return s, err
			}
			conns[int(ev.Fd)].bytes += int64(n)
		}
	}
	err = w.close(&s)
	s.Slowest = math.MaxInt64
	for _, c := range conns {
		s.Slowest = min(s.Slowest, c.bytes)
		s.Fastest = max(s.Fastest, c.bytes)
		s.Bytes += c.bytes
	}
	s.Done = int64(op.Conns)
	return s, err
}

// histogram holds latencies from 100 ns to 10 s to three digits.
func histogram() *hdrhistogram.Histogram { return hdrhistogram.New(100, int64(10*time.Second), 3) }

func quantiles(h *hdrhistogram.Histogram, s *Sample) {
	s.P50 = time.Duration(h.ValueAtQuantile(50))
	s.P99 = time.Duration(h.ValueAtQuantile(99))
	s.P999 = time.Duration(h.ValueAtQuantile(99.9))
}

// pingPong keeps one request under way on each connection: Size bytes echoed, or Size bytes asked for. An answer may be
// longer than the window: of these, the window begins and ends between two requests of the one connection.
func (l *loader) pingPong(op Op) (s Sample, err error) {
	conns, err := l.open(op.Addr, op.Conns, unix.EPOLLIN)
	if err != nil {
		return s, err
	}
	defer l.closeAll(conns)
	var request []byte
	if op.Kind == Answer {
		request = binary.LittleEndian.AppendUint64([]byte{modeAnswer}, uint64(op.Size))
	} else {
		request = l.out[:op.Size]
	}
	ask := func(fd int, c *stream, now time.Time) error {
		c.got, c.sent = 0, now
		n, err := send(fd, request)
		if err == nil && n < len(request) {
			err = fmt.Errorf("send: %d of %d bytes", n, len(request))
		}
		return err
	}
	h := histogram()
	w := newWindow(op)
	due := -1 // the connection of Answer whose next request waits for the tick
	for fd, c := range conns {
		if op.Kind == Answer {
			due = fd
		} else if err := ask(fd, c, time.Now()); err != nil {
			return s, err
		}
	}
	for {
		if op.Kind != Answer || due >= 0 {
			begins, over := w.tick(time.Now())
			if over {
				break
			}
			if begins {
				s.Done = 0
				h.Reset()
			}
		}
		if due >= 0 {
			if err := ask(due, conns[due], time.Now()); err != nil {
				return s, err
			}
			due = -1
		}
		for _, ev := range l.events[:epollWait(l.ep, l.events, 100)] {
			fd := int(ev.Fd)
			c := conns[fd]
			n, err := recv(fd, l.buf)
			if err == unix.EAGAIN || err == unix.EINTR {
				continue
			}
			if err == nil && n == 0 {
				err = errEnded
			}
			if err != nil {
				return s, err
			}
			c.got += n
			if c.got < op.Size {
				continue
			}
			now := time.Now()
			// What was under way when counting began would carry the time of the first reading of the meter.
			if !c.sent.Before(w.start) {
				_ = h.RecordValue(int64(now.Sub(c.sent))) // beyond 10 s: counted, not recorded
			}
			s.Done++
			if op.Kind == Answer {
				due = fd
			} else if err := ask(fd, c, now); err != nil {
				return s, err
			}
		}
	}
	err = w.close(&s)
	s.Bytes = s.Done * int64(op.Size)
	quantiles(h, &s)
	return s, err
}

// churn keeps Conns connections under way, each of which connects, has Size bytes echoed and closes.
func (l *loader) churn(op Op) (s Sample, err error) {
	sa, family, err := sockaddr(op.Addr)
	if err != nil {
		return s, err
	}
	h := histogram()
	live := make(map[int]*stream, op.Conns)
	defer l.closeAll(live)
	begin := func() error {
		now := time.Now()
		fd, err := dialSockaddr(sa, family)
		if err != nil {
			return err
		}
		live[fd] = &stream{sent: now}
		if _, err := send(fd, l.out[:op.Size]); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		return epollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN)
	}
	// Counting starts with nothing under way and ends when nothing is: the processor time covers whole connections.
	w := newWindow(Op{Window: op.Window, Meter: op.Meter})
	w.tick(time.Now())
	for range op.Conns {
		if err := begin(); err != nil {
			return s, err
		}
	}
	var stop time.Time
	for len(live) > 0 {
		for _, ev := range l.events[:epollWait(l.ep, l.events, 100)] {
			fd := int(ev.Fd)
			c := live[fd]
			n, err := recv(fd, l.buf)
			if err == unix.EAGAIN || err == unix.EINTR {
				continue
			}
			if err == nil && n == 0 {
				err = errEnded
			}
			if err != nil {
				return s, err
			}
			if c.got += n; c.got < op.Size {
				continue
			}
			delete(live, fd)
			closeFD(fd)
			now := time.Now()
			_ = h.RecordValue(int64(now.Sub(c.sent)))
			s.Done++
			if now.Sub(w.start) < op.Window {
				if err := begin(); err != nil {
					return s, err
				}
			}
			stop = now
		}
		if time.Since(w.start) > op.Window+5*time.Second {
			return s, fmt.Errorf("%d connections without an answer", len(live))
		}
	}
	op.Meter.Settle()
	err = w.close(&s)
	s.Elapsed = stop.Sub(w.start)
	s.Bytes = s.Done * int64(op.Size)
	quantiles(h, &s)
	return s, err
}

// hold opens connections and keeps them. One that fails ends it: Done tells how many are open, Err why there are no more.
func (l *loader) hold(op Op) (s Sample, err error) {
	sa, family, err := sockaddr(op.Addr)
	if err != nil {
		return s, err
	}
	start := time.Now()
	for range op.Conns {
		if time.Since(start) > op.Window {
			err = fmt.Errorf("time is up after %v", op.Window)
			break
		}
		var fd int
		if fd, err = dialSockaddr(sa, family); err != nil {
			break
		}
		if err = l.echo(fd, modeEcho); err != nil {
			closeFD(fd)
			break
		}
		l.held = append(l.held, fd)
	}
	s.Done, s.Elapsed = int64(len(l.held)), time.Since(start)
	return s, err
}

func (l *loader) release(Op) (Sample, error) {
	for _, fd := range l.held {
		closeFD(fd)
	}
	s := Sample{Done: int64(len(l.held))}
	l.held = l.held[:0]
	return s, nil
}
