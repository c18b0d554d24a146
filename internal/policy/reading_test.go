package policy

import (
	"encoding/binary"
	"os"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// This file holds the two things that are compared: the tables, read directly, and the finished programs, run in
// an interpreter. They share the tables' types and nothing else.

// call is what a filter sees of a system call: struct seccomp_data, linux/seccomp.h.
type call struct {
	nr   uint32
	arch uint32
	args [6]uint64
}

// x32Bit marks a call of the x32 ABI, arch/x86/include/uapi/asm/unistd.h.
const x32Bit = 0x40000000

// reading answers calls straight from the rows of a policy.
type reading struct {
	p *Policy
	v Values
	// rows by number, so that a test over all numbers does not look at every row each time
	rows map[uint32][]*Row
}

func read(p *Policy, v Values) *reading {
	rd := &reading{p, v, map[uint32][]*Row{}}
	for i := range p.Rows {
		if nr, ok := Number(p.Arch, p.Rows[i].Call); ok {
			rd.rows[uint32(nr)] = append(rd.rows[uint32(nr)], &p.Rows[i])
		}
	}
	return rd
}

func (rd *reading) answer(c *call) Action {
	if c.arch != rd.p.Arch.Audit {
		return KillProcess
	}
	// All ones is no x32 call: a tracer puts it there to skip a call, and the kernel finds nothing to run.
	if rd.p.Arch.Name == "amd64" && c.nr >= x32Bit && c.nr != ^uint32(0) {
		return KillProcess
	}
	for _, r := range rd.rows[c.nr] {
		if rd.matches(r, c) {
			return r.Action()
		}
	}
	return KillProcess
}

func (rd *reading) matches(r *Row, c *call) bool {
	for i, a := range r.Args {
		if !rd.meets(&a, c.args[i]) {
			return false
		}
	}
	return true
}

func (rd *reading) meets(a *Arg, got uint64) bool {
	if a.Free() {
		return true
	}
	mask := a.Mask
	if mask == 0 {
		mask = ^uint64(0)
	}
	if a.Sym != constant {
		return got&mask == rd.v.value(a.Sym)
	}
	for _, want := range a.Any {
		if got&mask == want&mask {
			return true
		}
	}
	return false
}

// machine runs a finished program.
type machine struct {
	vm  *bpf.VM
	buf [64]byte // struct seccomp_data
}

// newMachine takes the program apart for the interpreter. It loads words in network order, seccomp in that of
// the machine: run stores each word in network order, so that a load sees the value.
func newMachine(t testing.TB, insns []unix.SockFilter) *machine {
	t.Helper()
	m, err := tryMachine(insns)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func tryMachine(insns []unix.SockFilter) (*machine, error) {
	var dis []bpf.Instruction
	for _, in := range insns {
		dis = append(dis, bpf.RawInstruction{Op: in.Code, Jt: in.Jt, Jf: in.Jf, K: in.K}.Disassemble())
	}
	vm, err := bpf.NewVM(dis)
	return &machine{vm: vm}, err
}

func (m *machine) answer(t testing.TB, c *call) Action {
	b := m.buf[:]
	binary.BigEndian.PutUint32(b[0:], c.nr)
	binary.BigEndian.PutUint32(b[4:], c.arch)
	for i, a := range c.args {
		binary.BigEndian.PutUint32(b[16+8*i:], uint32(a)) // the low half lies first: little-endian
		binary.BigEndian.PutUint32(b[20+8*i:], uint32(a>>32))
	}
	r, err := m.vm.Run(b)
	if err != nil {
		t.Fatal(err)
	}
	return Action(uint32(r))
}

// ordinary returns values as a relay has them: small descriptors, pages side by side.
func ordinary(a *Arch, p *Policy) Values {
	base := uint64(0x7f3a_1c00_0000)
	if a.Bits == 32 {
		base = 0xf7a0_0000
	}
	return Values{
		ListenFD: 3, EpollFD: 4, AddrPtr: base + 0x1000, AddrLen: addrLen(p),
		OnePtr: base + 0x1080, LingerPtr: base + 0x1084, ZeroPtr: base + 0x108c,
		EventPtr: base + 0x10000, EventsPtr: base + 0x10010, PipePtr: base + 0x20000,
		PollPtr: base + 0x30000, TimePtr: base + 0x30008, MaskPtr: base + 0x30018, StatusPtr: base + 0x30020, LinePtr: base + 0x30024,
	}
}

// collide returns values that equal constants of the tables and each other's halves wherever that is legal.
func collide(a *Arch, p *Policy) Values {
	v := Values{
		ListenFD: 6, EpollFD: 1, AddrPtr: 1, AddrLen: addrLen(p), OnePtr: 4, LingerPtr: 6, ZeroPtr: 13,
		EventPtr: 3, EventsPtr: 256, PipePtr: PipeFlags,
		PollPtr: unix.WNOHANG, TimePtr: SigsetSize, MaskPtr: 2, StatusPtr: 0xffffffff, LinePtr: 3,
	}
	if a.Bits == 64 {
		v.AddrPtr, v.OnePtr, v.LingerPtr, v.EventPtr = 1<<32|1, 4<<32|4, 8<<32, 3<<32|2
		v.PollPtr, v.TimePtr, v.StatusPtr = 1<<32, 8<<32|8, ^uint64(0)
	}
	return v
}

func addrLen(p *Policy) int {
	for _, f := range Families {
		if f.Name == p.Name {
			return (f.MinLen + f.MaxLen) / 2
		}
	}
	return 0
}

// finished returns a program as checked in, relocated.
func finished(t testing.TB, p *Policy, v Values) []unix.SockFilter {
	t.Helper()
	prog, err := Load(os.DirFS("."), p.Arch.Name, p.Name)
	if err != nil {
		t.Fatal(err)
	}
	insns, err := prog.Relocate(v)
	if err != nil {
		t.Fatal(err)
	}
	return insns
}

// everyPolicy runs f for each policy of each architecture: none of it depends on the host's.
func everyPolicy(t *testing.T, f func(t *testing.T, p *Policy)) {
	for _, a := range Arches {
		for _, p := range Policies(a) {
			t.Run(a.Name+"_"+p.Name, func(t *testing.T) { f(t, p) })
		}
	}
}
