package jail

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"syd/internal/config"
	"syd/internal/exit"
)

func TestTable(t *testing.T) {
	if len(Steps) > MaxSteps {
		t.Fatalf("%d steps, and room for %d results", len(Steps), MaxSteps)
	}
	seen := map[string]bool{}
	for i, s := range Steps {
		id := StepID(i)
		if s.Name == "" || s.What == "" || seen[s.Name] || s.Name == "all" {
			t.Errorf("step %d: name %q, what %q", i, s.Name, s.What)
		}
		seen[s.Name] = true
		for _, need := range s.Needs {
			if need >= id {
				t.Errorf("%s needs %s, which comes later", s.Name, Steps[need].Name)
			}
		}
		switch s.Where {
		case Before, After:
			if s.apply == nil {
				t.Errorf("%s has no apply", s.Name)
			}
		case Clone:
			if s.flag == 0 || s.check == nil || namespaceFiles[id] == "" {
				t.Errorf("%s lacks a flag, a check or a file", s.Name)
			}
		case Child:
			if s.build == nil {
				t.Errorf("%s has no calls", s.Name)
			}
		default:
			t.Errorf("%s is carried out nowhere: %q", s.Name, s.Where)
		}
	}
}

// TestOrder holds the orders that are a matter of life and death against the table.
func TestOrder(t *testing.T) {
	for _, tt := range []struct {
		first, then StepID
		why         string
	}{
		{handshake, identity, "an identity must be mapped before it can be taken"},
		{identity, parentDeath, "a change of identity clears the parent-death signal"},
		{identity, dumpable, "a change of identity sets dumpable anew"},
		{workdir, root, "the directory of the external socket is mounted from there"},
		{root, landlockFS, "Landlock denies mounts"},
		{root, capabilities, "mounts take capabilities"},
		{bounding, capabilities, "so does the bounding set"},
		{memory, seal, "sealed memory cannot be unmapped"},
		{vdso, seal, "sealed memory cannot be unmapped"},
		{noNewPrivs, landlockFS, "Landlock asks for it"},
		{landlockUDP, descriptors, "rulesets are descriptors"},
		{tsc, seccomp, "the filter allows no prctl"},
	} {
		if tt.first >= tt.then {
			t.Errorf("%s must come before %s: %s", Steps[tt.first].Name, Steps[tt.then].Name, tt.why)
		}
	}
	if slices.ContainsFunc(Steps[seccomp+1:], func(s Step) bool { return s.Where == Child }) {
		t.Error("seccomp is not the relay's last step")
	}
}

func inet(t *testing.T) config.Upstream {
	u, err := config.ParseAddr(config.DefaultExternal)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestWithout(t *testing.T) {
	for _, tt := range []struct {
		without []string
		all     bool
		off     []StepID // some that must be
		on      []StepID
		err     string
	}{
		{on: []StepID{mdwe, userNS, root, seccomp, monitorSeccomp}},
		{without: []string{"mountns"}, off: []StepID{mountNS, root}, on: []StepID{userNS, landlockFS}},
		{without: []string{"no-new-privs"}, off: []StepID{noNewPrivs, landlockTCP, seccomp}, on: []StepID{tsc}},
		{without: []string{"tsc", "seal"}, off: []StepID{tsc, seal}, on: []StepID{vaultSeal, seccomp}},
		{without: []string{"all"}, off: []StepID{mdwe, identity, seccomp, monitorSeccomp}, on: []StepID{handshake, descriptors}},
		{all: true, off: []StepID{mdwe, identity, seccomp, monitorSeccomp}, on: []StepID{handshake, descriptors}},
		{without: []string{"secomp"}, err: `--without "secomp": not a step; --check lists them`},
		{without: []string{"descriptors"}, err: `--without "descriptors": the relay cannot work without this step`},
	} {
		j, err := New(inet(t), tt.without, tt.all)
		if tt.err != "" {
			if err == nil || err.Error() != tt.err || exit.Of(err) != exit.Usage {
				t.Errorf("%v: %v, want %s", tt.without, err, tt.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", tt.without, err)
			continue
		}
		for _, id := range tt.off {
			if j.on(id) {
				t.Errorf("%v: %s is on", tt.without, Steps[id].Name)
			}
		}
		for _, id := range tt.on {
			if !j.on(id) {
				t.Errorf("%v: %s is off", tt.without, Steps[id].Name)
			}
		}
	}
}

// TestSockaddr sees that a socket with a path goes by its name where the relay works in its directory.
func TestSockaddr(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct{ path, want string }{
		{dir + "/socket", "socket\x00"},
		{dir + "/@socket", "./@socket\x00"},
		{"@abstract", "\x00abstract"},
	} {
		u, err := config.ParseUnix(tt.path)
		if err != nil {
			t.Fatal(err)
		}
		// Without identity: a temporary directory may be closed to nobody.
		j, err := New(u, []string{"identity"}, false)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(j.Sockaddr()[2:]); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.path, got, tt.want)
		}
		if j, err = New(u, nil, true); err != nil {
			t.Fatal(err)
		}
		if got, want := string(j.Sockaddr()), string(u.Sockaddr()); got != want {
			t.Errorf("%s unconfined: %q, want %q", tt.path, got, want)
		}
	}
	u, _ := config.ParseUnix(dir + "/nowhere/socket")
	if _, err := New(u, nil, false); exit.Of(err) != exit.Unavailable || !strings.Contains(err.Error(), "-u") {
		t.Errorf("a directory that is not there: %v", err)
	}
}

// TestClosedDirectory: an ordinary user is told which directory he may not search.
func TestClosedDirectory(t *testing.T) {
	if os.Geteuid() == 0 {
		runtime.LockOSThread() // for good: the thread has lost root's leave
		unix.Setfsuid(nobody)
	}
	j := &Jail{upstream: config.Upstream{Family: unix.AF_UNIX, Path: "/link/socket"}, place: place{"/", "socket"}}
	if err := j.checkAccess(); err != nil {
		t.Errorf("control: %v", err)
	}
	dir, err := os.MkdirTemp("", "syd")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	if err := os.Chmod(dir, 0); err != nil {
		t.Fatal(err)
	}
	j.place.dir = dir
	want := fmt.Sprintf(`-u "/link/socket": its directory %s: permission denied`, dir)
	if err := j.checkAccess(); exit.Of(err) != exit.Unavailable || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestNoSuchFamily: a kernel without IPv6 is one without this family.
func TestNoSuchFamily(t *testing.T) {
	_, err := New(config.Upstream{Family: unix.AF_MAX, Addr: netip.MustParseAddrPort("[::1]:9")}, nil, false)
	if exit.Of(err) != exit.OS || !errors.Is(err, unix.EAFNOSUPPORT) || !strings.HasPrefix(err.Error(), "-o ") {
		t.Errorf("%v", err)
	}
}

func TestMay(t *testing.T) {
	u := user{uid: nobody, gid: nobody, groups: []uint32{7}}
	for _, tt := range []struct {
		uid, gid, mode uint32
		want           bool
	}{
		{0, 0, 0o666, true},
		{0, 0, 0o660, false},
		{0, 7, 0o660, true},
		{0, 7, 0o606, false}, // the group's bits count, not the others'
		{nobody, 0, 0o600, true},
		{nobody, 0, 0o066, false},
	} {
		st := unix.Stat_t{Uid: tt.uid, Gid: tt.gid, Mode: tt.mode}
		if got := u.may(&st, unix.W_OK); got != tt.want {
			t.Errorf("uid %d gid %d mode %o: %v", tt.uid, tt.gid, tt.mode, got)
		}
	}
}

func TestJoin(t *testing.T) {
	got := join([]span{{40, 50}, {10, 20}, {20, 30}, {45, 60}, {70, 70}})
	if want := []span{{10, 30}, {40, 60}, {70, 70}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestImage compares the program headers with what the kernel says that it mapped of this file.
func TestImage(t *testing.T) {
	all, err := mappings("self")
	if err != nil {
		t.Fatal(err)
	}
	elf, err := image()
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, m := range all {
		if m.name == exe {
			found++
			if m.start < elf.start || m.end > elf.end {
				t.Errorf("%#x-%#x %s is not in %#x-%#x", m.start, m.end, m.name, elf.start, elf.end)
			}
		}
	}
	if found < 2 {
		t.Errorf("%d mappings of the program found", found)
	}
}

func TestOutcomes(t *testing.T) {
	var results Results
	p := &Prisoner{results: &results}
	results[identity] = refused | uint32(unix.EPERM)<<8
	if err := p.Explain(); err == nil || err.Error() != "confinement step identity: operation not permitted" {
		t.Errorf("Explain: %v", err)
	}
	for raw, want := range map[uint32]Status{
		held:                             Holds,
		notReached:                       Failed,
		inert:                            Failed,
		refused | uint32(unix.ENOSYS)<<8: Absent,
		refused | uint32(unix.EACCES)<<8: Failed,
		inert | uint32(unix.EPERM)<<8:    Failed,
		0xffffff00 | 7:                   Failed, // hostile
	} {
		results[seal] = raw
		if got := p.outcome(seal).Status; got != want {
			t.Errorf("%#x: %s, want %s", raw, got, want)
		}
	}
}
