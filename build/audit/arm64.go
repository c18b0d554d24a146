package main

import (
	"debug/elf"
	"encoding/binary"
	"strings"

	"golang.org/x/arch/arm64/arm64asm"
)

var arm64 = arch{
	name: "arm64", machine: elf.EM_AARCH64,
	decode: decodeARM64, literals: literalsARM64, guarded: guardedARM64,
	number: register(8), firstArgument: slot(8),
}

// readsARM64 write no register.
var readsARM64 = map[arm64asm.Op]bool{
	arm64asm.CMP: true, arm64asm.CMN: true, arm64asm.TST: true, arm64asm.NOP: true, arm64asm.DMB: true,
}

func decodeARM64(code []byte, pc uint64) (inst, error) {
	if len(code) >= 4 && binary.LittleEndian.Uint32(code) == 0 { // after the last instruction; the decoder lacks it
		return inst{size: 4, text: "UDF #0", flow: stops}, nil
	}
	x, err := arm64asm.Decode(code)
	if err != nil {
		return inst{}, err
	}
	i := inst{size: 4, text: x.String(), padding: x.Op == arm64asm.NOP}
	word := binary.LittleEndian.Uint32(code)
	for _, a := range x.Args {
		if rel, ok := a.(arm64asm.PCRel); ok {
			i.target = pc + uint64(int64(rel))
		}
	}
	switch x.Op {
	case arm64asm.B:
		i.flow = jumps
		if _, conditional := x.Args[0].(arm64asm.Cond); conditional {
			i.flow = branches
		}
	case arm64asm.CBZ, arm64asm.CBNZ, arm64asm.TBZ, arm64asm.TBNZ:
		i.flow = branches
	case arm64asm.BL:
		i.flow, i.forgets = calls, true
	case arm64asm.BLR:
		i.flow, i.forgets = callsSomewhere, true
	case arm64asm.BR:
		i.flow = jumpsSomewhere
	case arm64asm.RET, arm64asm.ERET:
		i.flow = returns
	case arm64asm.BRK, arm64asm.HLT:
		i.flow = stops
	case arm64asm.SVC:
		i.flow = entersTheKernel
		i.writes = []write{unknown(register(0))}
	case arm64asm.MOV:
		i.writes = moveARM64(x.Args[0], x.Args[1])
	case arm64asm.ORR:
		if x.Args[1] == arm64asm.Arg(arm64asm.XZR) || x.Args[1] == arm64asm.Arg(arm64asm.WZR) { // another way to write MOV
			i.writes = moveARM64(x.Args[0], x.Args[2])
			break
		}
		i.writes, i.forgets = writesARM64(x, word)
	default:
		i.writes, i.forgets = writesARM64(x, word)
	}
	return i, nil
}

func moveARM64(dst, src arm64asm.Arg) []write {
	to, ok := registerARM64(dst)
	if !ok {
		return []write{allSlots} // into the stack pointer
	}
	switch v := src.(type) {
	case arm64asm.Imm64:
		return []write{constant(to, v.Imm)}
	case arm64asm.Imm:
		return []write{constant(to, uint64(v.Imm))}
	}
	if from, ok := registerARM64(src); ok {
		return []write{copied(to, from)}
	}
	return []write{unknown(to)}
}

// zeroARM64 is the number of the zero register, and of the stack pointer where that is meant.
const zeroARM64 = 31

// writesARM64 is what an instruction without a part in the flow writes. Stores are read from their encoding
// (Arm Architecture Reference Manual, C4.1, "Loads and Stores"): the decoder keeps offsets to itself. Of any other
// instruction each register that it names may be written.
func writesARM64(x arm64asm.Inst, word uint32) ([]write, bool) {
	t, t2, base := int(word&31), int(word>>10&31), int(word>>5&31)
	store := strings.HasPrefix(x.Op.String(), "ST")
	switch {
	case readsARM64[x.Op]:
		return nil, false
	case store && base == zeroARM64 && word&0xffc00000 == 0xf9000000: // STR Xt, [SP, #imm]
		offset := int64(word>>10&0xfff) * 8
		return []write{copied(slot(offset), register(t))}, false
	case store && base == zeroARM64 && word&0xffc00000 == 0xa9000000: // STP Xt, Xt2, [SP, #imm]
		offset := int64(int32(word<<10)>>25) * 8
		return []write{copied(slot(offset), register(t)), copied(slot(offset+8), register(t2))}, false
	case store && base == zeroARM64:
		return []write{allSlots}, false
	case store:
		if strings.Contains(x.Op.String(), "X") { // exclusive: writes a status
			return nil, true
		}
		return nil, false
	}
	var list []write
	for _, a := range x.Args {
		if r, ok := registerARM64(a); ok {
			list = append(list, unknown(r))
			continue
		}
		switch a := a.(type) {
		case arm64asm.RegSP:
			if a == arm64asm.RegSP(arm64asm.SP) || a == arm64asm.RegSP(arm64asm.WSP) {
				list = append(list, allSlots)
			} else {
				return nil, true
			}
		case arm64asm.MemImmediate:
			if a.Mode != arm64asm.AddrOffset {
				return nil, true
			}
		}
	}
	return list, false
}

func registerARM64(a arm64asm.Arg) (place, bool) {
	r, ok := a.(arm64asm.Reg)
	if sp, isSP := a.(arm64asm.RegSP); isSP {
		r, ok = arm64asm.Reg(sp), true
		if r == arm64asm.SP || r == arm64asm.WSP {
			return place{}, false
		}
	}
	switch {
	case ok && r >= arm64asm.X0 && r <= arm64asm.XZR:
		return register(int(r - arm64asm.X0)), true
	case ok && r >= arm64asm.W0 && r <= arm64asm.WZR:
		return register(int(r - arm64asm.W0)), true
	}
	return place{}, false
}

// literalsARM64 finds the words that LDR (literal) of the function itself reads.
func literalsARM64(f *function) map[uint64]bool {
	data := map[uint64]bool{}
	for off := 0; off+4 <= len(f.code); off += 4 {
		w := f.word(off)
		pc := f.addr + uint64(off)
		if data[pc] || w&0x3b000000 != 0x18000000 {
			continue
		}
		at := pc + uint64(int64(int32(w<<8)>>13)*4)
		words := map[uint32]int{0: 1, 1: 2, 2: 1, 3: 0}[w>>30]
		if w>>26&1 == 1 { // vector: 4, 8 or 16 bytes
			words = 1 << (w >> 30)
		}
		for i := range words {
			data[at+uint64(i)*4] = true
		}
	}
	return data
}

// guardedARM64 looks at every word that is no literal; each instruction is one word.
func guardedARM64(_ *image, f *function) []guardedAt {
	var found []guardedAt
	for off := 0; off+4 <= len(f.code); off += 4 {
		pc := f.addr + uint64(off)
		if f.data[pc] {
			continue
		}
		if kind := guardARM64(f.word(off)); kind != "" {
			found = append(found, guardedAt{pc, kind})
		}
	}
	return found
}

// guardARM64 names what only listed functions may hold: calls into the kernel and higher, and MRS and MRRS of the
// timers (CRn 14) and of the performance counters (CRn 9), from user space (op1 3).
func guardARM64(w uint32) string {
	switch {
	case w&0xffe0001f == 0xd4000001:
		return "SVC"
	case w&0xffe0001f == 0xd4000002 || w&0xffe0001f == 0xd4000003:
		return "HVC or SMC"
	case w&0xfffff000 == 0xd53be000:
		return "MRS CNT"
	case w&0xfffff000 == 0xd53b9000:
		return "MRS PM"
	}
	return ""
}
