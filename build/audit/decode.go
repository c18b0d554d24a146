package main

import "debug/elf"

// arch is how one architecture's code is read. A new one is a row here and a file with its decoder.
type arch struct {
	name    string // GOARCH
	machine elf.Machine
	padding byte // what the linker puts between functions, besides zeros

	// decode reads the instruction at pc, the first of code.
	decode func(code []byte, pc uint64) (inst, error)
	// literals finds the constants among a function's code.
	literals func(f *function) map[uint64]bool
	// guarded finds every instruction of the kinds that are listed, also where decode knows no instruction.
	guarded func(m *image, f *function) []guardedAt
	// number is where a system call's number is when the kernel is entered.
	number place
	// firstArgument is where a caller puts the first argument of an assembly function.
	firstArgument place
}

var arches = []*arch{&amd64, &i386, &arm64, &arm, &riscv64}

// guardedAt is an instruction that only listed functions may hold.
type guardedAt struct {
	pc   uint64
	kind string // SYSCALL, RDTSC, …
}

// flow is what an instruction does to the order of execution.
type flow uint8

const (
	goesOn   flow = iota
	branches      // to target, or goes on
	jumps         // to target
	calls         // target, and goes on
	returns
	stops           // ends the process
	callsSomewhere  // to an address that is computed
	jumpsSomewhere  // the same
	entersTheKernel // and goes on
)

// inst is one instruction, as far as the audit looks at it.
type inst struct {
	pc     uint64
	size   int
	flow   flow
	target uint64
	// conditional: may also go on, whatever flow says
	conditional bool
	padding     bool // does nothing
	text        string

	forgets bool    // any register and stack slot may have changed
	writes  []write // otherwise these have
}

// place is a register, or a word at an offset from the stack pointer.
type place struct {
	slot bool
	at   int64
}

func register(n int) place    { return place{false, int64(n)} }
func slot(offset int64) place { return place{true, offset} }

// write is what becomes of a place: a constant, a copy of another place, or something unknown.
type write struct {
	to    place
	from  *place
	value *uint64
	size  int64 // of a slot that becomes unknown, in bytes; -1: all slots
}

func constant(to place, v uint64) write { return write{to: to, value: &v} }
func copied(to, from place) write       { return write{to: to, from: &from} }
func unknown(to place) write            { return write{to: to, size: 8} }

var allSlots = write{to: place{slot: true}, size: -1}
