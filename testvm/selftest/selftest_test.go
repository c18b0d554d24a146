//go:build testvm

// Package selftest proves that the test bed turns red. A bed that cannot is worth less than none: every other result
// in the matrix rests on this one.
package selftest

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"syd/testvm/bed"
	"syd/testvm/event"
	"syd/testvm/guest"
	"syd/testvm/kernel"
)

// wrong is one way to go wrong. Guests are costly, so cases that leave the guest alive share one.
type wrong struct {
	name  string
	run   string // tests of package broken
	alone bool   // in a guest of its own
	want  string // part of the cell's reason; empty: must pass
}

var table = []wrong{
	{"pass", "^TestPass$", false, ""},
	{"orphan", "^TestOrphan$", false, ""},
	{"orphan-gone", "^TestOrphanGone$", false, ""},
	{"fail", "^TestFail$", false, "TestFail: fail"},
	{"case-fails", "^TestCaseFails$", false, "TestCaseFails/case: fail"},
	{"panic", "^(TestPanic|TestPass)$", false, "panic: on purpose"},
	{"skip", "^TestSkip$", false, "TestSkip: skipped, and no rule allows that"},
	{"case-skips", "^TestCaseSkips$", false, "TestCaseSkips/case: skipped, and no rule allows that"},
	{"hang", "^TestHang$", false, "hung"},
	{"quit", "^TestQuit", false, "TestQuitLater: no result"},
	{"lie", "^TestLie", false, "TestLieLater: no result"},
	{"killed", "^TestKilled$", false, "signal: killed"},
	{"no-test", "^TestNothing$", false, "no test in the binary"},
	{"kernel-panic", "^TestKernelPanic$", true, "Kernel panic"},
	{"power-off", "^TestPowerOff$", true, "no end marker"},
	{"halt", "^TestHalt$", true, "no end marker after"},
	{"forge", "^TestForge$", true, "an end marker that is not this plan's"},
	{"deadlock", "^TestDeadlock$", false, "fatal error: all goroutines are asleep"},
	{"noise", "^TestNoise$", true, `"noise" is no event`},
}

// TestRed runs every case and compares the cell with the table: red for the reason given and no other, or green.
func TestRed(t *testing.T) {
	row, b := newBed(t)
	var together []bed.Suite
	for _, w := range table {
		s := bed.Suite{
			Name: w.name, Package: "./testvm/selftest/broken", Run: w.run, Users: []int{0}, Timeout: 5 * time.Second,
			Env: []string{"BROKEN_PORT=" + guest.Machines[row.Arch].Port},
		}
		if !w.alone {
			together = append(together, s)
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			check(t, b, row, []bed.Suite{s})
		})
	}
	t.Run("together", func(t *testing.T) {
		t.Parallel()
		check(t, b, row, together)
	})
}

func check(t *testing.T, b *bed.Bed, row kernel.Row, suites []bed.Suite) {
	cells, err := b.Run(t.Context(), []bed.Guest{{Row: row, Arch: "amd64"}}, suites)
	if err != nil {
		t.Fatal(err)
	}
	if len(cells) != len(suites) {
		t.Fatalf("%d cells for %d suites", len(cells), len(suites))
	}
	for _, c := range cells {
		w := table[slices.IndexFunc(table, func(w wrong) bool { return w.name == c.Suite })]
		switch {
		case w.want == "" && c.Status != bed.Passed:
			t.Errorf("%s: %s (%s), want passed", c.Suite, c.Status, c.Reason)
		case w.want != "" && c.Status != bed.Failed:
			t.Errorf("%s: %s, want failed", c.Suite, c.Status)
		case !strings.Contains(c.Reason, w.want):
			t.Errorf("%s: reason %q, want %q in it", c.Suite, c.Reason, w.want)
		case w.want != "" && !bed.Red([]bed.Cell{c}, func(string) bool { return true }):
			t.Errorf("%s: the cell is failed and the run is not red", c.Suite)
		}
	}
}

// TestInitGivesUp demands that a guest whose plan cannot be followed is red, and says why.
func TestInitGivesUp(t *testing.T) {
	row, b := newBed(t)
	img, err := row.Fetch(t.Context(), b.Cache)
	if err != nil {
		t.Fatal(err)
	}
	pid1, err := b.Builder.Program(t.Context(), "amd64", "./testvm/init")
	if err != nil {
		t.Fatal(err)
	}
	rep, err := guest.Start(t.Context(), guest.Spec{
		QEMU: b.QEMU, Kernel: img, Arch: "amd64", Init: pid1, Sysctl: map[string]string{"no/such": "1"},
		Programs: []event.Program{{Name: "p", Argv: []string{"/none"}, Timeout: time.Second}},
		Timeout:  b.Boot, Console: t.TempDir() + "/console", Events: t.TempDir() + "/events",
	})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(rep.Problem, "init: sysctl") || rep.Runs["p"].Started {
		t.Fatalf("problem %q, started %v", rep.Problem, rep.Runs["p"].Started)
	}
}

// TestUnavailable demands that a kernel which is not there, or is not the one the row names, is unavailable, and that
// this is red for a stable row alone.
func TestUnavailable(t *testing.T) {
	row, b := newBed(t)
	gone, other := row, row
	gone.Package = "linux-image-there-is-none"
	other.Name = "amd64-1.0"
	cells, err := b.Run(t.Context(), []bed.Guest{{Row: gone, Arch: "amd64"}, {Row: other, Arch: "amd64"}}, []bed.Suite{
		{Name: "pass", Package: "./testvm/selftest/broken", Run: "^TestPass$", Users: []int{0}, Timeout: time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cells {
		if c.Status != bed.Unavailable || c.Reason == "" {
			t.Errorf("%s: %s (%s)", c.Kernel, c.Status, c.Reason)
		}
	}
	for _, stable := range []bool{true, false} {
		if bed.Red(cells, func(string) bool { return stable }) != stable {
			t.Errorf("stable %v: red is %v", stable, !stable)
		}
	}
}

// newBed returns the newest stable amd64 kernel and a bed in the tree's out/vm. All tests share what it has built.
func newBed(t *testing.T) (kernel.Row, *bed.Bed) {
	t.Helper()
	b, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	rows, err := kernel.Table()
	if err != nil {
		t.Fatal(err)
	}
	var row kernel.Row
	for _, r := range rows {
		if r.Arch == "amd64" && r.Stable {
			row = r
		}
	}
	return row, b
}

var shared = sync.OnceValues(func() (*bed.Bed, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return nil, fmt.Errorf("go list -m: %w", err)
	}
	out := strings.TrimSpace(string(root)) + "/out/vm"
	cache, err := kernel.Cache(out)
	if err != nil {
		return nil, err
	}
	qemu, err := kernel.FetchQEMU(context.Background(), cache)
	if err != nil {
		return nil, err
	}
	return &bed.Bed{
		Builder: bed.Builder{Root: strings.TrimSpace(string(root)), Dir: out + "/bin"},
		QEMU:    qemu, Cache: cache, Logs: out + "/selftest", Jobs: 1, Boot: 40 * time.Second,
		Log: func(string, ...any) {}, // a red cell is what is wanted here
	}, nil
})
