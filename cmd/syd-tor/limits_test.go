package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// echo serves every connection of l by sending back what it gets, until l is closed.
func echo(l net.Listener) {
	each(l, func(c net.Conn) {
		io.Copy(c, c)
		c.(streamConn).CloseWrite()
	})
}

// each runs serve on every connection to l, and closes it then.
func each(l net.Listener, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			serve(c)
			c.Close()
		}()
	}
}

// ask sends text, half-closes, and returns what comes back up to EOF.
func ask(addr, text string) (string, error) {
	c, err := net.DialTimeout("tcp4", addr, 30*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(60 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	c.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(c)
	return string(b), err
}

// cpuTicks is the user and system time of a process in clock ticks (proc_pid_stat(5), fields 14 and 15).
func cpuTicks(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b)[strings.LastIndexByte(string(b), ')')+2:])
	var user, system int
	fmt.Sscan(fields[11], &user)
	fmt.Sscan(fields[12], &system)
	return user + system
}

// TestDescriptorShortage gives syd-tor so few descriptors that most clients must wait: all are served in the end,
// nobody is refused, and while all wait the relay does not spin.
func TestDescriptorShortage(t *testing.T) {
	for _, mode := range modes() {
		t.Run(mode.name, func(t *testing.T) {
			upstream, opt := families[0].listen(t)
			go echo(upstream)
			f := startLimited(t, 40, append(opt, mode.args...)...)
			relays := f.relays()
			// Fill it with connections that stay open, more than fit.
			clients := make([]*net.TCPConn, 60)
			for i := range clients {
				clients[i] = f.dial()
				fmt.Fprintf(clients[i], "%03d", i)
			}
			deadline := time.Now().Add(20 * time.Second)
			for f.counters()["pauses"] < len(relays) {
				if time.Now().After(deadline) {
					t.Fatalf("no pause: %v", f.counters())
				}
				time.Sleep(10 * time.Millisecond)
			}
			c := f.counters()
			if c["open"] >= len(clients) || c["open"] < 8*len(relays) {
				t.Errorf("%d connections open with 40 descriptors, want as many as fit and not all %d", c["open"], len(clients))
			}
			before := 0
			for _, pid := range relays {
				before += cpuTicks(t, pid)
			}
			time.Sleep(time.Second)
			after := 0
			for _, pid := range relays {
				after += cpuTicks(t, pid)
			}
			if spent := after - before; spent > 2 {
				t.Errorf("%d ticks of CPU in a second of waiting, want none", spent)
			}
			// One after the other ends, and its place goes to one that waits.
			for i, c := range clients {
				var b [3]byte
				c.SetDeadline(time.Now().Add(30 * time.Second))
				if _, err := io.ReadFull(c, b[:]); err != nil || string(b[:]) != fmt.Sprintf("%03d", i) {
					t.Fatalf("client %d: %q, %v", i, b, err)
				}
				c.Close()
			}
			end := f.settled("open", 0)
			if end["accepted"] != len(clients) || end["refused"] != 0 {
				t.Errorf("accepted %d, refused %d, want %d and none", end["accepted"], end["refused"], len(clients))
			}
		})
	}
}

// TestBacklogFull makes the external UNIX socket's backlog overflow: connects are tried again, every client is
// served once the server accepts, and one that never accepts gets its clients reset.
func TestBacklogFull(t *testing.T) {
	path := filepath.Join(socketDir(t), "socket")
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(s, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(s, 1); err != nil {
		t.Fatal(err)
	}
	os.Chmod(path, 0o666)
	f := startForwarder(t, append(strict(), "-u", path)...)
	var group sync.WaitGroup
	const clients = 12
	for i := range clients {
		group.Go(func() {
			text := fmt.Sprintf("client %d", i)
			if got, err := ask(f.addr, text); got != text || err != nil {
				t.Errorf("client %d: %q, %v", i, got, err)
			}
		})
	}
	deadline := time.Now().Add(20 * time.Second)
	for f.counters()["retries"] < clients {
		if time.Now().After(deadline) {
			t.Fatalf("no retries: %v", f.counters())
		}
		time.Sleep(10 * time.Millisecond)
	}
	file := os.NewFile(uintptr(s), path)
	l, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	go echo(l)
	group.Wait()
	l.Close()
	if c := f.settled("open", 0); c["finished"] != clients {
		t.Errorf("%d of %d finished: %v", c["finished"], clients, c)
	}
}

// TestBacklogNeverFree checks that a server which never accepts does not hold its clients for ever.
func TestBacklogNeverFree(t *testing.T) {
	path := filepath.Join(socketDir(t), "socket")
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	if err := unix.Bind(s, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(s, 0); err != nil {
		t.Fatal(err)
	}
	os.Chmod(path, 0o666)
	f := startForwarder(t, append(strict(), "-u", path)...)
	var clients []*net.TCPConn
	for range 4 {
		clients = append(clients, f.dial())
	}
	// One fits into the backlog; the others are reset after 100 tries, 5 seconds.
	c := f.settled("refused", 3)
	if c["err-shortage"] != 3 || c["open"] != 1 {
		t.Errorf("err-shortage %d, open %d, want 3 and 1", c["err-shortage"], c["open"])
	}
	for _, c := range clients {
		c.Close()
	}
}

// TestRefused checks that a client of an external address that refuses is reset, each time, and that the relay
// serves it once the address is there.
func TestRefused(t *testing.T) {
	for _, fam := range families {
		t.Run(fam.name, func(t *testing.T) {
			upstream, opt := fam.listen(t)
			upstream.Close()
			f := startForwarder(t, append(opt, strict()...)...)
			for i := range 20 {
				if got, err := ask(f.addr, "hello"); !isReset(err) {
					t.Fatalf("client %d: %q, %v, want a reset", i, got, err)
				}
			}
			if c := f.settled("refused", 20); c["err-refused"] != 20 || c["open"] != 0 {
				t.Errorf("err-refused %d, open %d, want 20 and none", c["err-refused"], c["open"])
			}
		})
	}
}

// TestUrgentData checks that TCP urgent data, which splice(2) cannot pass, ends the connection instead of
// hanging it or ending it in a false EOF.
func TestUrgentData(t *testing.T) {
	upstream, opt := families[0].listen(t)
	go echo(upstream)
	f := startForwarder(t, append(opt, strict()...)...)
	c := f.dial()
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.Send(int(fd), []byte("!"), unix.MSG_OOB) })
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if b, err := io.ReadAll(c); !isReset(err) {
		t.Errorf("read %q, %v, want a reset", b, err)
	}
	f.settled("urgent", 1)
}

// TestShortConnections opens and closes many and compares the relay's descriptors before and after.
func TestShortConnections(t *testing.T) {
	total, width := 10_000, 16
	if testing.Short() {
		total = 1000
	}
	upstream, opt := families[0].listen(t)
	go echo(upstream)
	f := startForwarder(t, append(opt, strict()...)...)
	if _, err := ask(f.addr, "first"); err != nil {
		t.Fatal(err)
	}
	f.settled("open", 0)
	relay := f.relays()[0]
	before := f.descriptorsOf(relay)
	pipes := f.counters()["pipes"]
	var group sync.WaitGroup
	for w := range width {
		group.Go(func() {
			for i := range total / width {
				text := fmt.Sprintf("%d of worker %d", i, w)
				if got, err := ask(f.addr, text); got != text || err != nil {
					t.Errorf("connection %s: %q, %v", text, got, err)
					return
				}
			}
		})
	}
	group.Wait()
	c := f.settled("open", 0)
	if want := total/width*width + 1; c["finished"] != want || c["accepted"] != want {
		t.Errorf("accepted %d, finished %d, want %d", c["accepted"], c["finished"], want)
	}
	if after := f.descriptorsOf(relay); after != before+2*(c["pipes"]-pipes) {
		t.Errorf("%d descriptors before, %d after, and the pool grew by %d pipes", before, after, c["pipes"]-pipes)
	}
}

// TestIdleConnections holds many connections at rest: two descriptors each, no pipe, and no wake-up.
func TestIdleConnections(t *testing.T) {
	total, rest := 2000, 10*time.Second
	if testing.Short() {
		total, rest = 200, time.Second
	}
	upstream, opt := families[0].listen(t)
	go echo(upstream)
	f := startForwarder(t, append(opt, strict()...)...)
	clients := make([]*net.TCPConn, total)
	for i := range clients {
		clients[i] = f.dial()
		clients[i].Write([]byte{1})
		if _, err := io.ReadFull(clients[i], make([]byte, 1)); err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
	}
	relay := f.relays()[0]
	c := f.settled("open", total)
	const own, spare = 4, 1
	if got := f.descriptorsOf(relay) - 2*c["pipes"]; got < own+2*total || got > own+spare+2*total {
		t.Errorf("%d descriptors without the pool's, want 2 for each of %d connections and %d or %d", got, total, own, own+spare)
	}
	if c["pipes"] != c["pipes-idle"] {
		t.Errorf("%d of %d pipes are lent at rest", c["pipes"]-c["pipes-idle"], c["pipes"])
	}
	before := f.counters()["wakeups"]
	switches := contextSwitches(t, relay)
	time.Sleep(rest)
	if woken := contextSwitches(t, relay) - switches; woken != 0 {
		t.Errorf("%d context switches in %v at rest", woken, rest)
	}
	if woken := f.counters()["wakeups"] - before; woken != 0 {
		t.Errorf("%d returns from epoll_wait in %v at rest", woken, rest)
	}
	for _, c := range clients {
		c.Close()
	}
	f.settled("open", 0)
}

// contextSwitches of a process, voluntary and not (proc_pid_status(5)).
func contextSwitches(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, line := range strings.Split(string(b), "\n") {
		if name, value, _ := strings.Cut(line, ":"); strings.HasSuffix(name, "voluntary_ctxt_switches") {
			var n int
			fmt.Sscan(value, &n)
			sum += n
		}
	}
	return sum
}

// TestStalledReaders has clients that ask for much and read nothing, which hold a pipe each: others must go on,
// and all bytes must come once the stalled ones read.
func TestStalledReaders(t *testing.T) {
	const stalled, size = 40, 12 << 20
	upstream, opt := families[0].listen(t)
	go each(upstream, func(c net.Conn) {
		var b [1]byte
		if _, err := io.ReadFull(c, b[:]); err == nil && b[0] == 's' {
			io.Copy(c, io.LimitReader(zeros{}, size))
		} else {
			c.Write(b[:])
		}
		// TCP's memory is all in use: the kernel resets what is closed with bytes to send (tcp_close, net/ipv4/tcp.c,
		// TCPAbortOnMemory). So the client closes first.
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
	})
	f := startForwarder(t, append(opt, strict()...)...)
	var clients []*net.TCPConn
	for range stalled {
		c := f.dial()
		c.SetReadBuffer(64 << 10)
		c.Write([]byte("s"))
		clients = append(clients, c)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		c := f.counters()
		if c["pipes"]-c["pipes-idle"] == stalled {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d pipes lent, want one for each of %d stalled readers", c["pipes"]-c["pipes-idle"], stalled)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for i := range 50 {
		c := f.dial()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		c.Write([]byte("x"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatalf("client %d beside the stalled ones: %v", i, err)
		}
		c.Close()
	}
	var group sync.WaitGroup
	for i, c := range clients {
		group.Go(func() {
			c.SetDeadline(time.Now().Add(60 * time.Second))
			if n, err := io.Copy(io.Discard, c); n != size || err != nil {
				t.Errorf("stalled client %d: %d bytes, %v, want %d", i, n, err, size)
			}
			c.Close()
		})
	}
	group.Wait()
	c := f.settled("open", 0)
	if c["pipes"] != c["pipes-idle"] || c["pipes"] > 16 {
		t.Errorf("%d pipes, %d idle, want all of at most 16 idle", c["pipes"], c["pipes-idle"])
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestStopped stops and continues the relay in the middle of a transfer: epoll_wait returns EINTR then.
func TestStopped(t *testing.T) {
	upstream, opt := families[0].listen(t)
	go echo(upstream)
	f := startForwarder(t, append(opt, strict()...)...)
	done := make(chan error)
	text := strings.Repeat("0123456789abcdef", 1<<18)
	go func() {
		got, err := ask(f.addr, text)
		if err == nil && got != text {
			err = fmt.Errorf("%d bytes came back wrong", len(got))
		}
		done <- err
	}()
	relay := f.relays()[0]
	for range 20 {
		unix.Kill(relay, unix.SIGSTOP)
		time.Sleep(2 * time.Millisecond)
		unix.Kill(relay, unix.SIGCONT)
		time.Sleep(2 * time.Millisecond)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
