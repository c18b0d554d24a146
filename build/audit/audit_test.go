package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// counterRead and nonsense are, for each architecture, an instruction that reads a counter, and bytes that are none.
var (
	counterRead = map[string]struct{ text, kind string }{
		"amd64":   {"RDTSC", "RDTSC"},
		"386":     {"RDTSC", "RDTSC"},
		"arm64":   {"MRS CNTVCT_EL0, R6", "MRS CNT"},
		"arm":     {"MRC 15, 0, R6, C9, C13, 0", "MRC c9"},
		"riscv64": {"RDTIME T0", "CSR counter"},
	}
	nonsense = map[string]string{
		"amd64":   "BYTE $0x0f; BYTE $0x0a",
		"386":     "BYTE $0x0f; BYTE $0x0a",
		"arm64":   "WORD $0xffffffff",
		"arm":     "WORD $0xff000000",
		"riscv64": "WORD $0xffffffff",
	}
)

// breakage is a change to the sources that the audit must notice, and what it must then say.
type breakage struct {
	name, file string
	old, new   string
	faults     []string // each a part of one line
}

func breakages(goarch string) []breakage {
	sys := "arch/sys_" + goarch + ".s"
	return []breakage{
		{"a call into the runtime", "internal/monitor/monitor.go",
			"\tw.Adopt()\n", "\tw.Adopt()\n\tprintln()\n",
			[]string{"runRelay → runtime.printlock: a path out of our own code"}},
		{"an indirect call", "internal/monitor/monitor.go",
			"\tw.Run()\n}\n", "\tif hook != nil {\n\t\thook()\n\t}\n\tw.Run()\n}\n\nvar hook func()\n",
			[]string{"runRelay: ", "goes to an address that is computed"}},
		{"a function that may grow its stack", "internal/relay/worker.go",
			"//go:nosplit\nfunc (w *Worker) monitorEvent", "func (w *Worker) monitorEvent",
			[]string{"monitorEvent → runtime.morestack", "a path out of our own code"}},
		{"a counter read in assembly", "arch/pump_" + goarch + ".s",
			"\ndrain:\n", "\ndrain:\n\t" + counterRead[goarch].text + "\n",
			[]string{"syd/arch.Pump holds " + counterRead[goarch].kind}},
		{"bytes that are no instruction", sys,
			"\nchild:\n", "\nchild:\n\t" + nonsense[goarch] + "\n",
			[]string{"syd/arch.rawFork+", "is no instruction that the decoder knows"}},
		{"a call without a row, a row without a call", "arch/calls.go",
			"unix.SYS_SHUTDOWN", "unix.SYS_GETPID",
			[]string{"syd/arch.Shutdown: system call", "has no row in the policy"}},
		{"the row that it leaves", "", "", "",
			[]string{"the policy allows shutdown, which the relay never calls"}},
		{"a number that is computed", "arch/calls.go",
			"Syscall6(unix.SYS_CLOSE, uintptr(fd)", "Syscall6(uintptr(fd), uintptr(fd)",
			[]string{"syd/arch.Close: ", "whose number is not known, in confined code"}},
		{"a number that depends on the way", "arch/calls.go",
			"func Pipe2(ends uintptr) int {\n\treturn int(Syscall6(unix.SYS_PIPE2,",
			"func Pipe2(ends uintptr) int {\n\tnr := uintptr(unix.SYS_PIPE2)\n\tif ends == 0 {\n\t\tnr = unix.SYS_CLOSE\n\t}\n\treturn int(Syscall6(nr,",
			[]string{"syd/arch.Pipe2: ", "whose number is not known, in confined code"}},
		{"a call of the monitor without a row", "arch/alone.go",
			"Syscall6(unix.SYS_WRITE,", "Syscall6(unix.SYS_READ,",
			[]string{"(*Monitor).", "syd/arch.Write: system call", "has no row in the policy"}},
		{"the row that it leaves", "", "", "",
			[]string{"the policy allows write, which the monitor never calls"}},
		{"another call before the monitor's filter", "arch/alone.go",
			"unix.SYS_LSEEK", "unix.SYS_FSYNC",
			[]string{"signalOthers: system call", "is not among those that come before confinement"}},
		{"another call before confinement", "internal/relay/region.go",
			"unix.SYS_DUP3", "unix.SYS_GETPID",
			[]string{"Adopt: system call", "is not among those that come before confinement"}},
		{"the row that this leaves", "", "", "",
			[]string{"the row for dup3 before confinement is used by nothing"}},
	}
}

// build builds syd-tor as it is shipped, with the changed files in the place of theirs.
func build(t *testing.T, changed map[string]string, flags ...string) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var overlay struct{ Replace map[string]string }
	overlay.Replace = map[string]string{}
	for file, text := range changed {
		to := filepath.Join(dir, strings.ReplaceAll(file, "/", "-"))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[filepath.Join(root, file)] = to
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay"), list, 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "syd-tor")
	args := []string{"build", "-trimpath", "-buildvcs=false", "-overlay", filepath.Join(dir, "overlay"), "-o", binary}
	cmd := exec.Command("go", append(append(args, flags...), "./cmd/syd-tor")...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH, "GOARM=7")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %v: %v\n%s", cmd.Args, err, out)
	}
	return binary
}

// TestAudit audits syd-tor for this architecture as it is, which is the control, and with every breakage at once.
func TestAudit(t *testing.T) {
	r, err := audit(build(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.faults {
		t.Error("as it is:", f)
	}

	changed := map[string]string{}
	for _, b := range breakages(runtime.GOARCH) {
		if b.file == "" {
			continue
		}
		text, ok := changed[b.file]
		if !ok {
			source, err := os.ReadFile(filepath.Join("../..", b.file))
			if err != nil {
				t.Fatal(err)
			}
			text = string(source)
		}
		if !strings.Contains(text, b.old) {
			t.Fatalf("%s: %s no longer has %q", b.name, b.file, b.old)
		}
		changed[b.file] = strings.Replace(text, b.old, b.new, 1)
	}
	r, err = audit(build(t, changed))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range breakages(runtime.GOARCH) {
		said := slices.ContainsFunc(r.faults, func(f string) bool {
			return !slices.ContainsFunc(b.faults, func(part string) bool { return !strings.Contains(f, part) })
		})
		if !said {
			t.Errorf("%s: no line with %q among:\n%s", b.name, b.faults, strings.Join(r.faults, "\n"))
		}
	}
}

// Without symbols there is nothing to go by, and that must not pass.
func TestAuditNeedsSymbols(t *testing.T) {
	if r, err := audit(build(t, nil, "-ldflags=-s")); err == nil {
		t.Errorf("no error, but %q", r.summary)
	}
}

func TestTablesHaveReasons(t *testing.T) {
	for _, rows := range [][]allowance{stubs, leaves, indirect, fromData} {
		for _, row := range rows {
			if row.why == "" {
				t.Errorf("%s: no reason", row.functions)
			}
		}
	}
	for _, row := range guards {
		if row.why == "" {
			t.Errorf("%s: no reason", row.functions)
		}
	}
}

// TestConstants: what is constant at a point is so on every way to it.
func TestConstants(t *testing.T) {
	a, b := register(1), slot(8)
	body := []inst{
		{pc: 0, writes: []write{constant(a, 7)}},
		{pc: 1, writes: []write{copied(b, a)}},
		{pc: 2, flow: branches, target: 4},
		{pc: 3, writes: []write{constant(a, 9)}},
		{pc: 4, flow: branches, target: 6},
		{pc: 5, writes: []write{{to: slot(4), size: 8}}},
		{pc: 6, forgets: true},
		{pc: 7, flow: returns},
		{pc: 8},
	}
	before := constants(body)
	for _, c := range []struct {
		at    int
		place place
		value uint64
		known bool
	}{
		{1, a, 7, true}, {2, b, 7, true}, {3, a, 7, true},
		{4, a, 0, false}, // 7 or 9
		{4, b, 7, true},
		{6, b, 0, false}, // overwritten in part on one way
		{7, b, 0, false},
	} {
		if v, known := before[c.at][c.place]; known != c.known || v != c.value {
			t.Errorf("before %d: %v is %d, %t; want %d, %t", c.at, c.place, v, known, c.value, c.known)
		}
	}
	if before[8] != nil {
		t.Error("after a return something is reached")
	}
}
