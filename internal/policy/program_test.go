package policy

import (
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

// What is embedded for the running architecture is what the other tests read from the directory.
func TestEmbedded(t *testing.T) {
	a, err := ArchOf(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	for f := range Families {
		prog, err := Relay(Family(f))
		if err != nil {
			t.Fatal(err)
		}
		p := RelayPolicy(a, Family(f))
		v := ordinary(a, p)
		insns, err := prog.Relocate(v)
		if err != nil || !slices.Equal(insns, finished(t, p, v)) {
			t.Errorf("%s: embedded program differs from the one in programs/ (%v)", p.Name, err)
		}
	}
	if _, err := Monitor(); err != nil {
		t.Error(err)
	}
	if entries, err := programs.ReadDir("programs"); err != nil || len(entries) != 3*(len(Families)+1) {
		t.Errorf("%d files embedded (%v): those of one architecture expected", len(entries), err)
	}
}

func TestForeignArchitecture(t *testing.T) {
	_, err := Load(os.DirFS("."), "s390x", "inet")
	if err == nil || !strings.Contains(err.Error(), "no system call table for architecture s390x") {
		t.Error(err)
	}
}

func TestRelocateRefuses(t *testing.T) {
	for _, c := range []struct {
		arch, name string
		change     func(*Values)
		want       string
	}{
		{"amd64", "inet", func(v *Values) { v.ListenFD = -1 }, "ListenFD -1: not a descriptor"},
		{"amd64", "inet", func(v *Values) { v.EpollFD = -9 }, "EpollFD -9: not a descriptor"},
		{"amd64", "inet", func(v *Values) { v.EpollFD = v.ListenFD }, "listener and epoll instance are one descriptor"},
		{"amd64", "inet", func(v *Values) { v.AddrPtr = 0 }, "AddrPtr is not set"},
		{"arm64", "inet6", func(v *Values) { v.OnePtr = 0 }, "OnePtr is not set"},
		{"amd64", "unix", func(v *Values) { v.ZeroPtr = 0 }, "ZeroPtr is not set"},
		{"arm", "inet", func(v *Values) { v.LingerPtr |= LingerOff }, "the filter does not compare bit 0x8"},
		{"amd64", "monitor", func(v *Values) { v.LinePtr = 0 }, "LinePtr is not set"},
		{"386", "monitor", func(v *Values) { v.MaskPtr = v.TimePtr }, "TimePtr and MaskPtr are both"},
		{"amd64", "inet", func(v *Values) { v.EventPtr = v.EventsPtr }, "EventPtr and EventsPtr are both"},
		{"amd64", "inet", func(v *Values) { v.AddrLen = 15 }, "AddrLen 15: not the length of an address, 16 to 16"},
		{"amd64", "inet6", func(v *Values) { v.AddrLen = 16 }, "AddrLen 16: not the length of an address, 28 to 28"},
		{"amd64", "unix", func(v *Values) { v.AddrLen = 2 }, "AddrLen 2: not the length of an address, 3 to 110"},
		{"amd64", "unix", func(v *Values) { v.AddrLen = 111 }, "AddrLen 111: not the length of an address, 3 to 110"},
		{"386", "inet", func(v *Values) { v.PipePtr = 1 << 32 }, "PipePtr 0x100000000: wider than the machine"},
		{"arm", "unix", func(v *Values) { v.LingerPtr = 1<<32 | v.LingerPtr }, "wider than the machine"},
	} {
		a, _ := ArchOf(c.arch)
		prog, err := Load(os.DirFS("."), c.arch, c.name)
		if err != nil {
			t.Fatal(err)
		}
		v := ordinary(a, &Policy{Name: c.name})
		if _, err := prog.Relocate(v); err != nil {
			t.Errorf("unchanged values: %v", err)
		}
		c.change(&v)
		for what, err := range map[string]error{
			"relocate": func() error { _, err := prog.Relocate(v); return err }(),
			"print":    func() error { _, err := prog.PFC(v); return err }(),
		} {
			if err == nil || !strings.Contains(err.Error(), "policy: "+what+" program "+c.name+": ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s on %s: %v, want %q", what, c.arch, err, c.want)
			}
		}
	}
}

// Values that a family has no use for are not looked at, and relocating leaves the template alone.
func TestRelocateIgnoresAndCopies(t *testing.T) {
	p := RelayPolicy(&amd64, Unix)
	v := ordinary(&amd64, p)
	first := finished(t, p, v)
	prog, err := Load(os.DirFS("."), "amd64", "unix")
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []uint64{0, v.ZeroPtr, 77} {
		v.OnePtr = one
		if got, err := prog.Relocate(v); err != nil || !slices.Equal(got, first) {
			t.Errorf("OnePtr %#x changed the program of a UNIX upstream (%v)", one, err)
		}
	}
}

// No sentinel is left in a relocated program, and without relocation nothing that names a symbol is allowed.
func TestSentinelsGo(t *testing.T) {
	everyPolicy(t, func(t *testing.T, p *Policy) {
		for _, in := range finished(t, p, ordinary(p.Arch, p)) {
			for _, s := range Symbols() {
				if in.K == Sentinel(s, Lo, 0) || in.K == Sentinel(s, Hi, 0) {
					t.Errorf("sentinel of %s is left", s)
				}
			}
		}
	})
}

func TestDamagedProgramIsRefused(t *testing.T) {
	files := fstest.MapFS{}
	for _, suffix := range []string{BPFSuffix, SiteSuffix, PFCSuffix} {
		name := "programs/amd64_inet" + suffix
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: b}
	}
	rel, bpf := "programs/amd64_inet.rel", "programs/amd64_inet.bpf"
	lines := strings.SplitAfter(string(files[rel].Data), "\n")
	without := func(i int) string { return strings.Join(slices.Delete(slices.Clone(lines), i, i+1), "") }
	at, _, _ := strings.Cut(lines[0], " ")
	index, err := strconv.Atoi(at)
	if err != nil {
		t.Fatal(err)
	}
	patched := func(off int, b byte) string {
		d := slices.Clone(files[bpf].Data)
		d[index*insnSize+off] = b
		return string(d)
	}
	for _, c := range []struct{ name, file, data, want string }{
		{"no bytes", bpf, "", "0 bytes are no BPF program"},
		{"half an instruction", bpf, string(files[bpf].Data[:12]), "12 bytes are no BPF program"},
		{"a site forgotten", rel, without(0), "is not in the relocations"},
		{"the last site forgotten", rel, without(len(lines) - 2), "is not in the relocations"},
		{"a site too many", rel, strings.Join(lines, "") + "9999 PipePtr lo\n", "relocations found"},
		{"a site before the others", rel, "0 PipePtr lo\n" + strings.Join(lines, ""), "does not compare {PipePtr.lo}"},
		{"another symbol", rel, strings.Replace(strings.Join(lines, ""), "EpollFD hi", "ListenFD hi", 1), "does not compare {ListenFD.hi}"},
		{"another half", rel, strings.Replace(strings.Join(lines, ""), "EpollFD hi", "EpollFD lo", 1), "does not compare {EpollFD.lo}"},
		{"unknown symbol", rel, "20 Other hi\n", `relocation "20 Other hi"`},
		{"unknown half", rel, "20 EpollFD mid\n", `relocation "20 EpollFD mid"`},
		{"no symbol", rel, "20  hi\n", `relocation "20  hi"`},
		{"not a number", rel, "x EpollFD hi\n", `relocation "x EpollFD hi"`},
		{"too few words", rel, "20 EpollFD\n", `relocation "20 EpollFD"`},
		{"another comparison", bpf, patched(0, unix.BPF_JMP|unix.BPF_JGE|unix.BPF_K), "does not compare {EpollFD.hi}"},
		{"another constant", bpf, patched(4, 0), "does not compare {EpollFD.hi}"},
	} {
		damaged := maps.Clone(files)
		damaged[c.file] = &fstest.MapFile{Data: []byte(c.data)}
		_, err := Load(damaged, "amd64", "inet")
		if err == nil || !strings.Contains(err.Error(), "policy: load program inet for amd64: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	for name := range files {
		lacking := maps.Clone(files)
		delete(lacking, name)
		if _, err := Load(lacking, "amd64", "inet"); err == nil {
			t.Errorf("loaded without %s", name)
		}
	}
	if _, err := Load(files, "amd64", "inet"); err != nil {
		t.Errorf("undamaged: %v", err)
	}
}

// The text names every call of the policy and no other, gives each reason, and holds the values of this process.
func TestPFC(t *testing.T) {
	everyPolicy(t, func(t *testing.T, p *Policy) {
		prog, err := Load(os.DirFS("."), p.Arch.Name, p.Name)
		if err != nil {
			t.Fatal(err)
		}
		v := ordinary(p.Arch, p)
		text, err := prog.PFC(v)
		if err != nil {
			t.Fatal(err)
		}
		var named []string
		for line := range strings.Lines(text) {
			if rest, ok := strings.CutPrefix(line, `  # filter for syscall "`); ok {
				call, rest, _ := strings.Cut(rest, `" (`)
				nr, _, _ := strings.Cut(rest, ")")
				if want, _ := Number(p.Arch, call); nr != strconv.Itoa(want) {
					t.Errorf("%s is number %s in the text and %d in the table", call, nr, want)
				}
				named = append(named, call)
			}
			if strings.Contains(line, "if (") && strings.ContainsAny(line, "{}") {
				t.Errorf("placeholder left: %s", line)
			}
		}
		var want []string
		for _, r := range p.Rows {
			want = append(want, r.Call)
			if !strings.Contains(text, "  # why: "+r.Why+"\n") {
				t.Errorf("%s: reason is missing", r.Call)
			}
			for _, a := range r.Args {
				if a.Sym == constant {
					continue
				}
				for h := range p.Arch.Bits / 32 {
					if !strings.Contains(text, " == "+strconv.FormatUint(uint64(word(v.value(a.Sym), Half(h))), 10)+")") {
						t.Errorf("%s: value of %s is missing", r.Call, a.Sym)
					}
				}
			}
		}
		slices.Sort(named)
		if want = slices.Compact(want); !slices.Equal(named, want) {
			t.Errorf("calls in the text: %v, in the policy: %v", named, want)
		}
	})
}
