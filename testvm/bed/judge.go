package bed

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"syd/testvm/event"
	"syd/testvm/guest"
)

// Status of a cell. There is no fifth.
type Status string

const (
	Passed        Status = "passed"
	Failed        Status = "failed"
	NotApplicable Status = "n/a"
	Unavailable   Status = "unavailable"
)

// Cell is one suite as one user in one guest.
type Cell struct {
	Arch    string `json:"arch"`    // GOARCH of the programs
	Kernel  string `json:"kernel"`  // row of kernels.txt
	Package string `json:"package"` // exact Debian version of the kernel
	Release string `json:"release"` // uname -r, as the guest told it
	Variant string `json:"variant,omitempty"`
	Suite   string `json:"suite"`
	User    string `json:"user"`

	Status  Status   `json:"status"`
	Reason  string   `json:"reason,omitempty"` // of any status but passed
	Tests   int      `json:"tests"`            // top-level tests that passed
	Cases   int      `json:"cases"`            // subtests that passed
	Skipped []string `json:"skipped,omitempty"`
	Seconds float64  `json:"seconds"`
}

var testName = regexp.MustCompile(`^(Test|Fuzz)([^a-z].*)?$`)

// Expected returns the top-level tests that the binary holds. It asks the symbol table and not the program: so the
// list is the host's for any architecture, and a guest cannot shorten it.
func Expected(binary, pkg, run string) ([]string, error) {
	f, err := elf.Open(binary)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", binary, err)
	}
	// As go test does: each level of the pattern matches its own level of names.
	top, err := regexp.Compile(strings.Split(run, "/")[0])
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range symbols {
		name, ok := strings.CutPrefix(s.Name, pkg+".")
		if !ok {
			name, ok = strings.CutPrefix(s.Name, pkg+"_test.")
		}
		if ok && elf.ST_TYPE(s.Info) == elf.STT_FUNC && testName.MatchString(name) &&
			!strings.ContainsAny(name, ".[-(") && name != "TestMain" && top.MatchString(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Judge fills in the status of a cell from what the guest reported. Passed needs everything: the guest reached its
// end marker, the program ended by itself with status 0, and each expected test passed or was allowed to skip.
func Judge(c *Cell, rep *guest.Report, run *guest.Run, expected []string) error {
	results, cases, err := parse(run.Output)
	if err != nil {
		return err
	}
	var wrong []string
	red := func(format string, a ...any) { wrong = append(wrong, fmt.Sprintf(format, a...)) }
	switch e := run.Exit; {
	case !run.Started:
		red("never started")
	case e == nil:
		red("never ended")
	case e.Hung:
		red("hung: killed after its time limit (%s)", e.Status)
	case e.Status != event.OK:
		red("%s%s", e.Status, crash(run.Output))
	}
	if rep.Problem != "" {
		red("guest: %s", rep.Problem)
	}
	if len(expected) == 0 {
		red("no test in the binary")
	}
	for _, name := range expected {
		switch results[name] {
		case "pass":
			c.Tests++
		case "skip": // judged below
		case "":
			red("%s: no result", name)
		default:
			red("%s: %s", name, results[name])
		}
	}
	for _, name := range cases {
		switch {
		case results[name] == "pass":
			if strings.Contains(name, "/") {
				c.Cases++
			}
		case results[name] != "skip":
			if strings.Contains(name, "/") {
				red("%s: %s", name, results[name])
			}
		default:
			c.Skipped = append(c.Skipped, name)
			if _, ok := find(MaySkip, c, name); !ok {
				red("%s: skipped, and no rule allows that", name)
			}
		}
	}
	if run.Exit != nil {
		c.Seconds = run.Exit.Seconds
	}
	c.Status = Passed
	if len(wrong) > 0 {
		c.Status = Failed
		c.Reason = strings.Join(wrong, "; ")
	}
	return nil
}

// crash is the line by which a Go program says why it dies, if it did.
func crash(output []byte) string {
	for line := range bytes.Lines(output) {
		if bytes.HasPrefix(line, []byte("panic: ")) || bytes.HasPrefix(line, []byte("fatal error: ")) {
			return ": " + strings.TrimSpace(string(line))
		}
	}
	return ""
}

// parse returns the result of each test and subtest, and their names in order. The reader of -test.v output is Go's
// own.
func parse(output []byte) (results map[string]string, names []string, err error) {
	cmd := exec.Command("go", "tool", "test2json")
	cmd.Stdin = bytes.NewReader(output)
	out, err := cmd.Output()
	if err != nil {
		return nil, nil, fmt.Errorf("go tool test2json: %w", err)
	}
	results = map[string]string{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var e struct{ Action, Test string }
		if err := d.Decode(&e); err == io.EOF {
			return results, names, nil
		} else if err != nil {
			return nil, nil, fmt.Errorf("go tool test2json: %w", err)
		}
		if e.Test == "" {
			continue
		}
		switch e.Action {
		case "pass", "fail", "skip":
			if results[e.Test] == "" {
				names = append(names, e.Test)
			}
			results[e.Test] = e.Action
		}
	}
}
