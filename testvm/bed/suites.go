package bed

import (
	"path"
	"time"

	"syd/testvm/guest"
)

// Suite is a Go test binary and how guests run it.
type Suite struct {
	Name    string
	Package string // compiled with go test -c, CGO_ENABLED=0 and the tag testvm
	Run     string // -test.run; empty is every test
	Short   bool   // -test.short
	Env     []string
	Users   []int    // once as each: 0, guest.User
	Bin     []string // programs of cmd/ that the suite needs, as /bin/NAME
	Timeout time.Duration
	Smoke   bool // part of make test-vm-smoke
}

// Suites is in the order in which guests run them and columns appear.
var Suites = []Suite{
	{Name: "bed", Package: "./testvm/event", Users: []int{guest.User}, Timeout: time.Minute, Smoke: true},
	{Name: "arch", Package: "./arch", Short: true, Users: []int{guest.User}, Timeout: 3 * time.Minute, Smoke: true},
	{Name: "config", Package: "./internal/config", Users: []int{guest.User}, Timeout: time.Minute},
	{Name: "decide", Package: "./internal/relay", Users: []int{guest.User}, Timeout: time.Minute},
	{
		Name: "check", Package: "./testvm/inside", Run: "^TestCheck$", Users: []int{0, guest.User}, Bin: []string{"syd-tor"},
		Timeout: time.Minute, Smoke: true,
	},
	{Name: "jail", Package: "./internal/jail", Users: []int{0}, Timeout: 20 * time.Minute, Smoke: true},
	{
		Name: "main", Package: "./testvm/inside", Run: "^(TestMainJob|TestSandbox)$", Users: []int{0, guest.User},
		Bin: []string{"syd", "syd-tor", "demo"}, Timeout: 3 * time.Minute, Smoke: true,
	},
	{Name: "launch", Package: "./internal/launch", Users: []int{guest.User}, Timeout: time.Minute},
	{Name: "command", Package: "./internal/command", Users: []int{guest.User}, Timeout: time.Minute},
	{
		// The others need curl, a terminal, or dash(1): bash and busybox ignore SIGQUIT until they exec. TestBadTor
		// links the programs into a temporary folder, which here is another file system.
		Name: "syd", Package: "./cmd/syd", Run: "^(TestScript|TestIdentity|TestPrivileges|TestNoWayBack|TestFirstConnection)$",
		Users: []int{0, guest.User}, Bin: []string{"syd", "syd-tor"},
		Timeout: 5 * time.Minute,
	},
	{Name: "relay", Package: "./cmd/syd-tor", Short: true, Users: []int{guest.User}, Timeout: 10 * time.Minute},
	// What only root may see of the confined processes.
	{Name: "outside", Package: "./cmd/syd-tor", Run: "^(TestNothingLeaks|TestRest)$", Users: []int{0}, Timeout: 2 * time.Minute},
}

// Rule says where a suite, or one test of it, does not apply, and why. Empty patterns match everything, others as in
// path.Match. A rule must be provable: the kernel or the architecture cannot have it. "It fails" is no reason.
type Rule struct {
	Suite, Test  string
	Arch, Kernel string
	Variant      string
	User         string
	Reason       string
}

// Inapplicable suites appear as n/a with the reason.
var Inapplicable = []Rule{
	{Suite: "bed", Variant: "?*", Reason: sameWithout},
	{Suite: "arch", Variant: "?*", Reason: sameWithout},
	{Suite: "config", Variant: "?*", Reason: sameWithout},
	{Suite: "decide", Variant: "?*", Reason: sameWithout},
	{Suite: "relay", Variant: "?*", Reason: sameWithout},
	{Suite: "outside", Variant: "?*", Reason: sameWithout},
	{Suite: "jail", Variant: "?*", Reason: "holds a kernel against its version; check and main hold the variants"},
	{Suite: "launch", Variant: "?*", Reason: sameWithout},
	{Suite: "command", Variant: "?*", Reason: sameWithout},
	{Suite: "syd", Variant: "?*", Reason: "main is the suite that knows of variants"},
	{Suite: "check", Variant: "noseccomp", Reason: "syd-tor refuses to run, which main demands"},
}

const sameWithout = "does not touch what the variant takes away"

// MaySkip lists the only tests that may skip, and where. Any other skip is red.
var MaySkip = []Rule{
	{Suite: "launch", Test: "TestDomain", Kernel: "*-6.1", Reason: "no Landlock scopes before 6.12"},
	{Suite: "launch", Test: "TestDomain", Kernel: "*-6.1-*", Reason: "no Landlock scopes before 6.12"},
	{Suite: "launch", Test: "TestDomain", Kernel: "*-6.5", Reason: "no Landlock scopes before 6.12"},
	{Suite: "relay", Test: "TestNothingLeaks", User: "user", Reason: "only root may look at a confined process, which outside does"},
	{Suite: "relay", Test: "TestRest", User: "user", Reason: "only root may look at a confined process, which outside does"},
	{Suite: "main", Test: "TestSandbox", Variant: "noseccomp", Reason: "syd refuses to start anything, which TestMainJob demands"},
	{Suite: "main", Test: "TestSandbox", Variant: "nouserns", User: "user", Reason: "syd refuses to start anything, which TestMainJob demands"},
}

func (r Rule) matches(c *Cell, test string) bool {
	return glob(r.Suite, c.Suite) && glob(r.Arch, c.Arch) && glob(r.Kernel, c.Kernel) && glob(r.Variant, c.Variant) && glob(r.User, c.User) &&
		glob(r.Test, test)
}

func glob(pattern, s string) bool {
	if pattern == "" {
		return true
	}
	ok, err := path.Match(pattern, s)
	return err == nil && ok
}

// find returns the reason of the first rule that matches.
func find(rules []Rule, c *Cell, test string) (string, bool) {
	for _, r := range rules {
		if r.matches(c, test) {
			return r.Reason, true
		}
	}
	return "", false
}
