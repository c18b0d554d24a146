package main

import (
	"regexp"
	"slices"
	"strings"
)

// skip is the leave of tests to skip. It is legal only where the machine provably lacks what the test needs and
// another place has it.
type skip struct {
	pkg    string   // below the module, or a tree: "internal/jail/..."
	test   string   // regular expression of the whole name of a test; what follows a slash is its subtests'
	arches []string // where it may skip; nil is everywhere
	why    string   // what is lacking
	where  string   // where the test does run
}

// emulated lists the architectures that run under user emulation.
var emulated = emulatedArches()

func emulatedArches() []string {
	var list []string
	for _, t := range targets {
		if t.emulator != "" {
			list = append(list, t.goarch)
		}
	}
	return list
}

// allowed is the one list of tests that may skip. A skip that it does not name makes the run fail.
var allowed = []skip{
	{"cmd/syd", `TestScript/proxy|Test(Identity|Privileges|NoWayBack|Signals|KilledSyd|KilledTor|KilledStage|BadTor|TorArguments|FirstConnection|NamespaceRefused|Interrupt|Stop|StopAtStart|ProcessesOutside|WithoutUserNamespace|SydHidden|SocketsWithoutNamespace|TerminalInput|StandardSocket)`,
		emulated, "user emulation refuses CLONE_NEWUSER", "on amd64 and 386"},
	{"cmd/syd", `TestSocketcall`, append([]string{"386"}, emulated...), "a 64-bit syd on x86", "on amd64"},
	{"cmd/syd", `TestSocketsWithoutNamespace/(vsock|vsock-by-library|io_uring|request_key)/\w+`, nil, "a kernel without AF_VSOCK or keys, or with io_uring turned off",
		"on kernels that have them; the filter itself is held against its table everywhere"},
	{"internal/launch", `TestDomain`, emulated, "user emulation has no Landlock", "on amd64 and 386"},
	{"internal/launch", `TestCloseDescriptors`, emulated, "user emulation runs no seccomp filters", "on amd64 and 386"},
	{"cmd/syd-tor", `TestCallsPer(Message|Connection)`, emulated, "user emulation has no ptrace(2)", "on amd64 and 386"},
	{"cmd/syd-tor", `TestPIDNamespace`, emulated, "user emulation refuses CLONE_NEWPID", "on amd64 and 386"},
	{"cmd/syd-tor", `TestRest`, emulated, "an emulator has threads and waits of its own", "on amd64 and 386"},
	{"cmd/syd-tor", `TestNothingLeaks`, emulated, "user emulation confines no relay", "on amd64 and 386"},
	{"cmd/demo", `TestDemo`, emulated, "user emulation refuses CLONE_NEWUSER", "on amd64 and 386"},
	{"internal/bench", `TestSmoke`, emulated, "under user emulation it would measure the emulator", "on amd64 and 386"},
	{"internal/jail", `Test(Attacks|Presence|WithoutUserNamespaces|RequiredStepEndsTheProgram|DeathOfTheMonitor|MonitorAttacks)`, emulated,
		"user emulation has none of what confines", "amd64 and 386 natively, the others in the test bed's guests"},
	{"internal/e2e", `TestRelay\w+/confined`, emulated, "user emulation has none of what confines", "unconfined here, and confined on amd64 and 386"},
	{"internal/e2e", `TestSyd\w+`, emulated, "user emulation refuses CLONE_NEWUSER", "on amd64 and 386"},
	{"internal/policy", `TestKernelAgrees`, emulated, "user emulation runs no seccomp filters", "on amd64 and 386"},
}

// leaveFor returns the row that lets the test skip, or nil.
func leaveFor(leave []skip, id name) *skip {
	_, pkg, _ := strings.Cut(id.pkg, "/") // without the module's name
	for i, row := range leave {
		tree, isTree := strings.CutSuffix(row.pkg, "/...")
		inPackage := pkg == row.pkg || isTree && (pkg == tree || strings.HasPrefix(pkg, tree+"/"))
		isTest := regexp.MustCompile(`^(` + row.test + `)(/|$)`).MatchString(id.test)
		if inPackage && isTest && (row.arches == nil || slices.Contains(row.arches, id.arch)) {
			return &leave[i]
		}
	}
	return nil
}
