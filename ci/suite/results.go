package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // instead of Package on the output of a build
	Test       string
	Output     string
	Elapsed    float64
}

// name identifies a test or subtest on one architecture.
type name struct{ arch, pkg, test string }

// results holds what became of every test. The zero value holds none.
type results struct {
	arch    string
	passed  []name
	failed  []name
	skipped map[name]string // the reason
	guest   string          // the guest test's output
	errors  []string        // failures that are no test's: builds, dead binaries, a broken stream
}

func newResults(arch string) *results {
	return &results{arch: arch, skipped: map[name]string{}}
}

func (r *results) broken(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

// sound reports whether nothing failed so far.
func (r *results) sound() bool { return len(r.failed) == 0 && len(r.errors) == 0 }

// read takes in a stream of events to its end and writes one line per package to w, and the output of what failed.
func (r *results) read(stream io.Reader, w io.Writer) error {
	output := map[name]*strings.Builder{} // of the tests that have not ended, and of packages under test ""
	running := map[string]bool{}          // packages that have begun and not ended
	count := map[string]int{}             // tests passed per package
	unfinished := map[name]bool{}

	for decoder := json.NewDecoder(stream); ; {
		var e event
		if err := decoder.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		id := name{r.arch, e.Package, e.Test}
		switch e.Action {
		case "start":
			running[e.Package] = true
		case "run":
			unfinished[id] = true
		case "output", "build-output":
			if e.Package == "" {
				id.pkg = e.ImportPath
			}
			if output[id] == nil {
				output[id] = new(strings.Builder)
			}
			output[id].WriteString(e.Output)
		case "build-fail":
			id.pkg = e.ImportPath
			r.broken("%s %s does not build:\n%s", r.arch, id.pkg, text(output[id]))
		case "pass", "fail", "skip":
			delete(unfinished, id)
			said := text(output[id])
			delete(output, id)
			if e.Test == "" {
				delete(running, e.Package)
				r.endPackage(e, count[e.Package], said, unfinished, output, w)
				continue
			}
			switch e.Action {
			case "pass":
				r.passed = append(r.passed, id)
				count[e.Package]++
				if strings.HasSuffix(e.Package, guestPackage[1:]) {
					r.guest += said
				}
			case "fail":
				r.failed = append(r.failed, id)
				fmt.Fprintf(w, "FAIL %s %s %s\n%s", r.arch, e.Package, e.Test, said)
			case "skip":
				r.skipped[id] = reason(said)
			}
		}
	}
	for _, pkg := range slices.Sorted(maps.Keys(running)) {
		r.broken("%s %s: the results end before the tests do", r.arch, pkg)
	}
	return nil
}

// endPackage takes in the event that ends a package. Tests of it that have not ended failed with their binary.
func (r *results) endPackage(e event, passed int, said string, unfinished map[name]bool, output map[name]*strings.Builder, w io.Writer) {
	died := false
	for id := range unfinished {
		if id.pkg != e.Package {
			continue
		}
		died = true
		delete(unfinished, id)
		r.failed = append(r.failed, id)
		fmt.Fprintf(w, "FAIL %s %s %s: it did not end\n%s", r.arch, id.pkg, id.test, text(output[id]))
	}
	switch {
	case e.Action == "fail":
		failures := func(id name) bool { return id.pkg == e.Package }
		if !died && !slices.ContainsFunc(r.failed, failures) {
			r.broken("%s %s: failed apart from its tests:\n%s", r.arch, e.Package, said)
		}
		fmt.Fprintf(w, "FAIL %-5s %-28s %6.1fs\n", r.arch, e.Package, e.Elapsed)
	case died:
	case e.Action == "pass":
		fmt.Fprintf(w, "ok   %-5s %-28s %6.1fs %5d passed\n", r.arch, e.Package, e.Elapsed, passed)
	}
	// A package-level skip is a package without tests: nothing to tell.
}

func text(b *strings.Builder) string {
	if b == nil {
		return ""
	}
	return b.String()
}

// logLine is what testing prints before a message: file and line.
var logLine = regexp.MustCompile(`^\s+\S+\.go:\d+: `)

// reason returns the message of t.Skip, which is the last that a skipped test prints.
func reason(output string) string {
	reason := ""
	for line := range strings.Lines(output) {
		if at := logLine.FindStringIndex(line); at != nil {
			reason = strings.TrimSpace(line[at[1]:])
		}
	}
	if reason == "" {
		return "no reason given"
	}
	return reason
}

// proved records a failure unless the guest's test printed the proof.
func (r *results) proved(proof string) {
	if !strings.Contains(r.guest, proof) {
		r.broken("%s: the guest did not print %q, but %q", r.arch, proof, strings.TrimSpace(r.guest))
	}
}

// add takes in the results of another architecture.
func (r *results) add(other *results) {
	if r.skipped == nil {
		r.skipped = map[name]string{}
	}
	r.passed = append(r.passed, other.passed...)
	r.failed = append(r.failed, other.failed...)
	maps.Copy(r.skipped, other.skipped)
	r.errors = append(r.errors, other.errors...)
}

// compare records a test that one architecture has and another has not as a skip there, so that one that a build
// constraint hides is told, and needs leave, like any other. Subtests may depend on what the kernel offers and are
// not compared.
func (r *results) compare() {
	arches, tests := map[string]bool{}, map[name]bool{}
	seen := map[name]bool{}
	note := func(id name) {
		arches[id.arch] = true
		if !strings.Contains(id.test, "/") {
			seen[id] = true
			tests[name{"", id.pkg, id.test}] = true
		}
	}
	for _, id := range slices.Concat(r.passed, r.failed, slices.Collect(maps.Keys(r.skipped))) {
		note(id)
	}
	for id := range tests {
		for arch := range arches {
			if id.arch = arch; !seen[id] {
				r.skipped[id] = "not among the tests of this architecture"
			}
		}
	}
}

// print writes every skip with its reason, every failure, and the count as the last line. It reports whether all is
// well: something passed, nothing failed, and leave allows each skip.
func (r *results) print(w io.Writer, leave []skip) bool {
	byName := func(a, b name) int {
		return strings.Compare(a.pkg+" "+a.test+" "+a.arch, b.pkg+" "+b.test+" "+b.arch)
	}
	for _, id := range slices.SortedFunc(maps.Keys(r.skipped), byName) {
		row := leaveFor(leave, id)
		if row == nil {
			r.broken("%s %s %s: skipped without leave: %s", id.arch, id.pkg, id.test, r.skipped[id])
			continue
		}
		fmt.Fprintf(w, "skip %-5s %s %s: %s; runs %s\n", id.arch, id.pkg, id.test, r.skipped[id], row.where)
	}
	slices.SortFunc(r.failed, byName)
	for _, id := range r.failed {
		fmt.Fprintf(w, "FAIL %-5s %s %s\n", id.arch, id.pkg, id.test)
	}
	for _, text := range r.errors {
		fmt.Fprintf(w, "FAIL %s\n", text)
	}
	if len(r.passed) == 0 {
		fmt.Fprintln(w, "FAIL no test passed")
	}
	// Told in the form that those who read logs by machine know.
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", len(r.passed), len(r.failed)+len(r.errors), len(r.skipped))
	return r.sound() && len(r.passed) > 0
}
