package jail

import (
	"cmp"
	"debug/elf"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// span is a range of addresses.
type span struct{ start, end uintptr }

// mapping is a line of /proc/PID/maps, proc_pid_maps(5).
type mapping struct {
	span
	name string
}

// kernelPages are the mappings that the kernel makes by itself; it may have sealed them (Linux 6.15,
// CONFIG_MSEAL_SYSTEM_MAPPINGS). With the vvar pages the time can be read without the counter.
var kernelPages = []string{"[vdso]", "[vvar]", "[vvar_vclock]", "[sigpage]", "[uprobes]", "[vectors]", "[vsyscall]"}

// gatePages are those of them that no process can unmap. What they offer is code: it enters the kernel, or reads
// a counter, and both meet the other layers.
var gatePages = []string{"[vectors]", "[vsyscall]"}

func mappings(pid string) ([]mapping, error) {
	text, err := os.ReadFile("/proc/" + pid + "/maps")
	if err != nil {
		return nil, err
	}
	var all []mapping
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		first, last, ok := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(first, 16, 64)
		end, err2 := strconv.ParseUint(last, 16, 64)
		if !ok || err1 != nil || err2 != nil {
			return nil, fmt.Errorf("/proc/%s/maps: %q", pid, line)
		}
		m := mapping{span: span{uintptr(start), uintptr(end)}}
		if len(f) > 5 {
			m.name = f[5]
		}
		all = append(all, m)
	}
	return all, nil
}

// segment is a part of this program's ELF file that is mapped.
type segment struct {
	span
	writable bool
}

// segments lists them by address: the program headers know, and the kernel tells where they are (getauxval(3)).
func segments() ([]segment, error) {
	const atPHDR, atPHENT, atPHNUM = 3, 4, 5
	vector, err := unix.Auxv()
	if err != nil {
		return nil, fmt.Errorf("auxiliary vector: %w", err)
	}
	var at, size, count uintptr
	for _, v := range vector {
		switch v[0] {
		case atPHDR:
			at = v[1]
		case atPHENT:
			size = v[1]
		case atPHNUM:
			count = v[1]
		}
	}
	var all []segment
	bias, found := uintptr(0), false
	for i := range count {
		h := programHeader(at+i*size, size)
		start, end := uintptr(h.Vaddr), uintptr(h.Vaddr+h.Memsz)
		switch elf.ProgType(h.Type) {
		case elf.PT_PHDR:
			bias, found = at-start, true
		case elf.PT_LOAD:
			all = append(all, segment{span{start, end}, elf.ProgFlag(h.Flags)&elf.PF_W != 0})
		}
	}
	if !found || len(all) == 0 {
		return nil, fmt.Errorf("program headers: no place for %d of them", count)
	}
	for i := range all {
		all[i].start = (all[i].start + bias) &^ (pageSize - 1)
		all[i].end = (all[i].end + bias + pageSize - 1) &^ (pageSize - 1)
	}
	return all, nil
}

func programHeader(at, size uintptr) elf.Prog64 {
	p := *(*unsafe.Pointer)(unsafe.Pointer(&at)) // memory of the loader's, which never moves
	if size == unsafe.Sizeof(elf.Prog64{}) {
		return *(*elf.Prog64)(p)
	}
	h := (*elf.Prog32)(p)
	return elf.Prog64{Type: h.Type, Flags: h.Flags, Vaddr: uint64(h.Vaddr), Memsz: uint64(h.Memsz)}
}

// image returns where the ELF file of this program lies, with its data.
func image() (span, error) {
	all, err := segments()
	if err != nil {
		return span{}, err
	}
	return span{all[0].start, all[len(all)-1].end}, nil
}

// Rest lets go of the pages of code and constants that are mapped in this process. Start-up needed most of them
// once, a process that waits needs few: those come back from the page cache when they are touched. Nothing is
// lost, so a failure is of no account.
func Rest() {
	all, err := segments()
	if err != nil {
		return
	}
	for _, s := range all {
		if !s.writable {
			unix.RawSyscall(unix.SYS_MADVISE, s.start, s.end-s.start, unix.MADV_DONTNEED)
		}
	}
}

// kept lists what the relay needs, by address: the ELF image, the relay's memory, the vault and the arena.
func (j *Jail) kept(b *builder) ([]span, error) {
	elf, err := image()
	if err != nil {
		return nil, err
	}
	start, length := j.vault.Region()
	spans := []span{elf, {start, start + length}, spanOf(b.arena)}
	for _, m := range b.relay.Maps {
		spans = append(spans, spanOf(m))
	}
	return join(spans), nil
}

// join sorts spans by address and makes neighbours one, as the kernel does with mappings.
func join(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	joined := spans[:1]
	for _, s := range spans[1:] {
		if last := &joined[len(joined)-1]; s.start <= last.end {
			last.end = max(last.end, s.end)
		} else {
			joined = append(joined, s)
		}
	}
	return joined
}

func spanOf(m []byte) span {
	start := uintptr(unsafe.Pointer(&m[0]))
	return span{start, start + uintptr(len(m))}
}

// unmap appends the unmapping of everything between what is kept: whole gaps, so that nothing that is mapped
// between now and the fork is missed.
func (j *Jail) unmap(b *builder) error {
	keep, err := j.kept(b)
	if err != nil {
		return err
	}
	b.prisoner.memory = keep
	all, err := mappings("self")
	if err != nil {
		return err
	}
	var top uintptr
	spans := slices.Clone(keep)
	for _, m := range all {
		switch {
		case slices.Contains(gatePages, m.name):
			continue
		case slices.Contains(kernelPages, m.name):
			spans = append(spans, m.span) // the next step's
		}
		top = max(top, m.end)
	}
	from := uintptr(0)
	for _, s := range join(append(spans, span{top, top})) {
		if s.start > from {
			b.do(unix.SYS_MUNMAP, from, s.start-from)
		}
		from = s.end
	}
	return nil
}

func (j *Jail) unmapVDSO(b *builder) error {
	all, err := mappings("self")
	if err != nil {
		return err
	}
	for _, m := range all {
		if slices.Contains(kernelPages, m.name) && !slices.Contains(gatePages, m.name) {
			b.do(unix.SYS_MUNMAP, m.start, m.end-m.start)
		}
	}
	return nil
}

// sealMemory seals range by range: mseal(2) refuses one with a hole in it.
func (j *Jail) sealMemory(b *builder) error {
	keep, err := j.kept(b)
	if err != nil {
		return err
	}
	all, err := mappings("self")
	if err != nil {
		return err
	}
	for _, k := range keep {
		for _, m := range all {
			start, end := max(k.start, m.start), min(k.end, m.end)
			if start < end {
				b.do(unix.SYS_MSEAL, start, end-start, 0)
			}
		}
	}
	b.expect(refusal(unix.EPERM), unix.SYS_MPROTECT, b.spare(), pageSize, unix.PROT_READ|unix.PROT_WRITE)
	return nil
}

// checkMemory finds nothing mapped but what was kept.
func (j *Jail) checkMemory(p *Prisoner) error {
	all, err := mappings(strconv.Itoa(p.PID))
	if err != nil {
		return err
	}
	for _, m := range all {
		if slices.Contains(kernelPages, m.name) {
			continue
		}
		if !slices.ContainsFunc(p.memory, func(k span) bool { return m.start >= k.start && m.end <= k.end }) {
			return fmt.Errorf("%#x-%#x %s is still mapped", m.start, m.end, m.name)
		}
	}
	return nil
}

func (j *Jail) checkVDSO(p *Prisoner) error {
	all, err := mappings(strconv.Itoa(p.PID))
	if err != nil {
		return err
	}
	for _, m := range all {
		if slices.Contains(kernelPages, m.name) && !slices.Contains(gatePages, m.name) {
			return fmt.Errorf("%s is still mapped", m.name)
		}
	}
	return nil
}
