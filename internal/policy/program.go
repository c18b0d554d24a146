package policy

import (
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Values are what one filter is bound to: addresses and descriptors of its process. Those that a program has no use
// for are ignored: OnePtr is TCP's, ZeroPtr is UNIX's.
type Values struct {
	ListenFD, EpollFD            int
	AddrPtr                      uint64 // the upstream's sockaddr, in the vault
	AddrLen                      int
	OnePtr, LingerPtr, ZeroPtr   uint64 // option values, in the vault
	EventPtr, EventsPtr, PipePtr uint64 // scratch, in the arena

	PollPtr, TimePtr, MaskPtr, StatusPtr, LinePtr uint64 // the monitor's
}

// value returns what stands for s. Descriptors and lengths are zero-extended, as the relay passes them.
func (v *Values) value(s Symbol) uint64 {
	switch s {
	case ListenFD:
		return uint64(uint32(v.ListenFD))
	case EpollFD:
		return uint64(uint32(v.EpollFD))
	case AddrPtr:
		return v.AddrPtr
	case AddrLen:
		return uint64(uint32(v.AddrLen))
	case OnePtr:
		return v.OnePtr
	case LingerPtr:
		return v.LingerPtr
	case ZeroPtr:
		return v.ZeroPtr
	case EventPtr:
		return v.EventPtr
	case EventsPtr:
		return v.EventsPtr
	case PipePtr:
		return v.PipePtr
	case PollPtr:
		return v.PollPtr
	case TimePtr:
		return v.TimePtr
	case MaskPtr:
		return v.MaskPtr
	case StatusPtr:
		return v.StatusPtr
	case LinePtr:
		return v.LinePtr
	}
	return 0
}

// Half selects the 32-bit word of a 64-bit argument that an instruction compares. 32-bit programs have Lo alone.
type Half uint8

const (
	Lo Half = iota
	Hi
)

var halfNames = [...]string{Lo: "lo", Hi: "hi"}

func (h Half) String() string { return halfNames[h] }

// Sentinel is the word that stands in a compiled program for one half of a symbol until it is relocated, in the
// first and the second compilation (run 0 and 1). No two are equal in either run, none is zero or a constant of
// the policy, and each differs between the runs: so an instruction whose constant changed from run to run
// compares a symbol, and the constant tells which. The programs in programs/ hold run 0's; one that was never
// relocated matches no descriptor and no address.
func Sentinel(s Symbol, h Half, run int) uint32 {
	return 0xe5a00000 + uint32(run)<<16 + uint32(h)<<12 + uint32(s)<<4 + 5
}

// Placeholder stands in the text of a program for one half of a symbol.
func Placeholder(s Symbol, h Half) string { return "{" + s.String() + "." + h.String() + "}" }

// site is an instruction whose constant is one half of a symbol.
type site struct {
	at   int
	sym  Symbol
	half Half
}

// Program is a compiled policy. Its constants are not those of this process until it is relocated.
type Program struct {
	name  string
	bits  int
	insns []unix.SockFilter
	sites []site
	pfc   string
}

// programs are those of the running architecture. Its file embed_ARCH.go sets them; where there is none they are empty,
// and Load says so.
var programs embed.FS

// Relay returns the relay's program for upstreams of family f on the running architecture.
func Relay(f Family) (*Program, error) { return Load(programs, runtime.GOARCH, f.String()) }

// Monitor returns the monitor's program on the running architecture.
func Monitor() (*Program, error) { return Load(programs, runtime.GOARCH, "monitor") }

// Files of a program in programs/, by what follows ARCH_NAME.
const (
	BPFSuffix  = ".bpf" // struct sock_filter [], in the byte order of the architecture
	SiteSuffix = ".rel" // a line "index symbol half" per instruction that is relocated, by ascending index
	PFCSuffix  = ".pfc" // libseccomp's pseudo filter code, with placeholders
)

// Load reads the program called name for the architecture with that GOARCH from fsys and checks that every
// sentinel in it is a relocation site, and every site a comparison with its sentinel.
func Load(fsys fs.FS, goarch, name string) (*Program, error) {
	p, err := load(fsys, goarch, name)
	if err != nil {
		return nil, fmt.Errorf("policy: load program %s for %s: %w", name, goarch, err)
	}
	return p, nil
}

func load(fsys fs.FS, goarch, name string) (*Program, error) {
	a, err := ArchOf(goarch)
	if err != nil {
		return nil, err
	}
	base := "programs/" + goarch + "_" + name
	bpf, err := fs.ReadFile(fsys, base+BPFSuffix)
	if err != nil {
		return nil, err
	}
	rel, err := fs.ReadFile(fsys, base+SiteSuffix)
	if err != nil {
		return nil, err
	}
	pfc, err := fs.ReadFile(fsys, base+PFCSuffix)
	if err != nil {
		return nil, err
	}
	p := &Program{name: name, bits: a.Bits, pfc: string(pfc)}
	if p.insns, err = decode(bpf); err != nil {
		return nil, err
	}
	if p.sites, err = parseSites(string(rel)); err != nil {
		return nil, err
	}
	return p, p.check()
}

// insnSize is sizeof(struct sock_filter), linux/filter.h.
const insnSize = 8

func decode(b []byte) ([]unix.SockFilter, error) {
	n := len(b) / insnSize
	if n == 0 || n > unix.BPF_MAXINSNS || len(b)%insnSize != 0 {
		return nil, fmt.Errorf("%d bytes are no BPF program", len(b))
	}
	insns := make([]unix.SockFilter, n)
	for i := range insns {
		// All architectures so far are little-endian.
		in := b[i*insnSize:]
		insns[i] = unix.SockFilter{Code: binary.LittleEndian.Uint16(in), Jt: in[2], Jf: in[3], K: binary.LittleEndian.Uint32(in[4:])}
	}
	return insns, nil
}

func parseSites(text string) ([]site, error) {
	var sites []site
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		f := strings.Split(line, " ")
		if len(f) != 3 {
			return nil, fmt.Errorf("relocation %q: want index, symbol and half", line)
		}
		i, err := strconv.Atoi(f[0])
		s, h := index(symbolNames[:], f[1]), index(halfNames[:], f[2])
		if err != nil || s <= int(constant) || h < 0 {
			return nil, fmt.Errorf("relocation %q: want index, symbol and half", line)
		}
		sites = append(sites, site{i, Symbol(s), Half(h)})
	}
	return sites, nil
}

func index(names []string, name string) int {
	for i, n := range names {
		if n == name {
			return i
		}
	}
	return -1
}

// jumpIfEqual is the only instruction that may compare a symbol: each symbol is one exact value.
const jumpIfEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K

// check holds the sites against the instructions, in both directions.
func (p *Program) check() error {
	next := 0
	for i, in := range p.insns {
		if next < len(p.sites) && p.sites[next].at == i {
			s := p.sites[next]
			if in.Code != jumpIfEqual || in.K != Sentinel(s.sym, s.half, 0) {
				return fmt.Errorf("instruction %d does not compare %s", i, Placeholder(s.sym, s.half))
			}
			next++
			continue
		}
		for s := constant + 1; s < endOfSymbols; s++ {
			if in.K == Sentinel(s, Lo, 0) || in.K == Sentinel(s, Hi, 0) {
				return fmt.Errorf("instruction %d holds the sentinel of %s and is not in the relocations", i, s)
			}
		}
	}
	if next != len(p.sites) {
		return fmt.Errorf("%d of %d relocations found", next, len(p.sites))
	}
	return nil
}

// Relocate returns the instructions with v in place, ready for seccomp(2). It allocates, so it comes
// before the fork, or the end of the Go runtime. It fails if a value that the program uses cannot be right.
func (p *Program) Relocate(v Values) ([]unix.SockFilter, error) {
	if err := p.fits(&v); err != nil {
		return nil, fmt.Errorf("policy: relocate program %s: %w", p.name, err)
	}
	insns := append([]unix.SockFilter(nil), p.insns...)
	for _, s := range p.sites {
		insns[s.at].K = word(v.value(s.sym), s.half)
	}
	return insns, nil
}

// PFC returns the program with v in place as libseccomp's pseudo filter code, each call with its reason.
func (p *Program) PFC(v Values) (string, error) {
	if err := p.fits(&v); err != nil {
		return "", fmt.Errorf("policy: print program %s: %w", p.name, err)
	}
	var pairs []string
	for s := constant + 1; s < endOfSymbols; s++ {
		for h := range halfNames {
			pairs = append(pairs, Placeholder(s, Half(h)), strconv.FormatUint(uint64(word(v.value(s), Half(h))), 10))
		}
	}
	return strings.NewReplacer(pairs...).Replace(p.pfc), nil
}

func word(v uint64, h Half) uint32 { return uint32(v >> (32 * h)) }

// uses tells whether the program compares s.
func (p *Program) uses(s Symbol) bool {
	for _, site := range p.sites {
		if site.sym == s {
			return true
		}
	}
	return false
}

// fits refuses values that no sound relay has. Two pointers that are equal would be two meanings of one place.
func (p *Program) fits(v *Values) error {
	var pointers []Symbol
	for s := constant + 1; s < endOfSymbols; s++ {
		if !p.uses(s) {
			continue
		}
		switch s {
		case ListenFD, EpollFD:
			fd := v.ListenFD
			if s == EpollFD {
				fd = v.EpollFD
			}
			if fd < 0 || fd > math.MaxInt32 {
				return fmt.Errorf("%s %d: not a descriptor", s, fd)
			}
		case AddrLen:
			f := Families[index(familyNames(), p.name)]
			if v.AddrLen < f.MinLen || v.AddrLen > f.MaxLen {
				return fmt.Errorf("%s %d: not the length of an address, %d to %d", s, v.AddrLen, f.MinLen, f.MaxLen)
			}
		default:
			ptr := v.value(s)
			if ptr == 0 {
				return fmt.Errorf("%s is not set", s)
			}
			if p.bits == 32 && ptr > math.MaxUint32 {
				return fmt.Errorf("%s %#x: wider than the machine", s, ptr)
			}
			if s == LingerPtr && ptr&LingerOff != 0 {
				return fmt.Errorf("%s %#x: the filter does not compare bit %#x", s, ptr, LingerOff)
			}
			for _, q := range pointers {
				if v.value(q) == ptr {
					return fmt.Errorf("%s and %s are both %#x", q, s, ptr)
				}
			}
			pointers = append(pointers, s)
		}
	}
	if p.uses(ListenFD) && v.ListenFD == v.EpollFD {
		return errors.New("listener and epoll instance are one descriptor")
	}
	return nil
}

func familyNames() []string {
	var names []string
	for _, f := range Families {
		names = append(names, f.Name)
	}
	return names
}
