//go:build testvm

package selftest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"syd/testvm/bed"
	"syd/testvm/kernel"
)

// sabotage is one thing broken in the source: the matrix must turn red where it is held, and nowhere else.
type sabotage struct {
	name     string
	file     string         // %s is the GOARCH
	good     *regexp.Regexp // is there exactly once
	bad      string         // in its place, with $1 and so on from good
	generate bool           // compile the policy again
	suites   map[string]string
	red      string         // the suite that must fail
	tests    *regexp.Regexp // matches every test that fails
}

var sabotages = []sabotage{
	{
		name: "policy-row", file: "internal/policy/relay.go", generate: true,
		good:   regexp.MustCompile(`at\("addrlen", AddrLen\)`),
		bad:    `free("addrlen")`,
		suites: map[string]string{"config": "", "arch": "", "jail": "^TestAttacks$"},
		red:    "jail", tests: regexp.MustCompile(`^TestAttacks(/connect/(longer|shorter|high-half)/(seccomp|all))?$`),
	},
	{
		name: "assembly-stub", file: "arch/sys_%s.s",
		good:   regexp.MustCompile(`a6\+(48|24)\(FP\)(, [A-Z0-9]+)\n`),
		bad:    "nr+0(FP)$2\n",
		suites: map[string]string{"config": "", "arch": ""},
		red:    "arch", tests: regexp.MustCompile(`^Test(SixArguments|Pump\w+(/.*)?)$`),
	},
}

// TestSabotage breaks one policy row, and one instruction of an assembly stub, in the sources of each architecture.
// Overlays do it: no file of the tree is touched.
func TestSabotage(t *testing.T) {
	_, shared := newBed(t)
	rows, err := kernel.Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sabotages {
		for _, g := range bed.Own(rows) {
			t.Run(s.name+"/"+g.Arch, func(t *testing.T) {
				t.Parallel()
				b := bed.Bed{
					Builder: bed.Builder{Root: shared.Builder.Root, Dir: t.TempDir(), Overlay: s.overlay(t, shared.Builder.Root, g.Arch)},
					QEMU:    shared.QEMU, Cache: shared.Cache, Boot: shared.Boot, Log: shared.Log,
					Logs: filepath.Join(shared.Logs, s.name),
				}
				var suites []bed.Suite
				for _, suite := range bed.Suites {
					if run, ok := s.suites[suite.Name]; ok {
						suite.Run = run
						suites = append(suites, suite)
					}
				}
				cells, err := b.Run(t.Context(), []bed.Guest{g}, suites)
				if err != nil {
					t.Fatal(err)
				}
				if len(cells) != len(s.suites) {
					t.Fatalf("%d cells for %d suites", len(cells), len(s.suites))
				}
				for _, c := range cells {
					s.check(t, c)
				}
			})
		}
	}
}

// check demands that the cell fails for the tests that hold what is broken and for no other reason, or passes.
func (s *sabotage) check(t *testing.T, c bed.Cell) {
	if c.Suite != s.red {
		if c.Status != bed.Passed {
			t.Errorf("%s: %s (%s), want passed", c.Suite, c.Status, c.Reason)
		}
		return
	}
	reasons := strings.Split(c.Reason, "; ")
	if c.Status != bed.Failed || reasons[0] != "exit status 1" || len(reasons) < 2 {
		t.Fatalf("%s: %s (%s), want tests that failed", c.Suite, c.Status, c.Reason)
	}
	for _, r := range reasons[1:] {
		if name, ok := strings.CutSuffix(r, ": fail"); !ok || !s.tests.MatchString(name) {
			t.Errorf("%s: %s, and only %v should fail", c.Suite, r, s.tests)
		}
	}
}

// overlay writes what breaks the source, and returns the file for go build -overlay.
func (s *sabotage) overlay(t *testing.T, root, arch string) string {
	t.Helper()
	dir := t.TempDir()
	file := s.file
	if strings.Contains(file, "%s") {
		file = fmt.Sprintf(file, arch)
	}
	source, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(s.good.FindAll(source, -1)); n != 1 {
		t.Fatalf("%s: %v is there %d times, want once", file, s.good, n)
	}
	write := func(name string, data []byte) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, data, 0o666); err != nil {
			t.Fatal(err)
		}
		return name
	}
	var overlay struct{ Replace map[string]string }
	overlay.Replace = map[string]string{filepath.Join(root, file): write("broken", s.good.ReplaceAll(source, []byte(s.bad)))}
	list := func() string {
		text, err := json.Marshal(overlay)
		if err != nil {
			t.Fatal(err)
		}
		return write("overlay", text)
	}
	if !s.generate {
		return list()
	}
	const programs = "programs"
	if err := os.Mkdir(filepath.Join(dir, programs), 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "run", "-overlay="+list(), "./build/policygen", dir)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	compiled, err := filepath.Glob(filepath.Join(dir, programs, "*"))
	if err != nil || !slices.ContainsFunc(compiled, func(p string) bool { return strings.HasPrefix(filepath.Base(p), arch+"_") }) {
		t.Fatalf("no program for %s among %v (%v)", arch, compiled, err)
	}
	for _, p := range compiled {
		overlay.Replace[filepath.Join(root, "internal/policy", programs, filepath.Base(p))] = p
	}
	return list()
}
