package main

import (
	"debug/elf"
	"encoding/binary"
	"strings"

	"golang.org/x/arch/arm/armasm"
)

var arm = arch{
	name: "arm", machine: elf.EM_ARM,
	decode: decodeARM, literals: literalsARM, guarded: guardedARM,
	number: register(7), firstArgument: slot(4),
}

// readsARM write no register; storesARM write memory alone.
var (
	readsARM  = map[string]bool{"CMP": true, "CMN": true, "TST": true, "TEQ": true, "NOP": true, "DMB": true}
	storesARM = map[string]bool{"STR": true, "STRB": true, "STRH": true}
)

const always = 0xe // condition field of an instruction that does not depend on the flags

func decodeARM(code []byte, pc uint64) (inst, error) {
	x, err := armasm.Decode(code, armasm.ModeARM)
	if err != nil {
		return inst{}, err
	}
	word := binary.LittleEndian.Uint32(code)
	// Zeros, which the assembler pads with, do nothing: ANDEQ R0, R0, R0.
	i := inst{size: 4, text: x.String(), conditional: word>>28 < always, padding: word == 0}
	if rel, ok := x.Args[0].(armasm.PCRel); ok {
		i.target = uint64(uint32(pc) + 8 + uint32(rel))
	}
	op, _, _ := strings.Cut(x.Op.String(), ".")
	first, _ := x.Args[0].(armasm.Reg)
	_, firstIsRegister := x.Args[0].(armasm.Reg)
	memory, hasMemory := memoryARM(x)
	switch {
	case op == "B":
		i.flow = jumps
		if i.conditional {
			i.flow = branches
		}
	case op == "BL":
		i.flow, i.forgets = calls, true
	case op == "BLX":
		i.flow, i.forgets = callsSomewhere, true
	case op == "BX":
		i.flow = jumpsSomewhere
		if first == armasm.LR {
			i.flow = returns
		}
	case op == "SVC":
		i.flow = entersTheKernel
		i.writes = []write{unknown(register(0))}
	case op == "BKPT" || op == "UDF" || op == "UNDEF":
		i.flow = stops
	case op == "LDR" && first == armasm.PC && memory.Base == armasm.SP && memory.Mode == armasm.AddrPostIndex:
		i.flow = returns
	case op == "ADD" && first == armasm.PC && x.Args[1] == armasm.Arg(armasm.LR) && x.Args[2] == armasm.Arg(armasm.Imm(0)):
		i.flow = returns // as Go's assembler writes it
	case op == "POP" || op == "PUSH" || op == "LDM" || op == "STM":
		i.forgets = true
		if list, ok := x.Args[len(x.Args)-1].(armasm.RegList); ok && list>>15 == 1 {
			i.flow = jumpsSomewhere
			if op == "POP" {
				i.flow = returns
			}
		}
	case firstIsRegister && first == armasm.PC && !readsARM[op] && !storesARM[op]:
		i.flow = jumpsSomewhere
		if source, ok := x.Args[1].(armasm.Reg); ok && op == "MOV" && source == armasm.LR {
			i.flow = returns
		}
	case readsARM[op]:
	case storesARM[op]:
		i.writes = storeARM(op, first, memory, hasMemory)
	case op == "MOV" || op == "MOVW":
		i.writes = moveARM(x, first, i.conditional)
	default:
		i.writes, i.forgets = writesARM(x, memory, hasMemory)
	}
	return i, nil
}

func memoryARM(x armasm.Inst) (armasm.Mem, bool) {
	for _, a := range x.Args {
		if m, ok := a.(armasm.Mem); ok {
			return m, true
		}
	}
	return armasm.Mem{}, false
}

func storeARM(op string, from armasm.Reg, m armasm.Mem, ok bool) []write {
	switch {
	case !ok || m.Base != armasm.SP:
		if m.Mode != armasm.AddrOffset {
			return []write{unknown(register(int(m.Base)))}
		}
		return nil
	case m.Mode == armasm.AddrOffset && m.Sign == 0 && op == "STR":
		return []write{copied(slot(int64(m.Offset)), register(int(from)))}
	}
	return []write{allSlots}
}

func moveARM(x armasm.Inst, to armasm.Reg, conditional bool) []write {
	if to == armasm.SP {
		return []write{allSlots}
	}
	r := register(int(to))
	if conditional {
		return []write{unknown(r)}
	}
	switch v := x.Args[1].(type) {
	case armasm.Imm:
		return []write{constant(r, uint64(v))}
	case armasm.ImmAlt:
		return []write{constant(r, uint64(v.Imm()))}
	case armasm.Reg:
		return []write{copied(r, register(int(v)))}
	}
	return []write{unknown(r)}
}

// writesARM: each register that an instruction names may be written.
func writesARM(x armasm.Inst, m armasm.Mem, hasMemory bool) ([]write, bool) {
	if hasMemory && m.Mode != armasm.AddrOffset {
		return nil, true
	}
	var list []write
	for _, a := range x.Args {
		switch a := a.(type) {
		case armasm.Reg:
			if a == armasm.SP {
				list = append(list, allSlots)
			}
			list = append(list, unknown(register(int(a))))
		case armasm.RegX, armasm.RegList:
			return nil, true
		}
	}
	return list, false
}

// literalsARM finds the words that loads relative to the program counter of the function itself read: LDR and VLDR.
func literalsARM(f *function) map[uint64]bool {
	data := map[uint64]bool{}
	for off := 0; off+4 <= len(f.code); off += 4 {
		w := f.word(off)
		pc := f.addr + uint64(off)
		if data[pc] {
			continue
		}
		offset, words := int64(0), 0
		switch {
		case w&0x0f7f0000 == 0x051f0000: // LDR Rt, [PC, #±imm12]
			offset, words = int64(w&0xfff), 1
		case w&0x0f3f0f00 == 0x0d1f0a00: // VLDR Sd, [PC, #±imm8*4]
			offset, words = int64(w&0xff)*4, 1
		case w&0x0f3f0f00 == 0x0d1f0b00: // VLDR Dd
			offset, words = int64(w&0xff)*4, 2
		}
		if w>>23&1 == 0 {
			offset = -offset
		}
		for i := range words {
			data[uint64(int64(pc)+8+offset)+uint64(i)*4] = true
		}
	}
	return data
}

// guardedARM looks at every word that is no literal; each instruction is one word.
func guardedARM(_ *image, f *function) []guardedAt {
	var found []guardedAt
	for off := 0; off+4 <= len(f.code); off += 4 {
		pc := f.addr + uint64(off)
		if f.data[pc] {
			continue
		}
		if kind := guardARM(f.word(off)); kind != "" {
			found = append(found, guardedAt{pc, kind})
		}
	}
	return found
}

// guardARM names what only listed functions may hold: calls into the kernel, and reads of the system control
// coprocessor's timers (c14) and performance counters (c9), in one register or two.
func guardARM(w uint32) string {
	if w>>28 > always {
		return ""
	}
	switch {
	case w&0x0f000000 == 0x0f000000:
		return "SVC"
	case w&0x0f100f10 == 0x0e100f10 && w>>16&15 == 14:
		return "MRC c14"
	case w&0x0f100f10 == 0x0e100f10 && w>>16&15 == 9:
		return "MRC c9"
	case w&0x0ff00f00 == 0x0c500f00 && (w&15 == 14 || w&15 == 9):
		return "MRRC"
	}
	return ""
}
