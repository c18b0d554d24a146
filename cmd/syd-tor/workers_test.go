package main

import (
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var acceptedLine = regexp.MustCompile(`syd-tor: relay \d+: accepted=(\d+) `)

// shares is how many connections each worker has accepted.
func (f *forwarder) shares() []int {
	f.t.Helper()
	f.counters()
	matches := acceptedLine.FindAllStringSubmatch(f.stderr.String(), -1)
	workers := len(f.relays())
	if len(matches) < workers {
		f.t.Fatalf("%d lines of counters for %d workers\n%s", len(matches), workers, f.stderr)
	}
	var shares []int
	for _, m := range matches[len(matches)-workers:] {
		n, _ := strconv.Atoi(m[1])
		shares = append(shares, n)
	}
	return shares
}

// checkShares wants each worker to have at least the given part of its even share.
func checkShares(t *testing.T, shares []int, part float64) {
	t.Helper()
	sum := 0
	for _, n := range shares {
		sum += n
	}
	for _, n := range shares {
		if want := part * float64(sum) / float64(len(shares)); float64(n) < want {
			t.Errorf("workers accepted %v, want at least %.0f each", shares, want)
		}
	}
}

// TestBalance spreads connections over four workers: many short ones in a row, many at once, few long ones.
// Without care the kernel gives one exclusive waiter nearly all of them.
func TestBalance(t *testing.T) {
	const workers = "4"
	for _, c := range []struct {
		name  string
		total int
		width int
		long  bool
		part  float64
	}{
		{"short in a row", 200, 1, false, .5},
		{"short at once", 400, 16, false, .2}, // there are fewer processors than workers: who runs, accepts
		{"few long", 12, 1, true, .5},
	} {
		t.Run(c.name, func(t *testing.T) {
			upstream, opt := families[0].listen(t)
			go echo(upstream)
			f := startForwarder(t, append(append(opt, strict()...), "-w", workers)...)
			var group sync.WaitGroup
			var held []*net.TCPConn
			for w := range c.width {
				group.Go(func() {
					for i := range c.total / c.width {
						text := fmt.Sprintf("%d of %d", i, w)
						if c.long {
							conn := f.dial()
							io.WriteString(conn, text)
							if _, err := io.ReadFull(conn, make([]byte, len(text))); err != nil {
								t.Error(err)
							}
							held = append(held, conn) // width is 1
						} else if got, err := ask(f.addr, text); got != text || err != nil {
							t.Errorf("%q, %v, want %q", got, err, text)
							return
						}
					}
				})
			}
			group.Wait()
			shares := f.shares()
			t.Logf("shares: %v", shares)
			checkShares(t, shares, c.part)
			for _, conn := range held {
				conn.Close()
			}
			f.settled("open", 0)
		})
	}
}

// TestSharedListener sets on the listener what a relay that was taken over can set there, SO_LINGER with a time of 0:
// accepted sockets inherit it, and each close would throw away what the client has not read yet.
func TestSharedListener(t *testing.T) {
	const size = 512 << 10
	upstream, opt := families[0].listen(t)
	go each(upstream, func(c net.Conn) { io.Copy(c, io.LimitReader(zeros{}, size)) })
	listener := bound(t, unix.AF_INET, true)
	shared, err := unix.FcntlInt(uintptr(listener), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(shared)
	f := handOver(t, listener, 0, append(append(opt, strict()...), "-w", "2")...)
	for i := range 8 { // the first is the control
		c := f.dial()
		c.CloseWrite()
		f.settled("finished", i+1) // all is in buffers, and closed
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if n, err := io.Copy(io.Discard, c); n != size || err != nil {
			t.Fatalf("connection %d: %d of %d bytes, %v", i, n, size, err)
		}
		c.Close()
		if err := unix.SetsockoptLinger(shared, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			t.Fatal(err)
		}
	}
}
