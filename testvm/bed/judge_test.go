package bed

import (
	"strings"
	"testing"

	"syd/testvm/event"
	"syd/testvm/guest"
)

// TestJudge: a cell is green only if nothing is missing. The self test has the same of real guests.
func TestJudge(t *testing.T) {
	const (
		pass  = "=== RUN   TestA\n--- PASS: TestA (0.00s)\n=== RUN   TestB\n=== RUN   TestB/one\n--- PASS: TestB (0.00s)\n    --- PASS: TestB/one (0.00s)\nPASS\n"
		half  = "=== RUN   TestA\n--- PASS: TestA (0.00s)\n=== RUN   TestB\n"
		other = half + "--- "
	)
	ended := func(status string) *event.Event { return &event.Event{Kind: event.Exit, Status: status} }
	for _, c := range []struct {
		name, output string
		run          guest.Run
		problem      string
		suite        string
		want         string // the reason; empty: passed
	}{
		{name: "pass", output: pass, run: guest.Run{Started: true, Exit: ended(event.OK)}},
		{name: "no end marker", output: pass, run: guest.Run{Started: true, Exit: ended(event.OK)}, problem: "no end marker", want: "guest: no end marker"},
		{name: "never started", want: "never started; TestA: no result; TestB: no result"},
		{name: "never ended", output: pass, run: guest.Run{Started: true}, want: "never ended"},
		{name: "status", output: pass, run: guest.Run{Started: true, Exit: ended("exit status 1")}, want: "exit status 1"},
		{name: "killed", output: half + "panic: on purpose\n", run: guest.Run{Started: true, Exit: ended("signal: killed")},
			want: "signal: killed: panic: on purpose; TestB: no result"},
		{name: "hung", output: half, run: guest.Run{Started: true, Exit: &event.Event{Status: "signal: killed", Hung: true}},
			want: "hung: killed after its time limit (signal: killed); TestB: no result"},
		{name: "test missing", output: half + "PASS\n", run: guest.Run{Started: true, Exit: ended(event.OK)}, want: "TestB: no result"},
		{name: "test fails, program lies", output: other + "FAIL: TestB (0.00s)\nPASS\n", run: guest.Run{Started: true, Exit: ended(event.OK)},
			want: "TestB: fail"},
		{name: "test skips", output: other + "SKIP: TestB (0.00s)\nPASS\n", run: guest.Run{Started: true, Exit: ended(event.OK)},
			want: "TestB: skipped, and no rule allows that"},
		{name: "test may skip", output: other + "SKIP: TestB (0.00s)\nPASS\n", run: guest.Run{Started: true, Exit: ended(event.OK)}, suite: "lenient"},
		{name: "case fails alone", output: strings.Replace(pass, "    --- PASS", "    --- FAIL", 1), run: guest.Run{Started: true, Exit: ended(event.OK)},
			want: "TestB/one: fail"},
	} {
		t.Run(c.name, func(t *testing.T) {
			MaySkip = append(MaySkip, Rule{Suite: "lenient", Test: "TestB", Reason: "this test"})
			defer func() { MaySkip = MaySkip[:len(MaySkip)-1] }()
			cell := Cell{Suite: c.suite}
			c.run.Output = []byte(c.output)
			if err := Judge(&cell, &guest.Report{Problem: c.problem}, &c.run, []string{"TestA", "TestB"}); err != nil {
				t.Fatal(err)
			}
			if (cell.Status == Passed) != (c.want == "") || cell.Reason != c.want {
				t.Errorf("%s (%s), want %q", cell.Status, cell.Reason, c.want)
			}
			if red := Red([]Cell{cell}, func(string) bool { return true }); red != (c.want != "") {
				t.Errorf("the run is red: %v", red)
			}
		})
	}
	cell := Cell{}
	if err := Judge(&cell, &guest.Report{}, &guest.Run{Started: true, Exit: ended(event.OK)}, nil); err != nil || cell.Status != Failed {
		t.Errorf("a binary without tests: %s, %v", cell.Status, err)
	}
}
