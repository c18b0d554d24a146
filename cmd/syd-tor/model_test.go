package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc64"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0: a new one, printed")

func seed(t *testing.T) uint64 {
	s := *seedFlag
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-seed %d", s)
	return s
}

// script is what one end of a connection does: it sends size bytes of a known stream and then ends its
// direction, or resets the connection after resetAt bytes.
type script struct {
	size     int
	chunk    int           // largest write
	pause    time.Duration // longest rest between two writes
	readSize int           // largest read
	readRest time.Duration // longest rest between two reads
	late     bool          // reads to the end before it sends
	resetAt  int           // -1: never
}

// plan is one connection: what the client and the server do. Both ends derive it from seed and number alone.
type plan struct {
	seed           uint64
	number         uint64
	client, server script
}

func planOf(seed, number uint64) plan {
	r := rand.New(rand.NewPCG(seed, number))
	p := plan{seed, number, randomScript(r), randomScript(r)}
	if p.client.late && p.server.late {
		p.server.late = false // both would wait for the other for ever
	}
	if r.IntN(6) == 0 {
		end := &p.client
		if r.IntN(2) == 0 {
			end = &p.server
		}
		end.resetAt = r.IntN(end.size + 1)
		p.client.late, p.server.late = false, false
	}
	return p
}

func randomScript(r *rand.Rand) script {
	sizes := []int{0, 1, 63, 64, 255, 256, 1 << 10, 16 << 10, 64<<10 + 1, 300 << 10, 2 << 20}
	s := script{
		size:     r.IntN(sizes[r.IntN(len(sizes))] + 1),
		chunk:    1 + r.IntN(64<<10),
		readSize: 1 + r.IntN(128<<10),
		late:     r.IntN(4) == 0,
		resetAt:  -1,
	}
	if r.IntN(4) == 0 {
		s.pause = time.Duration(r.IntN(3)) * time.Millisecond
		s.chunk = 1 + max(s.size/16, s.chunk)
	}
	if r.IntN(4) == 0 {
		s.readRest = time.Duration(r.IntN(4)) * time.Millisecond
		s.readSize = max(s.readSize, s.size/32+1)
	}
	return s
}

// stream is the byte stream of one direction of one connection.
func (p plan) stream(fromClient bool) *rand.ChaCha8 {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[0:], p.seed)
	binary.LittleEndian.PutUint64(key[8:], p.number)
	if fromClient {
		key[16] = 1
	}
	return rand.NewChaCha8(key)
}

var crcTable = crc64.MakeTable(crc64.ECMA)

// sumOf is the checksum of the first n bytes of a stream.
func sumOf(stream io.Reader, n int64) uint64 {
	h := crc64.New(crcTable)
	io.CopyN(h, stream, n)
	return h.Sum64()
}

// streamConn is what TCP and UNIX stream connections share.
type streamConn interface {
	net.Conn
	CloseWrite() error
}

// endResult is what one end saw.
type endResult struct {
	received int64
	sum      uint64
	readErr  error // nil: EOF
	writeErr error
}

// run plays one end of a connection. Its reader and its writer are independent, but for a late writer.
func (s script) run(c streamConn, stream io.Reader, r *rand.Rand) endResult {
	var res endResult
	readDone := make(chan struct{})
	rests := rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
	go func() {
		defer close(readDone)
		h := crc64.New(crcTable)
		buf := make([]byte, s.readSize)
		for {
			n, err := c.Read(buf)
			h.Write(buf[:n])
			res.received += int64(n)
			if err != nil {
				if err != io.EOF {
					res.readErr = err
				}
				break
			}
			if s.readRest > 0 {
				time.Sleep(time.Duration(rests.Int64N(int64(s.readRest))))
			}
		}
		res.sum = h.Sum64()
	}()
	if s.late {
		<-readDone
	}
	res.writeErr = s.send(c, stream, r)
	<-readDone
	c.Close()
	return res
}

func (s script) send(c streamConn, stream io.Reader, r *rand.Rand) error {
	left, sent := s.size, 0
	if s.resetAt >= 0 {
		left = s.resetAt
	}
	buf := make([]byte, s.chunk)
	for left > 0 {
		n := min(1+r.IntN(s.chunk), left)
		io.ReadFull(stream, buf[:n])
		m, err := c.Write(buf[:n])
		sent += m
		if err != nil {
			return err
		}
		left -= n
		if s.pause > 0 {
			time.Sleep(time.Duration(r.Int64N(int64(s.pause))))
		}
	}
	if s.resetAt >= 0 {
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		return c.Close()
	}
	return c.CloseWrite()
}

// isReset tells whether an error is what a reset shows its victim.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN)
}

// check compares what the end that received saw with what the other sent. exact: neither end reset.
func (p plan) check(res endResult, fromClient, exact bool, peerReset bool, tcp bool) error {
	other := p.server
	if fromClient {
		other = p.client
	}
	if got, want := res.sum, sumOf(p.stream(fromClient), res.received); got != want {
		return fmt.Errorf("checksum of %d bytes is %x, want %x", res.received, got, want)
	}
	if exact {
		if res.readErr != nil || res.writeErr != nil {
			return fmt.Errorf("read: %v, write: %v, want neither", res.readErr, res.writeErr)
		}
		if res.received != int64(other.size) {
			return fmt.Errorf("%d bytes and EOF, want %d", res.received, other.size)
		}
		return nil
	}
	// A reset shows once, to the reader or to the writer; the other then sees EOF, or a broken pipe.
	if peerReset && tcp && !isReset(res.readErr) && !isReset(res.writeErr) {
		return fmt.Errorf("after a reset by its peer: read %d bytes and %v, wrote and %v, want a reset", res.received, res.readErr, res.writeErr)
	}
	for _, err := range []error{res.readErr, res.writeErr} {
		if err != nil && !isReset(err) && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("read: %v, write: %v", res.readErr, res.writeErr)
		}
	}
	return nil
}

// TestModel drives random conversations through the forwarder and compares both ends with the plan: every byte
// in order, half-closes both ways, a reset stays a reset.
func TestModel(t *testing.T) {
	connections, width := uint64(300), 24
	if testing.Short() {
		connections = 100
	}
	for _, mode := range modes() {
		for _, fam := range families {
			t.Run(mode.name+"/"+fam.name, func(t *testing.T) {
				s := seed(t)
				upstream, opt := fam.listen(t)
				f := startForwarder(t, append(opt, mode.args...)...)
				warm(t, f, upstream)
				relay := f.relays()[0]
				f.settled("open", 0)
				before := f.descriptorsOf(relay)
				// The server speaks first, with the number of the plan, in the order of its accepts.
				servers := make([]endResult, connections)
				clients := make([]endResult, connections)
				numbers := make([]uint64, connections)
				var group sync.WaitGroup
				group.Go(func() {
					for i := range connections {
						c, err := upstream.Accept()
						if err != nil {
							return
						}
						group.Go(func() {
							var b [8]byte
							binary.LittleEndian.PutUint64(b[:], i)
							if _, err := c.Write(b[:]); err != nil {
								servers[i] = endResult{readErr: err}
								return
							}
							p := planOf(s, i)
							servers[i] = p.server.run(c.(streamConn), p.stream(false), rand.New(rand.NewPCG(s, ^i)))
						})
					}
				})
				room := make(chan struct{}, width)
				for i := range connections {
					room <- struct{}{}
					group.Go(func() {
						defer func() { <-room }()
						numbers[i] = ^uint64(0)
						// A reset that comes at once may show in the connect itself.
						conn, err := net.DialTimeout("tcp4", f.addr, 10*time.Second)
						if err != nil {
							clients[i] = endResult{readErr: err}
							return
						}
						c := conn.(*net.TCPConn)
						var b [8]byte
						if _, err := io.ReadFull(c, b[:]); err != nil {
							clients[i] = endResult{readErr: err}
							c.Close()
							return
						}
						n := binary.LittleEndian.Uint64(b[:])
						p := planOf(s, n)
						numbers[i] = n
						clients[i] = p.client.run(c, p.stream(true), rand.New(rand.NewPCG(s, n)))
					})
				}
				group.Wait()
				tcp := fam.name[:2] == "ip"
				for i, n := range numbers {
					if n == ^uint64(0) {
						if !isReset(clients[i].readErr) { // its server reset before the number arrived
							t.Errorf("client %d: %v before its number", i, clients[i].readErr)
						}
						continue
					}
					p := planOf(s, n)
					exact := p.client.resetAt < 0 && p.server.resetAt < 0
					if p.server.resetAt < 0 || !exact && p.client.resetAt < 0 {
						if err := p.check(clients[i], false, exact, p.server.resetAt >= 0, tcp); err != nil {
							t.Errorf("connection %d, client: %v; %+v", n, err, p)
						}
					}
					if p.client.resetAt < 0 || !exact && p.server.resetAt < 0 {
						if err := p.check(servers[n], true, exact, p.client.resetAt >= 0, tcp); err != nil {
							t.Errorf("connection %d, server: %v; %+v", n, err, p)
						}
					}
				}
				c := f.settled("open", 0)
				if c["accepted"] != int(connections)+1 || c["finished"]+c["reset"]+c["refused"] != c["accepted"] {
					t.Errorf("accepted %d of %d, finished %d, reset %d, refused %d", c["accepted"], connections+1, c["finished"], c["reset"], c["refused"])
				}
				if c["pipes"] != c["pipes-idle"] {
					t.Errorf("%d pipes, %d of them idle: one was lost", c["pipes"], c["pipes-idle"])
				}
				if after, pool := f.descriptorsOf(relay), 2*c["pipes"]; after > before+pool {
					t.Errorf("%d descriptors before, %d after: more than the pool's %d came", before, after, pool)
				}
			})
		}
	}
}

// warm sends one connection through, so that the forwarder is known to run.
func warm(t *testing.T, f *forwarder, upstream net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := upstream.Accept(); err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	c := f.dial()
	c.Write([]byte("warm"))
	c.CloseWrite()
	if b, err := io.ReadAll(c); string(b) != "warm" || err != nil {
		t.Fatalf("first connection: %q, %v\n%s", b, err, f.stderr)
	}
	c.Close()
	<-done
}
