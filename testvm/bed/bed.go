// Package bed is the matrix: which suites run in which guests, how they are built, and what counts as passed.
//
// It guarantees that each cell of architecture × kernel × variant × suite × user is there with one of four statuses,
// and that Passed cannot come from anything missing: see Judge. What it cannot see is a test that asserts nothing.
package bed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"syd/testvm/event"
	"syd/testvm/guest"
	"syd/testvm/kernel"
)

// Bed runs guests.
type Bed struct {
	Builder Builder
	QEMU    *kernel.QEMU
	Cache   string        // of kernels
	Logs    string        // consoles, events and outputs
	Jobs    int           // guests at a time
	Boot    time.Duration // limit for a guest, on top of its programs'
	Log     func(format string, a ...any)
	Done    func([]Cell) // unless nil, is given each guest's cells as it ends, from any goroutine
}

// Guest is one row of the matrix.
type Guest struct {
	Row     kernel.Row
	Arch    string
	Variant Variant
}

// String names the guest in logs and file names.
func (g Guest) String() string {
	s := g.Arch + "@" + g.Row.Name
	if g.Variant.Name != "" {
		s += "+" + g.Variant.Name
	}
	return s
}

// Guests returns the rows that kernels, userlands and variants span.
func Guests(rows []kernel.Row) []Guest {
	var gs []Guest
	newest := newestStable(rows)
	for _, r := range rows {
		for i, arch := range Userlands[r.Arch] {
			for _, v := range Variants {
				if v.Name == "" || i == 0 && r.Name == newest[r.Arch] {
					gs = append(gs, Guest{r, arch, v})
				}
			}
		}
	}
	return gs
}

// Own returns one guest per architecture: its newest stable kernel with its own programs.
func Own(rows []kernel.Row) []Guest {
	newest := newestStable(rows)
	return slices.DeleteFunc(Guests(rows), func(g Guest) bool {
		return g.Row.Name != newest[g.Row.Arch] || g.Variant.Name != "" || g.Arch != Userlands[g.Row.Arch][0]
	})
}

// Run boots the guests, Jobs at a time, and returns all cells in the order of the guests. An error is the bed's own:
// something did not build or could not be started.
func (b *Bed) Run(ctx context.Context, guests []Guest, suites []Suite) ([]Cell, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cells := make([][]Cell, len(guests))
	slots := make(chan bool, max(1, b.Jobs))
	var wg sync.WaitGroup
	for i, g := range guests {
		slots <- true
		wg.Go(func() {
			defer func() { <-slots }()
			if ctx.Err() != nil {
				return
			}
			c, err := b.one(ctx, g, suites)
			if err != nil {
				cancel(fmt.Errorf("%v: %w", g, err))
			}
			if cells[i] = c; ctx.Err() == nil && b.Done != nil {
				b.Done(c)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return slices.Concat(cells...), nil
}

// one runs every suite in one guest.
func (b *Bed) one(ctx context.Context, g Guest, suites []Suite) ([]Cell, error) {
	cells := g.cells(suites)
	img, err := g.Row.Fetch(ctx, b.Cache)
	if err != nil {
		for i := range cells {
			cells[i].Status, cells[i].Reason = Unavailable, err.Error()
		}
		b.Log("%v: unavailable: %v", g, err)
		return cells, ctx.Err()
	}
	init, err := b.Builder.Program(ctx, g.Arch, "./testvm/init")
	if err != nil {
		return nil, err
	}
	spec := guest.Spec{
		QEMU: b.QEMU, Kernel: img, Arch: g.Arch, Init: init, Files: map[string]string{},
		Cmdline: g.Variant.Cmdline, Sysctl: g.Variant.Sysctl,
		Console: filepath.Join(b.Logs, g.String()+".console"),
		Events:  filepath.Join(b.Logs, g.String()+".events"),
		Timeout: b.Boot,
	}
	for _, t := range tools {
		if spec.Files["bin/"+t.as], err = kernel.Tool(ctx, b.Cache, debian(g.Arch), t.pkg, t.name); err != nil {
			return nil, err
		}
	}
	deny, err := numbers(g.Arch, g.Variant.Deny)
	if err != nil {
		return nil, err
	}
	expected := map[string][]string{}
	for i := range cells {
		c, s := &cells[i], suite(suites, cells[i].Suite)
		c.Package = img.Version
		if reason, ok := find(Inapplicable, c, ""); ok {
			c.Status, c.Reason = NotApplicable, reason
			continue
		}
		bin, err := b.Builder.Test(ctx, g.Arch, s.Package)
		if err != nil {
			return nil, err
		}
		pkg, err := b.Builder.ImportPath(ctx, s.Package)
		if err != nil {
			return nil, err
		}
		if expected[s.Name], err = Expected(bin, pkg, s.Run); err != nil {
			return nil, err
		}
		spec.Files[s.dir()+"/test"] = bin
		if err := b.testdata(spec.Files, s); err != nil {
			return nil, err
		}
		for _, name := range s.Bin {
			if spec.Files["bin/"+name], err = b.Builder.Program(ctx, g.Arch, "./cmd/"+name); err != nil {
				return nil, err
			}
		}
		spec.Programs = append(spec.Programs, s.program(c, deny))
		spec.Timeout += s.Timeout
	}
	if len(spec.Programs) == 0 {
		return cells, nil
	}
	rep, err := guest.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	if rep.Problem == "" {
		rep.Problem = g.proof(rep.Boot)
	}
	for i := range cells {
		c := &cells[i]
		if c.Status != "" {
			continue
		}
		c.Release = rep.Boot.Release
		run := rep.Runs[c.program()]
		if err := Judge(c, rep, run, expected[c.Suite]); err != nil {
			return nil, err
		}
		log := filepath.Join(b.Logs, g.String()+"."+c.program()+".log")
		if err := writeFile(log, run.Output); err != nil {
			return nil, err
		}
	}
	b.Log("%v: %s %s: %s, %.1f s", g, img.Package, img.Version, tally(cells), rep.Seconds)
	for _, c := range cells {
		if c.Status == Failed {
			b.Log("  %s: %s", c.program(), c.Reason)
		}
	}
	return cells, nil
}

// tools are what tests expect of any system and the guests would lack.
var tools = []struct{ pkg, name, as string }{
	{"busybox-static", "busybox", "busybox"},
	{"bash-static", "bash-static", "bash"},
}

// dir is the suite's folder in the guest. It stands for the package's: the working directory of its tests.
func (s *Suite) dir() string { return "tests/" + s.Name }

// testdata adds the files that go test would let the tests see beside them.
func (b *Bed) testdata(files map[string]string, s *Suite) error {
	root := filepath.Join(b.Builder.Root, s.Package)
	return filepath.WalkDir(filepath.Join(root, "testdata"), func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.Type().IsRegular():
			rel, err := filepath.Rel(root, p)
			files[s.dir()+"/"+rel] = p
			return err
		}
		return nil
	})
}

// proof compares what the guest says of itself with what it was meant to be; emulators and caches have lied before.
func (g Guest) proof(boot event.Event) string {
	switch {
	case boot.Arch != g.Arch:
		return fmt.Sprintf("runs GOARCH %q, not %s", boot.Arch, g.Arch)
	case !g.Row.Is(boot.Release):
		return fmt.Sprintf("runs Linux %q, not %s", boot.Release, g.Row.Series())
	}
	return ""
}

func (g Guest) cells(suites []Suite) []Cell {
	var cells []Cell
	for _, s := range suites {
		for _, uid := range s.Users {
			cells = append(cells, Cell{
				Arch: g.Arch, Kernel: g.Row.Name, Variant: g.Variant.Name, Suite: s.Name, User: users[uid],
			})
		}
	}
	return cells
}

var users = map[int]string{0: "root", guest.User: "user"}

// program names the cell's program in the plan.
func (c *Cell) program() string { return c.Suite + "-" + c.User }

func suite(suites []Suite, name string) *Suite {
	i := slices.IndexFunc(suites, func(s Suite) bool { return s.Name == name })
	return &suites[i]
}

func (s *Suite) program(c *Cell, deny []int) event.Program {
	p := event.Program{
		Name: c.program(),
		Dir:  "/" + s.dir(),
		Argv: []string{"./test", "-test.v=test2json", "-test.paniconexit0"},
		Env: append([]string{
			"SYD_BIN=/bin", "TESTVM_KERNEL=" + c.Kernel, "TESTVM_VARIANT=" + c.Variant, "TESTVM_USER=" + c.User,
		}, s.Env...),
		Timeout: s.Timeout, Deny: deny,
	}
	if s.Run != "" {
		p.Argv = append(p.Argv, "-test.run="+s.Run)
	}
	if s.Short {
		p.Argv = append(p.Argv, "-test.short")
	}
	for uid, name := range users {
		if name == c.User {
			p.UID = uid
		}
	}
	return p
}

// tally counts cells by status, such as "3 passed, 1 failed".
func tally(cells []Cell) string {
	n := map[Status]int{}
	for _, c := range cells {
		n[c.Status]++
	}
	var s []string
	for _, k := range slices.Sorted(maps.Keys(n)) {
		s = append(s, fmt.Sprintf("%d %s", n[k], k))
	}
	return strings.Join(s, ", ")
}
