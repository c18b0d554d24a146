//go:build cgo

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	seccomp "github.com/seccomp/libseccomp-golang"

	"syd/internal/policy"
)

// compiled is one finished program with its relocations and its text.
type compiled struct{ bpf, sites, pfc []byte }

// libseccomp's name for each architecture.
var scmpArch = map[string]seccomp.ScmpArch{
	"amd64":   seccomp.ArchAMD64,
	"386":     seccomp.ArchX86,
	"arm64":   seccomp.ArchARM64,
	"arm":     seccomp.ArchARM,
	"riscv64": seccomp.ArchRISCV64,
}

var scmpAction = map[policy.Action]seccomp.ScmpAction{
	policy.Allow:       seccomp.ActAllow,
	policy.KillProcess: seccomp.ActKillProcess,
	policy.KillThread:  seccomp.ActKillThread,
}

// compilePolicy compiles p twice, with every symbol's sentinel of either run, and finds the relocations where
// the two differ. That is sound because sentinels resemble nothing else: libseccomp merges equal tails, so with a
// value that also occurs elsewhere the structure itself would depend on it.
func compilePolicy(p *policy.Policy) (*compiled, error) {
	if err := distinct(p); err != nil {
		return nil, err
	}
	first, pfc, err := compileRun(p, 0)
	if err != nil {
		return nil, err
	}
	second, _, err := compileRun(p, 1)
	if err != nil {
		return nil, err
	}
	if len(first) != len(second) {
		return nil, fmt.Errorf("%d bytes and %d bytes: the structure depends on the values", len(first), len(second))
	}
	const size = 8 // sizeof(struct sock_filter)
	var sites strings.Builder
	found := map[half]int{}
	for at := 0; at < len(first); at += size {
		a, b := first[at:at+size], second[at:at+size]
		if bytes.Equal(a, b) {
			continue
		}
		h, ok := halfOf(binary.LittleEndian.Uint32(a[4:]), binary.LittleEndian.Uint32(b[4:]))
		if !ok || !bytes.Equal(a[:4], b[:4]) {
			return nil, fmt.Errorf("instruction %d differs between the runs and compares no symbol", at/size)
		}
		found[h]++
		fmt.Fprintf(&sites, "%d %s %s\n", at/size, h.sym, h.half)
	}
	for h := range wanted(p) {
		if found[h] == 0 {
			return nil, fmt.Errorf("%s is compared nowhere", policy.Placeholder(h.sym, h.half))
		}
		delete(found, h)
	}
	if len(found) != 0 {
		return nil, fmt.Errorf("compared, and not in the policy: %v", found)
	}
	return &compiled{first, []byte(sites.String()), annotate(p, pfc)}, nil
}

// half is one 32-bit word of a symbol.
type half struct {
	sym  policy.Symbol
	half policy.Half
}

// wanted returns the halves that p compares.
func wanted(p *policy.Policy) map[half]bool {
	w := map[half]bool{}
	for _, r := range p.Rows {
		for _, a := range r.Args {
			if a.Sym != 0 {
				w[half{a.Sym, policy.Lo}] = true
				if p.Arch.Bits == 64 {
					w[half{a.Sym, policy.Hi}] = true
				}
			}
		}
	}
	return w
}

// halfOf tells which word has these sentinels in run 0 and run 1.
func halfOf(run0, run1 uint32) (half, bool) {
	for _, s := range policy.Symbols() {
		for _, h := range []policy.Half{policy.Lo, policy.Hi} {
			if policy.Sentinel(s, h, 0) == run0 && policy.Sentinel(s, h, 1) == run1 {
				return half{s, h}, true
			}
		}
	}
	return half{}, false
}

// distinct checks what the method rests on: sentinels are nonzero, all different, and no constant of p.
func distinct(p *policy.Policy) error {
	seen := map[uint32]string{0: "zero"}
	for _, r := range p.Rows {
		for _, a := range r.Args {
			for _, v := range append([]uint64{a.Mask}, a.Any...) {
				seen[uint32(v)], seen[uint32(v>>32)] = "a constant", "a constant"
			}
		}
	}
	for _, s := range policy.Symbols() {
		for _, h := range []policy.Half{policy.Lo, policy.Hi} {
			for run := range 2 {
				v := policy.Sentinel(s, h, run)
				if seen[v] != "" {
					return fmt.Errorf("sentinel of %s is %s", policy.Placeholder(s, h), seen[v])
				}
				seen[v] = "another sentinel"
			}
		}
	}
	return nil
}

// compileRun compiles p with the sentinels of run.
func compileRun(p *policy.Policy, run int) (bpf, pfc []byte, err error) {
	// What the library offers must not depend on the kernel it runs on. Level 3 is the first with KILL_PROCESS.
	if err := seccomp.SetAPI(3); err != nil {
		return nil, nil, err
	}
	f, err := seccomp.NewFilter(scmpAction[policy.KillProcess])
	if err != nil {
		return nil, nil, err
	}
	defer f.Release()
	// Its default for a foreign architecture kills only the thread, whatever the filter's default is.
	if err := f.SetBadArchAction(seccomp.ActKillProcess); err != nil {
		return nil, nil, err
	}
	arch, ok := scmpArch[p.Arch.Name]
	if !ok {
		return nil, nil, errors.New("libseccomp's name of the architecture is missing")
	}
	if err := onlyArch(f, arch); err != nil {
		return nil, nil, err
	}
	for i := range p.Rows {
		if err := addRow(f, p, &p.Rows[i], arch, run); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", p.Rows[i].Call, err)
		}
	}
	if bpf, err = export(f.ExportBPF); err != nil {
		return nil, nil, err
	}
	pfc, err = export(f.ExportPFC)
	return bpf, pfc, err
}

// onlyArch makes arch the one architecture of f, which starts out with the host's.
func onlyArch(f *seccomp.ScmpFilter, arch seccomp.ScmpArch) error {
	native, err := seccomp.GetNativeArch()
	if err != nil || native == arch {
		return err
	}
	if err := f.AddArch(arch); err != nil {
		return err
	}
	return f.RemoveArch(native)
}

// addRow adds a rule for every combination of the alternatives in r.
func addRow(f *seccomp.ScmpFilter, p *policy.Policy, r *policy.Row, arch seccomp.ScmpArch, run int) error {
	foreign, err := seccomp.GetSyscallFromNameByArch(r.Call, arch)
	if err != nil {
		return err
	}
	// Two sources for every number: a slip in either would open another call. Negative numbers are libseccomp's
	// own, for calls that it also expands into a multiplexer; the tests find the real one in the program.
	if nr, ok := policy.Number(p.Arch, r.Call); !ok || foreign >= 0 && int(foreign) != nr {
		return fmt.Errorf("number is %d in libseccomp and %d in golang.org/x/sys", foreign, nr)
	}
	// Rules are added under the number of the build host, real or made up, and translated by name.
	call, err := seccomp.GetSyscallFromName(r.Call)
	if err != nil {
		return err
	}
	if r.Hot != 0 {
		if err := f.SetSyscallPriority(call, r.Hot); err != nil {
			return err
		}
	}
	rules := [][]seccomp.ScmpCondition{nil}
	for i, a := range r.Args {
		if a.Free() {
			continue
		}
		var next [][]seccomp.ScmpCondition
		for _, rule := range rules {
			for _, v := range values(a, run, p.Arch.Bits) {
				c, err := condition(uint(i), a, v)
				if err != nil {
					return err
				}
				next = append(next, append(rule[:len(rule):len(rule)], c))
			}
		}
		rules = next
	}
	for _, rule := range rules {
		// Not the exact variant: on 386 it refuses socket calls, as it cannot express them for socketcall.
		if err := f.AddRuleConditional(call, scmpAction[r.Action()], rule); err != nil {
			return err
		}
	}
	return nil
}

func values(a policy.Arg, run, bits int) []uint64 {
	if a.Sym == 0 {
		return a.Any
	}
	v := uint64(policy.Sentinel(a.Sym, policy.Lo, run))
	if bits == 64 {
		v |= uint64(policy.Sentinel(a.Sym, policy.Hi, run)) << 32
	}
	return []uint64{v}
}

func condition(i uint, a policy.Arg, v uint64) (seccomp.ScmpCondition, error) {
	if a.Mask != 0 {
		return seccomp.MakeCondition(i, seccomp.CompareMaskedEqual, a.Mask, v)
	}
	return seccomp.MakeCondition(i, seccomp.CompareEqual, v)
}

// export collects what libseccomp writes to a file.
func export(write func(*os.File) error) ([]byte, error) {
	f, err := os.CreateTemp("", "policygen")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	if err := write(f); err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}

// annotate puts placeholders for the sentinels and, under each call, the reasons of its rows.
func annotate(p *policy.Policy, pfc []byte) []byte {
	var pairs []string
	for _, s := range policy.Symbols() {
		for _, h := range []policy.Half{policy.Lo, policy.Hi} {
			pairs = append(pairs, strconv.FormatUint(uint64(policy.Sentinel(s, h, 0)), 10), policy.Placeholder(s, h))
		}
	}
	var out strings.Builder
	for line := range strings.Lines(strings.NewReplacer(pairs...).Replace(string(pfc))) {
		out.WriteString(line)
		rest, ok := strings.CutPrefix(line, `  # filter for syscall "`)
		if !ok {
			continue
		}
		call, _, _ := strings.Cut(rest, `"`)
		last := ""
		for _, r := range p.Rows {
			if r.Call == call && r.Why != last {
				fmt.Fprintf(&out, "  # why: %s\n", r.Why)
				last = r.Why
			}
		}
	}
	return []byte(out.String())
}
