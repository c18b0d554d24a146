package policy

import (
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// audits are architectures that a call can come from, linux/audit.h: those of the table, and neighbours.
var audits = []uint32{
	unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM,
	unix.AUDIT_ARCH_ARMEB, unix.AUDIT_ARCH_RISCV64, unix.AUDIT_ARCH_PPC64LE, unix.AUDIT_ARCH_S390X,
	unix.AUDIT_ARCH_MIPS64, unix.AUDIT_ARCH_LOONGARCH64, 0, ^uint32(0),
}

// cases returns the calls that decide about p: for every row its arguments right, and then wrong in each way; all
// numbers with no arguments and with those of every row that has conditions; foreign architectures. Those that tell most come first.
func cases(p *Policy, v Values) []call {
	var cs []call
	add := func(nr, arch uint32, args [6]uint64) { cs = append(cs, call{nr, arch, args}) }
	rights := [][6]uint64{fill(p, ^uint64(0))}

	for i := range p.Rows {
		nr, _ := Number(p.Arch, p.Rows[i].Call)
		for _, args := range right(p, &p.Rows[i], v) {
			add(uint32(nr), p.Arch.Audit, args)
		}
	}
	for _, nr := range allNumbers() {
		add(nr, p.Arch.Audit, [6]uint64{})
	}
	for i := range p.Rows {
		r := &p.Rows[i]
		nr, _ := Number(p.Arch, r.Call)
		mine := right(p, r, v)
		if slices.ContainsFunc(r.Args, func(a Arg) bool { return !a.Free() }) {
			rights = append(rights, mine[0])
		}
		for _, args := range mine {
			for n := range args {
				ws := wrong(p, v, args[n])
				if n >= len(r.Args) || r.Args[n].Free() {
					// Nothing is compared here; that nothing is, a few values show.
					ws = []uint64{0, 1, args[n] + 1, narrow(p, ^uint64(0)), v.value(ListenFD)}
				}
				for _, w := range ws {
					bad := args
					bad[n] = w
					add(uint32(nr), p.Arch.Audit, bad)
				}
			}
			// All fixed arguments wrong but one.
			for n := range args {
				bad := fill(p, ^uint64(0))
				bad[n] = args[n]
				add(uint32(nr), p.Arch.Audit, bad)
			}
		}
	}
	for _, nr := range allNumbers() {
		for _, args := range rights {
			add(nr, p.Arch.Audit, args)
		}
		for _, arch := range audits {
			add(nr, arch, rights[len(rights)-1])
		}
	}
	// A foreign architecture with everything else right, and one bit of the name wrong.
	for i := range p.Rows {
		nr, _ := Number(p.Arch, p.Rows[i].Call)
		for _, arch := range audits {
			add(uint32(nr), arch, right(p, &p.Rows[i], v)[0])
		}
		for bit := range 32 {
			add(uint32(nr), p.Arch.Audit^1<<bit, right(p, &p.Rows[i], v)[0])
			add(uint32(nr)^1<<bit, p.Arch.Audit, right(p, &p.Rows[i], v)[0])
		}
	}
	return cs
}

// allNumbers are the numbers worth asking: every number that a table has or will soon have, arm's private range,
// and the same with bits that the kernel might ignore.
func allNumbers() []uint32 {
	var nrs []uint32
	for nr := range uint32(1024) {
		nrs = append(nrs, nr, x32Bit|nr)
	}
	for nr := range uint32(64) {
		nrs = append(nrs, 0xf0000+nr, x32Bit|0xf0000+nr, 1<<31|nr, 1<<16|nr, -nr-1)
	}
	return nrs
}

// fill returns six arguments of v, as wide as the architecture has them: a 32-bit kernel zero-extends.
func fill(p *Policy, v uint64) [6]uint64 {
	v = narrow(p, v)
	return [6]uint64{v, v, v, v, v, v}
}

func narrow(p *Policy, v uint64) uint64 {
	if p.Arch.Bits == 32 {
		return uint64(uint32(v))
	}
	return v
}

// right returns arguments that r matches, for every combination of alternatives. Free ones hold a pattern.
func right(p *Policy, r *Row, v Values) [][6]uint64 {
	all := [][6]uint64{fill(p, 0x5555555566666666)}
	for i, a := range r.Args {
		want := a.Any
		if a.Sym != constant {
			want = []uint64{v.value(a.Sym)}
		}
		if a.Free() {
			continue
		}
		var next [][6]uint64
		for _, args := range all {
			for _, w := range want {
				args[i] = narrow(p, w)
				next = append(next, args)
				if a.Mask != 0 { // and with every bit set that is not compared
					args[i] = narrow(p, w|^a.Mask)
					next = append(next, args)
				}
			}
		}
		all = next
	}
	return all
}

// wrong returns values that differ from x in each way that a comparison could miss.
func wrong(p *Policy, v Values, x uint64) []uint64 {
	ws := []uint64{x + 1, x - 1, 0, ^uint64(0), ^x, x << 32, x >> 32, x<<32 | x>>32, uint64(uint32(x)), x &^ 0xffffffff,
		uint64(int64(int32(x)))}
	for bit := range p.Arch.Bits {
		ws = append(ws, x^1<<bit)
	}
	for _, s := range Symbols() {
		ws = append(ws, v.value(s), v.value(s)+1, x&^0xffffffff|v.value(s)&0xffffffff, v.value(s)&^0xffffffff|x&0xffffffff)
	}
	for i, w := range ws {
		ws[i] = narrow(p, w)
	}
	slices.Sort(ws)
	return slices.Compact(ws)
}

// agree fails at the first call on which program and tables differ.
func agree(t *testing.T, p *Policy, v Values, cs []call) {
	t.Helper()
	m, rd := newMachine(t, finished(t, p, v)), read(p, v)
	for i := range cs {
		if got, want := m.answer(t, &cs[i]), rd.answer(&cs[i]); got != want {
			t.Fatalf("%s on %s, call %+x: program answers %#x, tables %#x", p.Name, p.Arch.Name, cs[i], uint32(got), uint32(want))
		}
	}
}

func TestTruthTable(t *testing.T) {
	everyPolicy(t, func(t *testing.T, p *Policy) {
		for _, v := range []Values{ordinary(p.Arch, p), collide(p.Arch, p)} {
			cs := cases(p, v)
			agree(t, p, v, cs)
			// The comparison means nothing if every call were answered alike.
			seen := map[Action]int{}
			rd := read(p, v)
			for i := range cs {
				seen[rd.answer(&cs[i])]++
			}
			t.Logf("%d calls: %d allowed, %d killed", len(cs), seen[Allow], seen[KillProcess]+seen[KillThread])
			if seen[Allow] == 0 || seen[KillProcess] == 0 {
				t.Errorf("answers are all alike: %v", seen)
			}
		}
	})
}

// Relocation must give the right program for any values, not for those of the table alone: libseccomp's shape
// is that of the sentinels.
func TestTruthTableRandomValues(t *testing.T) {
	const sets = 60
	rng := rand.New(rand.NewPCG(1, 2))
	everyPolicy(t, func(t *testing.T, p *Policy) {
		for range sets {
			v := random(rng, p)
			var cs []call
			for i := range p.Rows {
				nr, _ := Number(p.Arch, p.Rows[i].Call)
				for _, args := range right(p, &p.Rows[i], v) {
					cs = append(cs, call{uint32(nr), p.Arch.Audit, args})
					for n := range args {
						bad := args
						ws := wrong(p, v, args[n])
						bad[n] = ws[rng.IntN(len(ws))]
						cs = append(cs, call{uint32(nr), p.Arch.Audit, bad})
					}
				}
			}
			agree(t, p, v, cs)
		}
	})
}

// random returns legal values: a few halves that all pointers share, so that they often meet.
func random(rng *rand.Rand, p *Policy) Values {
	his := []uint64{0, 1, 6, 0x7fff, uint64(rng.Uint32())}
	var used []uint64
	ptr := func() uint64 {
		for {
			x := narrow(p, his[rng.IntN(len(his))]<<32|uint64(rng.Uint32()>>rng.IntN(32)))
			if x != 0 && !slices.Contains(used, x) {
				used = append(used, x)
				return x
			}
		}
	}
	linger := ptr()
	for linger&LingerOff != 0 {
		linger = ptr()
	}
	v := Values{ListenFD: rng.IntN(16), AddrPtr: ptr(), AddrLen: addrLen(p), OnePtr: ptr(), LingerPtr: linger,
		ZeroPtr: ptr(), EventPtr: ptr(), EventsPtr: ptr(), PipePtr: ptr(),
		PollPtr: ptr(), TimePtr: ptr(), MaskPtr: ptr(), StatusPtr: ptr(), LinePtr: ptr()}
	v.EpollFD = v.ListenFD + 1 + rng.IntN(1<<20)
	return v
}

// On 386 the socket calls have a second door, whose arguments no filter sees.
func TestSocketcallIsDead(t *testing.T) {
	nr, ok := Number(&i386, "socketcall")
	if !ok {
		t.Fatal("no socketcall on 386")
	}
	for _, p := range Policies(&i386) {
		want := KillThread
		if p.Name == "monitor" {
			want = KillProcess // it makes no socket call, so there is nothing to close
		}
		v := ordinary(&i386, p)
		m := newMachine(t, finished(t, p, v))
		rng := rand.New(rand.NewPCG(3, 4))
		try := func(args [6]uint64) {
			c := call{uint32(nr), i386.Audit, args}
			if got := m.answer(t, &c); got != want {
				t.Fatalf("%s: socketcall %x is answered %#x", p.Name, args, uint32(got))
			}
		}
		// Every sub-call there is and then some, with its block at each address that the policy knows.
		for sub := range uint64(64) {
			for _, s := range Symbols() {
				try([6]uint64{sub, v.value(s)})
			}
		}
		for range 1 << 16 {
			try([6]uint64{uint64(rng.Uint32N(32)), uint64(rng.Uint32()), uint64(rng.Uint32()), uint64(rng.Uint32())})
		}
		// What libseccomp would have made of the rules for the direct calls: their arguments, moved or not.
		for i := range p.Rows {
			for _, args := range right(p, &p.Rows[i], v) {
				try(args)
				for sub := range uint64(32) {
					try([6]uint64{sub, args[0], args[1], args[2], args[3], args[4]})
				}
			}
		}
	}
}

// FuzzTruthTable holds programs and tables against each other on calls that are put together from the values
// that matter, or from nothing but chance.
func FuzzTruthTable(f *testing.F) {
	type subject struct {
		p    *Policy
		v    Values
		m    *machine
		rd   *reading
		nrs  []uint32
		pool []uint64
	}
	var subjects []subject
	for _, a := range Arches {
		for _, p := range Policies(a) {
			v := ordinary(a, p)
			s := subject{p: p, v: v, m: newMachine(f, finished(f, p, v)), rd: read(p, v)}
			for i := range p.Rows {
				nr, _ := Number(a, p.Rows[i].Call)
				s.nrs = append(s.nrs, uint32(nr))
				for _, args := range right(p, &p.Rows[i], v) {
					s.pool = append(s.pool, args[:]...)
				}
			}
			slices.Sort(s.pool)
			s.pool = slices.Compact(s.pool)
			subjects = append(subjects, s)
		}
	}
	for i := range subjects {
		for n := range subjects[i].nrs {
			f.Add(uint8(i), uint32(n), uint8(0), uint64(1), uint64(2), uint64(3), uint64(4), uint64(5), uint64(6))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, nr uint32, raw uint8, a0, a1, a2, a3, a4, a5 uint64) {
		s := &subjects[int(which)%len(subjects)]
		c := call{nr, s.p.Arch.Audit, [6]uint64{a0, a1, a2, a3, a4, a5}}
		// Bits of raw: the number as it is, a foreign architecture; without the lowest, arguments from the pool.
		if raw&2 == 0 {
			c.nr = s.nrs[int(nr)%len(s.nrs)]
		}
		if raw&4 != 0 {
			c.arch = audits[int(nr)%len(audits)]
		}
		for i, x := range c.args {
			if raw&1 == 0 {
				c.args[i] = s.pool[x%uint64(len(s.pool))] + x>>62 // at times one off
			}
			c.args[i] = narrow(s.p, c.args[i])
		}
		if got, want := s.m.answer(t, &c), s.rd.answer(&c); got != want {
			t.Errorf("%s on %s, call %+x: program answers %#x, tables %#x", s.p.Name, s.p.Arch.Name, c, uint32(got), uint32(want))
		}
	})
}
