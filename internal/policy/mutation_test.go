package policy

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// A test of a policy is worth what it notices. Here each part of the tables, and each instruction of the
// programs, is changed in turn, and the comparison of truth_test.go must see it every time.

// recorded holds the cases of a policy with what the finished program answers.
type recorded struct {
	p    *Policy
	v    Values
	cs   []call
	got  []Action
	byNr map[uint32][]int
}

func record(t *testing.T, p *Policy) *recorded {
	rc := &recorded{p: p, v: ordinary(p.Arch, p), byNr: map[uint32][]int{}}
	rc.cs = cases(p, rc.v)
	m := newMachine(t, finished(t, p, rc.v))
	for i := range rc.cs {
		rc.got = append(rc.got, m.answer(t, &rc.cs[i]))
		rc.byNr[rc.cs[i].nr] = append(rc.byNr[rc.cs[i].nr], i)
	}
	return rc
}

// notices tells whether tables with these rows differ from the program on a call of that name.
func (rc *recorded) notices(name string, rows []Row) bool {
	p := *rc.p
	p.Rows = rows
	rd := read(&p, rc.v)
	nr, _ := Number(p.Arch, name)
	return slices.ContainsFunc(rc.byNr[uint32(nr)], func(i int) bool { return rd.answer(&rc.cs[i]) != rc.got[i] })
}

// with returns the rows with change applied to a copy of row i.
func with(rows []Row, i int, change func(*Row)) []Row {
	rows = slices.Clone(rows)
	rows[i].Args = slices.Clone(rows[i].Args)
	change(&rows[i])
	return rows
}

func TestChangedTableIsNoticed(t *testing.T) {
	everyPolicy(t, func(t *testing.T, p *Policy) {
		rc := record(t, p)
		mutants := 0
		check := func(call, what string, rows []Row) {
			mutants++
			if !rc.notices(call, rows) {
				t.Errorf("%s: not noticed: %s", call, what)
			}
		}
		for i, r := range p.Rows {
			check(r.Call, fmt.Sprintf("row %d left out", i), slices.Delete(slices.Clone(p.Rows), i, i+1))
			check(r.Call, fmt.Sprintf("row %d with the other action", i), with(p.Rows, i, func(r *Row) { r.Dead = !r.Dead }))
			for n, a := range r.Args {
				if a.Free() {
					check(r.Call, a.Name+" fixed", with(p.Rows, i, func(r *Row) { r.Args[n] = is(a.Name, 7) }))
					continue
				}
				check(r.Call, a.Name+" free", with(p.Rows, i, func(r *Row) { r.Args[n] = free(a.Name) }))
				bit := a.Mask & -a.Mask // one that is compared
				if a.Mask == 0 {
					bit = 1
				}
				for alt := range a.Any {
					check(r.Call, a.Name+" without an alternative", with(p.Rows, i, func(r *Row) {
						r.Args[n].Any = slices.Delete(slices.Clone(a.Any), alt, alt+1)
						if len(a.Any) == 1 {
							r.Args[n].Any = []uint64{a.Any[0] ^ bit} // with none at all it would be free
						}
					}))
				}
				if len(a.Any) > 0 {
					more := uint64(0)
					if slices.Contains(a.Any, more) {
						more = bit
					}
					check(r.Call, a.Name+" with one more alternative", with(p.Rows, i, func(r *Row) {
						r.Args[n].Any = append(slices.Clone(a.Any), more)
					}))
				}
				if a.Mask == 0 {
					for _, mask := range []uint64{0xffffffff, 0xffffffff00000000, ^uint64(1)} {
						if p.Arch.Bits == 32 && mask == 0xffffffff {
							continue // which is every bit there is
						}
						check(r.Call, fmt.Sprintf("%s compared under %#x", a.Name, mask), with(p.Rows, i, func(r *Row) {
							if a.Sym != constant {
								r.Args[n] = is(a.Name, rc.v.value(a.Sym))
							}
							r.Args[n].Mask = mask
						}))
					}
				}
				if a.Sym != constant {
					other := PipePtr
					if a.Sym == PipePtr {
						other = EventPtr
					}
					check(r.Call, a.Name+" at another symbol", with(p.Rows, i, func(r *Row) { r.Args[n].Sym = other }))
				}
			}
		}
		for _, name := range Calls() {
			nr, ok := Number(p.Arch, name)
			unconditional := slices.ContainsFunc(p.Rows, func(r Row) bool {
				return r.Call == name && !r.Dead && !slices.ContainsFunc(r.Args, func(a Arg) bool { return !a.Free() })
			})
			if !ok || nr >= 1024 || unconditional {
				continue
			}
			rows := []Row{{Call: name}}
			check(name, "row added", append(rows, p.Rows...))
		}
		t.Logf("%d changes noticed", mutants)
	})
}

func TestChangedProgramIsNoticed(t *testing.T) {
	everyPolicy(t, func(t *testing.T, p *Policy) {
		t.Parallel()
		rc := record(t, p)
		insns := finished(t, p, rc.v)
		mutants := 0
		for i, in := range insns {
			for _, mutant := range mutations(in) {
				if same(p, insns, i, mutant) {
					continue
				}
				changed := slices.Clone(insns)
				changed[i] = mutant
				m, err := tryMachine(changed)
				if err != nil {
					continue // a jump out of the program: the kernel refuses it too
				}
				mutants++
				if !rc.sees(t, m) {
					t.Errorf("instruction %d: %+v instead of %+v: not noticed", i, mutant, in)
				}
			}
		}
		t.Logf("%d changes of %d instructions noticed", mutants, len(insns))
	})
}

// same tells whether a mutant of instruction i answers every call as the program does, so that nothing could see it.
func same(p *Policy, insns []unix.SockFilter, i int, mutant unix.SockFilter) bool {
	in := insns[i]
	const and = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	// Where 32 of 64 bits are compared, libseccomp loads the others, masks them all away and compares with zero:
	// what was loaded does not matter, and the comparison never fails.
	if i+1 < len(insns) && insns[i+1].Code == and && insns[i+1].K == 0 {
		return true
	}
	if i > 0 && insns[i-1].Code == and && insns[i-1].K == 0 {
		return mutant.K == in.K && mutant.Jt == in.Jt
	}
	// The test for x32 is the first of the number. A number with that bit is in no row, so the default
	// kills it as well.
	return p.Arch.Name == "amd64" && (i == 3 && in.K == x32Bit && mutant.Jf == in.Jf || i == 4 && in.K == ^uint32(0))
}

// sees tells whether m answers a recorded call differently.
func (rc *recorded) sees(t *testing.T, m *machine) bool {
	for i := range rc.cs {
		if m.answer(t, &rc.cs[i]) != rc.got[i] {
			return true
		}
	}
	return false
}

// mutations returns in with something else in each of its parts.
func mutations(in unix.SockFilter) []unix.SockFilter {
	change := func(f func(*unix.SockFilter)) unix.SockFilter { m := in; f(&m); return m }
	if in.Code == unix.BPF_RET|unix.BPF_K {
		var ms []unix.SockFilter
		for _, a := range []Action{Allow, KillProcess, KillThread, Action(unix.SECCOMP_RET_LOG), Action(unix.SECCOMP_RET_ERRNO)} {
			if uint32(a) != in.K {
				ms = append(ms, change(func(m *unix.SockFilter) { m.K = uint32(a) }))
			}
		}
		return ms
	}
	ms := []unix.SockFilter{change(func(m *unix.SockFilter) { m.K ^= 1 << 16 }), change(func(m *unix.SockFilter) { m.K ^= 4 })}
	if in.Code == jumpIfEqual {
		ms = append(ms, change(func(m *unix.SockFilter) { m.K++ }), change(func(m *unix.SockFilter) { m.K-- }))
	}
	if in.Jt != in.Jf {
		ms = append(ms, change(func(m *unix.SockFilter) { m.Jt, m.Jf = m.Jf, m.Jt }),
			change(func(m *unix.SockFilter) { m.Jf = m.Jt }), change(func(m *unix.SockFilter) { m.Jt = m.Jf }))
	}
	return ms
}
