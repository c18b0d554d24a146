package main

import (
	"debug/elf"
	"encoding/binary"
	"strings"

	"golang.org/x/arch/riscv64/riscv64asm"
)

var riscv64 = arch{
	name: "riscv64", machine: elf.EM_RISCV,
	decode:   decodeRISCV64,
	literals: func(*function) map[uint64]bool { return nil },
	guarded:  guardedRISCV64, number: register(17), firstArgument: slot(8),
}

const (
	zeroRISCV64   = riscv64asm.X0
	returnRISCV64 = riscv64asm.X1
	stackRISCV64  = riscv64asm.X2
)

// storesRISCV64 write memory alone: their first operand into the second.
var storesRISCV64 = map[riscv64asm.Op]bool{
	riscv64asm.SB: true, riscv64asm.SH: true, riscv64asm.SW: true, riscv64asm.SD: true,
	riscv64asm.FSH: true, riscv64asm.FSW: true, riscv64asm.FSD: true, riscv64asm.FSQ: true,
}

// JAL reaches a megabyte, and the relay's code lies half of that behind the runtime's. Beyond, the linker would lead calls
// through trampolines, functions of its own, which the audit takes for a path out of the relay's code.
func decodeRISCV64(code []byte, pc uint64) (inst, error) {
	if len(code) >= 2 && binary.LittleEndian.Uint16(code) == 0 { // the decoder takes it for another that is illegal, too
		return inst{size: 2, text: "UNIMP", flow: stops}, nil
	}
	x, err := riscv64asm.Decode(code)
	if err != nil {
		return inst{}, err
	}
	i := inst{size: x.Len, text: x.String()}
	first, firstIsRegister := x.Args[0].(riscv64asm.Reg)
	switch x.Op {
	case riscv64asm.JAL:
		i.target = pc + simm(x.Args[1])
		i.flow = jumps
		if first != zeroRISCV64 {
			i.flow, i.forgets = calls, true
		}
	case riscv64asm.JALR:
		to, _ := x.Args[1].(riscv64asm.RegOffset)
		switch {
		case first != zeroRISCV64:
			i.flow, i.forgets = callsSomewhere, true
		case to.OfsReg == returnRISCV64 && to.Ofs.Imm == 0:
			i.flow = returns
		default:
			i.flow = jumpsSomewhere
		}
	case riscv64asm.BEQ, riscv64asm.BNE, riscv64asm.BLT, riscv64asm.BGE, riscv64asm.BLTU, riscv64asm.BGEU:
		i.flow, i.target = branches, pc+simm(x.Args[2])
	case riscv64asm.ECALL:
		i.flow = entersTheKernel
		i.writes = []write{unknown(register(10))}
	case riscv64asm.EBREAK:
		i.flow = stops
	case riscv64asm.FENCE, riscv64asm.FENCE_I:
	case riscv64asm.ADDI, riscv64asm.ADD:
		i.writes = moveRISCV64(x, first)
		i.padding = x.Op == riscv64asm.ADDI && first == zeroRISCV64
	default:
		switch {
		case storesRISCV64[x.Op]:
			i.writes = storeRISCV64(x, first)
		case !firstIsRegister || strings.HasPrefix(x.Op.String(), "V"): // vectors: not asked for what they write
			i.forgets = true
		default:
			i.writes = writtenRISCV64(first)
		}
	}
	return i, nil
}

func simm(a riscv64asm.Arg) uint64 { return uint64(int64(a.(riscv64asm.Simm).Imm)) }

// writtenRISCV64 is what is unknown after an instruction has written r.
func writtenRISCV64(r riscv64asm.Reg) []write {
	switch {
	case r == stackRISCV64: // the offsets mean other slots now
		return []write{allSlots}
	case r == zeroRISCV64 || r > riscv64asm.X31: // keeps nothing; floating point
		return nil
	}
	return []write{unknown(register(int(r)))}
}

// moveRISCV64: there is no instruction that moves, but additions of zero.
func moveRISCV64(x riscv64asm.Inst, to riscv64asm.Reg) []write {
	if to == zeroRISCV64 || to == stackRISCV64 {
		return writtenRISCV64(to)
	}
	a, _ := x.Args[1].(riscv64asm.Reg)
	switch b := x.Args[2].(type) {
	case riscv64asm.Simm:
		switch {
		case a == zeroRISCV64:
			return []write{constant(register(int(to)), uint64(int64(b.Imm)))}
		case b.Imm == 0:
			return []write{copied(register(int(to)), register(int(a)))}
		}
	case riscv64asm.Reg:
		if a == zeroRISCV64 && b != zeroRISCV64 {
			return []write{copied(register(int(to)), register(int(b)))}
		}
	}
	return writtenRISCV64(to)
}

func storeRISCV64(x riscv64asm.Inst, from riscv64asm.Reg) []write {
	to, ok := x.Args[1].(riscv64asm.RegOffset)
	switch {
	case !ok:
		return []write{allSlots}
	case to.OfsReg != stackRISCV64:
		return nil
	case x.Op != riscv64asm.SD:
		return []write{unknown(slot(int64(to.Ofs.Imm)))}
	case from == zeroRISCV64:
		return []write{constant(slot(int64(to.Ofs.Imm)), 0)}
	}
	w := copied(slot(int64(to.Ofs.Imm)), register(int(from)))
	w.size = 8
	return []write{w}
}

// guardedRISCV64 looks at every instruction: its first two bits tell whether it is one of two bytes or of four.
func guardedRISCV64(_ *image, f *function) []guardedAt {
	var found []guardedAt
	for off := 0; off+4 <= len(f.code); {
		if f.code[off]&3 != 3 {
			off += 2
			continue
		}
		if kind := guardRISCV64(f.word(off)); kind != "" {
			found = append(found, guardedAt{f.addr + uint64(off), kind})
		}
		off += 4
	}
	return found
}

// guardRISCV64 names what only listed functions may hold: calls into the kernel, and what has to do with the counters,
// the control and status registers from 0xc00 and 0xc80 on (cycle, time, instret, hpmcounter3 to 31).
func guardRISCV64(w uint32) string {
	const system = 0x73
	csr, operation := w>>20, w>>12&3
	switch {
	case w&0x7f != system:
		return ""
	case w>>7 == 0:
		return "ECALL"
	case operation != 0 && (csr&^0x1f == 0xc00 || csr&^0x1f == 0xc80):
		return "CSR counter"
	}
	return ""
}
