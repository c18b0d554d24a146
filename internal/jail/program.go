package jail

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"syd/arch"
)

// What the relay does to itself is prepared by the monitor as a list of system calls with all arguments, and the
// relay carries the list out: the part that runs without the Go runtime is the loop in run, and all the rest is
// ordinary Go.

// call is one system call of the list.
type call struct {
	nr       uintptr
	args     [6]uintptr
	want     uintptr // the result that counts as success
	step     uint32  // whose result it decides
	any      bool    // every result counts as success that is not an error
	verify   bool    // it changes nothing: it tells whether the step has an effect
	required bool    // the relay ends if it fails
	word     *uint32 // unless nil, it must be wantWord afterwards
	wantWord uint32
}

// Results has one entry per step, which the relay writes into memory that it shares with the monitor: the low
// byte is one of the constants below, the rest an errno.
type Results [MaxSteps]uint32

// MaxSteps bounds the table of steps.
const MaxSteps = 64

const (
	notReached = iota // the relay did not come to it
	held              // every call did what it should
	refused           // a call failed
	inert             // a call succeeded and has no effect
)

// program is the list for one relay. It lies in an arena of its own with all that the calls point at.
type program struct {
	results *Results
	calls   []call
	half    int // calls before the descriptors are moved
}

// current is the program of the relay that is being forked; nil: none.
var current *program

// First carries out the steps that need the descriptors as the monitor numbered them, Second the rest. Between
// them the relay moves its descriptors and closes all others.
//
//go:nosplit
func First() { current.run(0, current.half) }

//go:nosplit
func Second() { current.run(current.half, len(current.calls)) }

//go:nosplit
func (p *program) run(from, to int) {
	for i := from; i < to; i++ {
		c := &p.calls[i]
		result := &p.results[c.step%MaxSteps]
		if *result > held {
			continue // the step is lost, and it is one that the relay can live without
		}
		r := c.issue()
		switch {
		case c.any && arch.Errno(r) == 0 || r == c.want:
			*result = held
			if c.word == nil || *c.word == c.wantWord {
				continue
			}
			*result = inert
		case c.verify:
			*result = inert | uint32(arch.Errno(r))<<8
		default:
			*result = refused | uint32(arch.Errno(r))<<8
		}
		if c.required {
			arch.Exit(1)
		}
	}
}

//go:nosplit
//go:noinline
func (c *call) issue() uintptr {
	for {
		r := arch.Syscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if arch.Errno(r) != unix.EINTR {
			return r
		}
	}
}

// arenaSize is room for the calls, and for what they point at.
const arenaSize = 256 << 10

// builder writes a program.
type builder struct {
	arena    []byte
	used     int
	calls    []call
	step     StepID // whose calls are appended
	required bool   // whether that is a required step
	relay    *Relay
	prisoner *Prisoner
	err      error
}

// newBuilder maps the arena. Its first page stays empty: see spare.
func newBuilder() (*builder, error) {
	arena, err := unix.Mmap(-1, 0, arenaSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	return &builder{arena: arena, used: unix.Getpagesize()}, nil
}

// spare is a page of the arena that nothing is written to, for calls that try whether memory can be changed.
func (b *builder) spare() uintptr { return uintptr(unsafe.Pointer(&b.arena[0])) }

// room sets size bytes of the arena aside and returns their address.
func (b *builder) room(size uintptr) unsafe.Pointer {
	const align = 16
	at := (b.used + align - 1) &^ (align - 1)
	if at+int(size) > len(b.arena) {
		b.err = errors.New("the list of confinement steps does not fit its arena")
		return unsafe.Pointer(&b.arena[unix.Getpagesize()])
	}
	b.used = at + int(size)
	return unsafe.Pointer(&b.arena[at])
}

// put copies v, at least one, into the arena and returns its place there.
func put[T any](b *builder, v ...T) *T {
	p := (*T)(b.room(unsafe.Sizeof(v[0]) * uintptr(len(v))))
	if b.err == nil {
		copy(unsafe.Slice(p, len(v)), v)
	}
	return p
}

// address is put's place as an argument.
func address[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }

// text is the address of s with a NUL behind it.
func (b *builder) text(s string) uintptr { return address(put(b, append([]byte(s), 0)...)) }

// do appends a call that must not fail.
func (b *builder) do(nr uintptr, args ...uintptr) *call {
	c := call{nr: nr, step: uint32(b.step), any: true, required: b.required}
	copy(c.args[:], args)
	b.calls = append(b.calls, c)
	return &b.calls[len(b.calls)-1]
}

// expect appends a call whose result tells whether the step has an effect.
func (b *builder) expect(want, nr uintptr, args ...uintptr) {
	c := b.do(nr, args...)
	c.any, c.verify, c.want = false, true, want
}

// expectWord appends a call that must not fail and must leave want at word.
func (b *builder) expectWord(word *uint32, want uint32, nr uintptr, args ...uintptr) {
	c := b.do(nr, args...)
	c.verify, c.word, c.wantWord = true, word, want
}

// refusal is the raw result of a call that fails with e.
func refusal(e unix.Errno) uintptr { return -uintptr(e) }

// finish moves the calls into the arena.
func (b *builder) finish(results *Results, half int) (*program, error) {
	p := (*program)(b.room(unsafe.Sizeof(program{})))
	calls := put(b, b.calls...)
	if b.err != nil {
		return nil, b.err
	}
	*p = program{results: results, calls: unsafe.Slice(calls, len(b.calls)), half: half}
	return p, nil
}
