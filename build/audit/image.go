package main

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// function is one function of the binary, by its symbol.
type function struct {
	name string // without the suffix that the linker gives to assembly
	addr uint64
	code []byte
	data map[uint64]bool // addresses of words that are constants among the code
}

// image is the code of one finished binary.
type image struct {
	arch      *arch
	functions []*function // sorted by address
	byName    map[string]*function
}

// load reads an executable of one of the architectures. Symbols must be there: without them nothing can be said.
func load(file string) (*image, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m := &image{byName: map[string]*function{}}
	for _, a := range arches {
		if a.machine == f.Machine {
			m.arch = a
		}
	}
	if m.arch == nil {
		return nil, fmt.Errorf("%s: no decoder for machine %v", file, f.Machine)
	}
	symbols, err := f.Symbols()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	covered := map[*elf.Section][]span{}
	for _, s := range symbols {
		if elf.ST_TYPE(s.Info) != elf.STT_FUNC || s.Size == 0 || int(s.Section) >= len(f.Sections) {
			continue
		}
		section := f.Sections[s.Section]
		code := make([]byte, s.Size)
		if _, err := section.ReadAt(code, int64(s.Value-section.Addr)); err != nil {
			return nil, fmt.Errorf("%s: code of %s: %w", file, s.Name, err)
		}
		fn := &function{name: strings.TrimSuffix(s.Name, ".abi0"), addr: s.Value, code: code}
		fn.data = m.arch.literals(fn)
		m.functions = append(m.functions, fn)
		m.byName[fn.name] = fn
		covered[section] = append(covered[section], span{s.Value, s.Value + s.Size})
	}
	slices.SortFunc(m.functions, func(a, b *function) int { return int(int64(a.addr - b.addr)) })
	return m, allCovered(f, m.arch, covered)
}

type span struct{ start, end uint64 }

// allCovered holds that no code lies outside the functions: what is between them is padding.
func allCovered(f *elf.File, a *arch, covered map[*elf.Section][]span) error {
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_EXECINSTR == 0 {
			continue
		}
		bytes, err := s.Data()
		if err != nil {
			return err
		}
		spans := covered[s]
		slices.SortFunc(spans, func(a, b span) int { return int(int64(a.start - b.start)) })
		at := s.Addr
		for _, p := range append(spans, span{s.Addr + s.Size, s.Addr + s.Size}) {
			for ; at < p.start; at++ {
				if b := bytes[at-s.Addr]; b != 0 && b != a.padding {
					return fmt.Errorf("%s at %#x: code (%#x) that no symbol covers", s.Name, at, b)
				}
			}
			at = max(at, p.end)
		}
	}
	return nil
}

// at returns the function that holds the address, or nil.
func (m *image) at(addr uint64) *function {
	i := sort.Search(len(m.functions), func(i int) bool { return m.functions[i].addr > addr }) - 1
	if i < 0 || addr >= m.functions[i].addr+uint64(len(m.functions[i].code)) {
		return nil
	}
	return m.functions[i]
}

// body decodes a function. An error names the bytes that are no instruction; what follows them is not decoded.
func (m *image) body(f *function) ([]inst, error) {
	var list []inst
	for off := 0; off < len(f.code); {
		pc := f.addr + uint64(off)
		if f.data[pc] {
			off += 4
			continue
		}
		i, err := m.arch.decode(f.code[off:], pc)
		if err != nil {
			return list, fmt.Errorf("%s+%#x: % x is no instruction that the decoder knows: %v",
				f.name, off, f.code[off:min(off+8, len(f.code))], err)
		}
		i.pc = pc
		list = append(list, i)
		off += i.size
	}
	return list, nil
}

// word returns the 32-bit word at offset off.
func (f *function) word(off int) uint32 { return binary.LittleEndian.Uint32(f.code[off:]) }
