//go:build testvm

// Package inside is what guests check of the finished programs: the truth of syd-tor's own table of confinement
// steps, and the main job from end to end, on kernels of every age and on kernels made to lack something.
package inside

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// here is the guest, as the bed names it.
var here = struct{ kernel, variant, user string }{
	os.Getenv("TESTVM_KERNEL"), os.Getenv("TESTVM_VARIANT"), os.Getenv("TESTVM_USER"),
}

// series is the kernel's age, such as 6.12; bits those of the kernel, which may be more than the program's.
func series() string { return strings.Split(here.kernel, "-")[1] }

func kernelIs(arches ...string) bool {
	return slices.Contains(arches, strings.Split(here.kernel, "-")[0])
}

// ages are the columns of protections, in the order of their letters.
var ages = []string{"6.1", "6.5", "6.12", "7.x"}

// protection is one row of what kernels have: + present, - absent, in the order of ages. It was measured, by effect, with
// programs that had nothing to do with syd-tor.
type protection struct {
	step string
	ages string
	// only narrows the row further; nil is everywhere.
	only func() bool
}

// protections has a row for each step that not every kernel here has. All others are present everywhere.
var protections = []protection{
	{"mdwe", "-+++", nil},
	// A program of either size can seal on a 64-bit kernel; no 32-bit kernel has the call.
	{"vault", "--++", func() bool { return !kernelIs("i386", "armhf") }},
	{"seal", "--++", func() bool { return !kernelIs("i386", "armhf") }},
	{"landlock-tcp", "--++", nil},
	{"landlock-scope", "--++", nil},
	{"landlock-unix", "---+", nil},
	{"landlock-udp", "---+", nil},
	{"tsc", "++++", func() bool {
		switch runtime.GOARCH {
		case "arm64":
			return series() != "6.1"
		case "arm", "riscv64":
			return false
		}
		return true
	}},
}

// taken says which steps a variant takes away, by prefix of the name.
var taken = map[string][]string{
	"":           nil,
	"nolandlock": {"landlock-", "monitor-landlock"},
	"nomseal":    {"vault", "seal"},
	"nouserns":   {"userns"},
}

// present is what the table of steps must say of a step in this guest.
func present(t *testing.T, step string) bool {
	for _, prefix := range taken[here.variant] {
		if strings.HasPrefix(step, prefix) {
			return false
		}
	}
	// Without a user namespace an ordinary user has no capability for the others, and the root depends on them.
	if here.variant == "nouserns" && here.user == "user" &&
		(step == "root" || step == "bounding" || strings.HasSuffix(step, "ns") && step != "userns") {
		return false
	}
	for _, p := range protections {
		if p.step != step {
			continue
		}
		age := slices.Index(ages, series())
		if age < 0 {
			t.Fatalf("no column for kernels of series %s", series())
		}
		return p.ages[age] == '+' && (p.only == nil || p.only())
	}
	return true
}

// report is the part of syd-tor --check=json that is judged here.
type report struct {
	Kernel string
	Arch   string
	Holds  bool
	Steps  []struct {
		Name, Status, Errno, Detail string
		Required                    bool
	}
}

// TestCheck compares what syd-tor says of this kernel with the table, for each kind of upstream. A step is present or
// absent; "failed", "off" and a step that the table of the other upstream lacks are mistakes.
func TestCheck(t *testing.T) {
	// Not t.TempDir, which is closed to others: a relay that root starts becomes nobody.
	dir := "/tmp/check-" + here.user
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	upstreams := []struct {
		name string
		args []string
		// unneeded are steps that the upstream's family has no use for.
		unneeded []string
	}{
		{"inet", []string{"-o", "127.0.0.1:9050"}, []string{"netns"}},
		{"unix", []string{"-u", dir + "/socket"}, nil},
	}
	for _, u := range upstreams {
		t.Run(u.name, func(t *testing.T) {
			out, stderr, status := run(t, append([]string{"/bin/syd-tor", "--check=json"}, u.args...)...)
			var r report
			if err := json.Unmarshal(out, &r); err != nil {
				t.Fatalf("status %d, %v: %s%s", status, err, out, stderr)
			}
			var uts unix.Utsname
			if err := unix.Uname(&uts); err != nil {
				t.Fatal(err)
			}
			if r.Arch != runtime.GOARCH || r.Kernel != unix.ByteSliceToString(uts.Release[:]) {
				t.Errorf("says %s on Linux %s", r.Arch, r.Kernel)
			}
			if len(r.Steps) < 20 {
				t.Errorf("only %d steps", len(r.Steps))
			}
			all := true
			for _, s := range r.Steps {
				want := "absent"
				switch {
				case slices.Contains(u.unneeded, s.Name):
					want = "unneeded"
				case present(t, s.Name):
					want = "holds"
				}
				all = all && want != "absent"
				if s.Status != want {
					t.Errorf("%s: %s (%s %s), want %s", s.Name, s.Status, s.Errno, s.Detail, want)
				}
			}
			if r.Holds != all || (status == 0) != all {
				t.Errorf("says holds %v and ends with %d, want %v and 0 if so", r.Holds, status, all)
			}
			t.Logf("%s", out)
		})
	}
}

// refusal is how syd must end where a variant takes away what it cannot do without. The program must not have run.
type refusal struct {
	variant, user string
	status        int
	says          string
}

var refusals = []refusal{
	{"noseccomp", "root", 76, "seccomp"},
	{"noseccomp", "user", 76, "seccomp"},
	{"nouserns", "user", 69, "user namespace"}, // root goes on with a network namespace alone
}

// TestMainJob has the demonstration check each of its claims in this guest: a program inside the sandbox that reaches
// the page through the proxy and in no other way. Where the kernel lacks a thing that is required, syd must say so
// and not start the program.
func TestMainJob(t *testing.T) {
	i := slices.IndexFunc(refusals, func(r refusal) bool { return r.variant == here.variant && r.user == here.user })
	if i < 0 {
		out, stderr, status := run(t, "/bin/demo")
		t.Logf("%s%s", out, stderr)
		if status != 0 || !bytes.Contains(out, []byte("ok   proxied")) {
			t.Errorf("demo: status %d", status)
		}
		return
	}
	r := refusals[i]
	const marker = "the program ran"
	out, stderr, status := run(t, "/bin/syd", "-m", "sandbox/proxy:on", "--", "/bin/echo", marker)
	t.Logf("%s", stderr)
	if status != r.status || !strings.Contains(string(stderr), r.says) {
		t.Errorf("status %d, want %d and %q on stderr", status, r.status, r.says)
	}
	if strings.Contains(string(out), marker) {
		t.Error("the program ran")
	}
}

// TestSandbox has the shell look at itself from inside, as whoever started syd.
func TestSandbox(t *testing.T) {
	if slices.ContainsFunc(refusals, func(r refusal) bool { return r.variant == here.variant && r.user == here.user }) {
		t.Skip("syd refuses to start anything here; TestMainJob demands that")
	}
	for _, c := range []struct {
		name, script, out string
		status            int
	}{
		{"identity", "id -u", id(), 0},
		{"status", "exit 7", "", 7},
		{"signal", "kill -TERM $$", "", 128 + 15},
		{"devices", "while read name _; do echo $name; done </proc/net/dev", "Inter-|\nface\nlo:", 0},
		{"environment", "echo $ALL_PROXY", "socks5h://127.0.0.1:9050", 0},
		{"capabilities", "cat /proc/self/status | while read k v; do case $k in CapEff:|CapBnd:) echo $v;; esac; done", "0000000000000000\n0000000000000000", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, stderr, status := run(t, "/bin/syd", "-m", "sandbox/proxy:on", "--", "/bin/sh", "-c", c.script)
			t.Logf("%s%s", out, stderr)
			if status != c.status {
				t.Errorf("status %d, want %d", status, c.status)
			}
			if got := strings.TrimSpace(string(out)); c.out != "" && got != c.out {
				t.Errorf("says %q, want %q", got, c.out)
			}
		})
	}
}

func id() string {
	if here.user == "root" {
		return "0"
	}
	return "1000"
}

// run returns what a program wrote, and its exit status; 128 and the signal if one ended it.
func run(t *testing.T, argv ...string) (stdout, stderr []byte, status int) {
	t.Helper()
	var e bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = &e
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	status = cmd.ProcessState.ExitCode()
	if ws, ok := cmd.ProcessState.Sys().(interface{ Signal() unix.Signal }); ok && status < 0 {
		status = 128 + int(ws.Signal())
	}
	return out, e.Bytes(), status
}
