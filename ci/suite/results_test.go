package main

import (
	"bytes"
	"strings"
	"testing"
)

const guestLine = `{"Action":"run","Package":"syd/ci/suite/guest","Test":"TestGuest"}
{"Action":"output","Package":"syd/ci/suite/guest","Test":"TestGuest","Output":"    guest_test.go:20: guest GOARCH=arm machine=armv7l uid=0\n"}
{"Action":"pass","Package":"syd/ci/suite/guest","Test":"TestGuest"}
{"Action":"pass","Package":"syd/ci/suite/guest","Elapsed":0.1}
`

// A run that is not well must never read as one that is: each row is a stream that go test writes when something of
// the kind happens, and what the report must say. The first two rows are the controls.
func TestReport(t *testing.T) {
	rows := []struct {
		name, stream string
		well         bool
		says         string
	}{
		{"all passed", guestLine, true, "\n1 passed, 0 failed, 0 skipped\n"},
		{"skipped with leave", guestLine +
			`{"Action":"run","Package":"syd/p","Test":"TestS"}
{"Action":"output","Package":"syd/p","Test":"TestS","Output":"=== RUN   TestS\n"}
{"Action":"output","Package":"syd/p","Test":"TestS","Output":"    p_test.go:7: no seccomp here\n"}
{"Action":"skip","Package":"syd/p","Test":"TestS"}
{"Action":"pass","Package":"syd/p"}
`, true, "skip arm   syd/p TestS: no seccomp here; runs elsewhere\n1 passed, 0 failed, 1 skipped\n"},

		{"skipped without leave", guestLine +
			`{"Action":"run","Package":"syd/p","Test":"TestOther"}
{"Action":"skip","Package":"syd/p","Test":"TestOther"}
{"Action":"pass","Package":"syd/p"}
`, false, "TestOther: skipped without leave: no reason given"},
		{"leave of a longer name's prefix", guestLine +
			`{"Action":"skip","Package":"syd/p","Test":"TestSkip"}
`, false, "TestSkip: skipped without leave"},
		{"a test failed", guestLine +
			`{"Action":"run","Package":"syd/p","Test":"TestF"}
{"Action":"fail","Package":"syd/p","Test":"TestF"}
{"Action":"fail","Package":"syd/p"}
`, false, "FAIL arm   syd/p TestF\n1 passed, 1 failed, 0 skipped\n"},
		{"the binary died in a test", guestLine +
			`{"Action":"start","Package":"syd/p"}
{"Action":"run","Package":"syd/p","Test":"TestD"}
{"Action":"output","Package":"syd/p","Test":"TestD","Output":"panic: boom\n"}
{"Action":"fail","Package":"syd/p"}
`, false, "syd/p TestD: it did not end\npanic: boom"},
		{"the binary ended with status 0 in a test", guestLine +
			`{"Action":"start","Package":"syd/p"}
{"Action":"run","Package":"syd/p","Test":"TestD"}
{"Action":"pass","Package":"syd/p"}
`, false, "1 passed, 1 failed"},
		{"the binary failed outside tests", guestLine +
			`{"Action":"start","Package":"syd/p"}
{"Action":"output","Package":"syd/p","Output":"TestMain: no daemon\n"}
{"Action":"fail","Package":"syd/p"}
`, false, "failed apart from its tests:\nTestMain: no daemon"},
		{"does not build", guestLine +
			`{"ImportPath":"syd/p","Action":"build-output","Output":"p.go:1: undefined: x\n"}
{"ImportPath":"syd/p","Action":"build-fail"}
{"Action":"start","Package":"syd/p"}
{"Action":"fail","Package":"syd/p","FailedBuild":"syd/p"}
`, false, "does not build:\np.go:1: undefined: x"},
		{"the stream ends early", guestLine +
			`{"Action":"start","Package":"syd/p"}
`, false, "syd/p: the results end before the tests do"},
		{"no guest", "", false, `the guest did not print "guest GOARCH=arm machine=armv7l "`},
		{"the host ran it", strings.ReplaceAll(guestLine, "armv7l", "x86_64"), false, "the guest did not print"},
	}
	leave := []skip{{pkg: "p", test: "TestS", arches: []string{"arm"}, where: "elsewhere"}}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			var out bytes.Buffer
			run := newResults("arm")
			if err := run.read(strings.NewReader(row.stream), &out); err != nil {
				t.Fatal(err)
			}
			run.proved("guest GOARCH=arm machine=armv7l ")
			if well := run.print(&out, leave); well != row.well {
				t.Errorf("well: %v, want %v", well, row.well)
			}
			if !strings.Contains(out.String(), row.says) {
				t.Errorf("printed %q, want it to say %q", out.String(), row.says)
			}
		})
	}
}

func TestBrokenStream(t *testing.T) {
	if err := newResults("arm").read(strings.NewReader(`{"Action":`), &bytes.Buffer{}); err == nil {
		t.Error("half an event is no error")
	}
}

// A test that one architecture lacks is told as a skip, and needs leave.
func TestCompare(t *testing.T) {
	var total results
	for _, run := range []*results{
		{arch: "amd64", passed: []name{{"amd64", "syd/p", "TestA"}, {"amd64", "syd/p", "TestB"}}},
		{arch: "arm", passed: []name{{"arm", "syd/p", "TestA"}, {"arm", "syd/p", "TestA/sub"}}},
	} {
		total.add(run)
	}
	total.compare()
	if len(total.skipped) != 1 || total.skipped[name{"arm", "syd/p", "TestB"}] == "" {
		t.Errorf("skipped %v, want TestB on arm alone", total.skipped)
	}
	var out bytes.Buffer
	if total.print(&out, nil) {
		t.Error("well, though a test is missing on arm")
	}
}

func TestLeaveHasReasons(t *testing.T) {
	for _, row := range allowed {
		if row.why == "" || row.where == "" {
			t.Errorf("%s %s: says not why it may skip, or not where it runs", row.pkg, row.test)
		}
	}
}
