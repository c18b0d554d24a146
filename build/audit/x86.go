package main

import (
	"bytes"
	"debug/elf"
	"slices"

	"golang.org/x/arch/x86/x86asm"
)

var amd64 = arch{
	name: "amd64", machine: elf.EM_X86_64, padding: 0xcc,
	decode:   func(code []byte, pc uint64) (inst, error) { return decodeX86(code, pc, 64) },
	literals: func(*function) map[uint64]bool { return nil },
	guarded:  guardedX86, number: register(0), firstArgument: slot(0),
}

var i386 = arch{
	name: "386", machine: elf.EM_386, padding: 0xcc,
	decode:   func(code []byte, pc uint64) (inst, error) { return decodeX86(code, pc, 32) },
	literals: func(*function) map[uint64]bool { return nil },
	guarded:  guardedX86, number: register(0), firstArgument: slot(0),
}

// conditionalX86 are the jumps that may not be taken.
var conditionalX86 = []x86asm.Op{
	x86asm.JA, x86asm.JAE, x86asm.JB, x86asm.JBE, x86asm.JCXZ, x86asm.JE, x86asm.JECXZ, x86asm.JG, x86asm.JGE, x86asm.JL,
	x86asm.JLE, x86asm.JNE, x86asm.JNO, x86asm.JNP, x86asm.JNS, x86asm.JO, x86asm.JP, x86asm.JRCXZ, x86asm.JS,
	x86asm.LOOP, x86asm.LOOPE, x86asm.LOOPNE,
}

// readsX86 write no register and no memory; writesX86 write their first operand alone. After any other instruction
// nothing is known.
var (
	readsX86  = []x86asm.Op{x86asm.CMP, x86asm.TEST, x86asm.NOP, x86asm.BT}
	writesX86 = []x86asm.Op{
		x86asm.LEA, x86asm.ADD, x86asm.SUB, x86asm.XOR, x86asm.AND, x86asm.OR, x86asm.NEG, x86asm.NOT, x86asm.INC, x86asm.DEC,
		x86asm.MOVSXD, x86asm.MOVSX, x86asm.MOVZX, x86asm.SHL, x86asm.SHR, x86asm.SAR, x86asm.ADC, x86asm.SBB,
		x86asm.MOVUPS, x86asm.MOVUPD, x86asm.MOVAPS, x86asm.XORPS, x86asm.SETE, x86asm.SETNE, x86asm.SETA, x86asm.SETAE, x86asm.SETB,
		x86asm.SETBE, x86asm.SETG, x86asm.SETGE, x86asm.SETL, x86asm.SETLE, x86asm.CMOVE, x86asm.CMOVNE, x86asm.CMOVA,
		x86asm.CMOVAE, x86asm.CMOVB, x86asm.CMOVBE, x86asm.CMOVG, x86asm.CMOVGE, x86asm.CMOVL, x86asm.CMOVLE,
	}
)

func decodeX86(code []byte, pc uint64, mode int) (inst, error) {
	x, err := x86asm.Decode(code, mode)
	if err != nil {
		return inst{}, err
	}
	i := inst{size: x.Len, text: x.String(), padding: x.Op == x86asm.NOP}
	rel, direct := x.Args[0].(x86asm.Rel)
	i.target = pc + uint64(x.Len) + uint64(int64(rel))
	if mode == 32 {
		i.target &= 0xffffffff
	}
	switch {
	case slices.Contains(conditionalX86, x.Op):
		i.flow = branches
	case x.Op == x86asm.JMP && direct:
		i.flow = jumps
	case x.Op == x86asm.JMP || x.Op == x86asm.LJMP:
		i.flow = jumpsSomewhere
	case x.Op == x86asm.CALL && direct:
		i.flow, i.forgets = calls, true
	case x.Op == x86asm.CALL || x.Op == x86asm.LCALL:
		i.flow, i.forgets = callsSomewhere, true
	case x.Op == x86asm.RET || x.Op == x86asm.LRET || x.Op == x86asm.IRET || x.Op == x86asm.IRETD || x.Op == x86asm.IRETQ:
		i.flow = returns
	case x.Op == x86asm.UD2 || x.Op == x86asm.HLT || x.Op == x86asm.INT && x.Args[0] == x86asm.Imm(3):
		i.flow = stops
	case x.Op == x86asm.SYSCALL:
		i.flow = entersTheKernel
		i.writes = []write{unknown(register(0)), unknown(register(1)), unknown(register(11))}
	case x.Op == x86asm.INT || x.Op == x86asm.SYSENTER:
		i.flow = entersTheKernel
		i.writes = []write{unknown(register(0))}
	case slices.Contains(readsX86, x.Op):
	case x.Op == x86asm.MOV:
		i.writes = moveX86(x)
	case x.Op == x86asm.XOR && x.Args[0] == x.Args[1]:
		to, known := placeX86(x.Args[0])
		if !known {
			i.forgets = true
			break
		}
		i.writes = []write{constant(to, 0)}
	case slices.Contains(writesX86, x.Op):
		i.writes = overwrittenX86(x)
	default:
		i.forgets = true
	}
	return i, nil
}

func moveX86(x x86asm.Inst) []write {
	to, known := placeX86(x.Args[0])
	whole := x.DataSize >= 32
	if !known || !whole {
		return overwrittenX86(x)
	}
	if v, ok := x.Args[1].(x86asm.Imm); ok {
		return []write{constant(to, uint64(v))}
	}
	if from, ok := placeX86(x.Args[1]); ok {
		return []write{copied(to, from)}
	}
	return overwrittenX86(x)
}

// overwrittenX86 is what is unknown after x has written its first operand.
func overwrittenX86(x x86asm.Inst) []write {
	to, known := placeX86(x.Args[0])
	if memory, ok := x.Args[0].(x86asm.Mem); ok {
		if !known { // through a pointer: code without assembly does not point into its own outgoing arguments
			if memory.Base == x86asm.RSP || memory.Base == x86asm.ESP {
				return []write{allSlots}
			}
			return nil
		}
		return []write{{to: to, size: int64(max(x.MemBytes, 8))}}
	}
	if !known {
		return nil // a vector register
	}
	if to == register(4) { // the stack pointer: the offsets mean other slots now
		return []write{allSlots}
	}
	return []write{unknown(to)}
}

// placeX86 tells which register, whole or in part, or which slot an operand is.
func placeX86(arg x86asm.Arg) (place, bool) {
	switch a := arg.(type) {
	case x86asm.Reg:
		switch {
		case a >= x86asm.RAX && a <= x86asm.R15:
			return register(int(a - x86asm.RAX)), true
		case a >= x86asm.EAX && a <= x86asm.R15L:
			return register(int(a - x86asm.EAX)), true
		case a >= x86asm.AX && a <= x86asm.R15W:
			return register(int(a - x86asm.AX)), true
		case a >= x86asm.AL && a <= x86asm.BL:
			return register(int(a - x86asm.AL)), true
		case a >= x86asm.AH && a <= x86asm.BH:
			return register(int(a - x86asm.AH)), true
		case a >= x86asm.SPB && a <= x86asm.R15B:
			return register(int(a-x86asm.SPB) + 4), true
		}
	case x86asm.Mem:
		if (a.Base == x86asm.RSP || a.Base == x86asm.ESP) && a.Index == 0 && a.Segment == 0 {
			return slot(a.Disp), true
		}
	}
	return place{}, false
}

// guardsX86 are the encodings of what only listed functions may hold.
var guardsX86 = []struct {
	kind  string
	op    x86asm.Op
	bytes []byte
}{
	{"SYSCALL", x86asm.SYSCALL, []byte{0x0f, 0x05}},
	{"SYSENTER", x86asm.SYSENTER, []byte{0x0f, 0x34}},
	{"INT 0x80", x86asm.INT, []byte{0xcd, 0x80}},
	{"RDTSC", x86asm.RDTSC, []byte{0x0f, 0x31}},
	{"RDTSCP", x86asm.RDTSCP, []byte{0x0f, 0x01, 0xf9}},
	{"RDPMC", x86asm.RDPMC, []byte{0x0f, 0x33}},
}

// guardedX86 decodes the function. From an instruction on that the decoder does not know (vector extensions), any byte
// may begin one, so there the bytes themselves count, wherever they lie.
func guardedX86(m *image, f *function) []guardedAt {
	var found []guardedAt
	mode := 64
	if m.arch.machine == elf.EM_386 {
		mode = 32
	}
	list, err := m.body(f)
	end := f.addr
	for _, i := range list {
		end = i.pc + uint64(i.size)
		code := f.code[i.pc-f.addr:][:i.size]
		for _, g := range guardsX86 {
			if !bytes.HasSuffix(code, g.bytes) {
				continue
			}
			// They may be the bytes of an operand.
			if x, err := x86asm.Decode(code, mode); err == nil && x.Op == g.op {
				found = append(found, guardedAt{i.pc, g.kind})
			}
		}
	}
	if err == nil {
		return found
	}
	rest := f.code[end-f.addr:]
	for off := range rest {
		for _, g := range guardsX86 {
			if bytes.HasPrefix(rest[off:], g.bytes) {
				found = append(found, guardedAt{end + uint64(off), g.kind})
			}
		}
	}
	return found
}
