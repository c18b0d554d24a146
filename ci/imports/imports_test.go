// Package imports holds the direction of imports as a test: which package may know of which is decided in one table,
// with the reason, and everything else is a mistake.
package imports

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// edge is one import that is allowed.
type edge struct{ from, to, why string }

// anyone in place of an importing package means every one.
const anyone = "*"

// edges lists what each package may import beyond the standard library; paths of the module are without its name.
// Data flows from the programs down to arch, and nothing below knows of anything above it.
var edges = []edge{
	{anyone, "golang.org/x/sys/unix", "the kernel's interface, where package syscall lacks it"},
	{anyone, "internal/exit", "an error carries the exit code that it means"},

	{"cmd/syd-tor", "internal/config", "what it was asked to do"},
	{"cmd/syd-tor", "internal/handoff", "the listener that it was given"},
	{"cmd/syd-tor", "internal/vault", "the address, sealed before anything listens"},
	{"cmd/syd-tor", "internal/jail", "how the relays and their monitor are confined"},
	{"cmd/syd-tor", "internal/monitor", "starts and watches the relays"},
	{"cmd/syd-tor", "internal/version", "--version"},

	{"cmd/syd", "internal/launch", "everything but argv and exit"},
	{"cmd/syd", "internal/version", "-V"},
	{"internal/launch", "internal/command", "the commands of -m and -P"},
	{"internal/launch", "github.com/spf13/pflag", "options, short and long"},
	{"internal/launch", "github.com/landlock-lsm/go-landlock/landlock/syscall", "keeps the program from tracing processes outside"},
	{"internal/launch", "golang.org/x/net/bpf", "assembles the program's filter"},

	{"cmd/demo", "internal/socks", "the upstream"},
	{"internal/socks", "github.com/armon/go-socks5", "a SOCKS5 server"},

	{"internal/config", "github.com/spf13/pflag", "short, clustered, attached and long options"},
	{"internal/monitor", "internal/config", "how many relays, and what to tell of them"},
	{"internal/monitor", "internal/vault", "keeps the sealed address mapped for the relay"},
	{"internal/monitor", "arch", "the way out of the Go runtime, and system calls after that"},
	{"internal/monitor", "internal/policy", "the values that its filter is bound to"},
	{"internal/monitor", "internal/relay", "what the forked process runs"},
	{"internal/monitor", "internal/jail", "the fork, and what the relay gives up"},
	{"internal/jail", "internal/config", "which external address the relay may reach"},
	{"internal/jail", "internal/policy", "the seccomp programs"},
	{"internal/jail", "internal/vault", "stays mapped in the relay, and is sealed"},
	{"internal/jail", "arch", "the fork, and system calls without the runtime"},
	{"internal/jail", "github.com/landlock-lsm/go-landlock/landlock", "restricts the monitor"},
	{"internal/jail", "github.com/landlock-lsm/go-landlock/landlock/syscall", "makes the relay's rulesets"},
	{"internal/vault", "internal/policy", "where its filter wants the values"},
	{"internal/relay", "internal/config", "the address's family"},
	{"internal/relay", "internal/vault", "where the address is"},
	{"internal/relay", "internal/policy", "the values that its filter is bound to"},
	{"internal/relay", "arch", "system calls without the runtime"},

	{"build/audit", "internal/policy", "the rows that the binary is held against"},
	{"build/audit", "golang.org/x/arch/x86/x86asm", "decodes amd64 and 386"},
	{"build/audit", "golang.org/x/arch/arm64/arm64asm", "decodes arm64"},
	{"build/audit", "golang.org/x/arch/arm/armasm", "decodes arm"},
	{"build/audit", "golang.org/x/arch/riscv64/riscv64asm", "decodes riscv64"},

	{"build/policygen", "internal/policy", "the rows that it compiles"},
	{"build/policygen", "github.com/seccomp/libseccomp-golang", "compiles them"},

	{"internal/bench", "internal/jail", "names of the steps that the unconfined column leaves off"},
	{"internal/bench", "github.com/HdrHistogram/hdrhistogram-go", "latencies"},
	{"internal/bench", "github.com/ajstarks/svgo", "the plot"},
	{"internal/bench", "github.com/prometheus/procfs", "memory, descriptors and context switches"},
	{"internal/bench", "github.com/vishvananda/netlink", "the veth pair"},
	{"internal/bench", "github.com/vishvananda/netns", "its far end"},
	{"internal/bench/cmd/bench", "internal/bench", "is its command line"},

	{"testvm", "testvm/bed", "what runs where"},
	{"testvm", "testvm/kernel", "the table of kernels"},
	{"testvm/bed", "testvm/event", "the plan's programs and their ends"},
	{"testvm/bed", "testvm/guest", "boots"},
	{"testvm/bed", "testvm/kernel", "what to boot"},
	{"testvm/guest", "github.com/cavaliergopher/cpio", "writes the initramfs"},
	{"testvm/guest", "testvm/event", "reads what the guest tells"},
	{"testvm/guest", "testvm/kernel", "what to boot"},
	{"testvm/init", "testvm/event", "tells the host"},
}

// listed is the part of a package that `go list -json` tells and that counts here; imports of tests are free.
type listed struct {
	ImportPath string
	Imports    []string
	Module     struct{ Path string }
}

func list(t *testing.T) []listed {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Module", "./...")
	cmd.Dir = "../.."
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=1") // sees what needs cgo, too; nothing is compiled
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal("go list:", err)
	}
	var all []listed
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := decoder.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal("go list:", err)
		}
		all = append(all, p)
	}
}

// beyond reports whether the path is outside the standard library, and shortens it if it is the module's own.
func beyond(module, path string) (string, bool) {
	if rest, ours := strings.CutPrefix(path, module+"/"); ours {
		return rest, true
	}
	first, _, _ := strings.Cut(path, "/")
	return path, strings.Contains(first, ".")
}

func TestImports(t *testing.T) {
	why := map[edge]string{}
	for _, e := range edges {
		if e.why == "" {
			t.Errorf("%s may import %s: no reason given", e.from, e.to)
		}
		why[edge{e.from, e.to, ""}] = e.why
	}
	used := map[edge]bool{}
	for _, p := range list(t) {
		from, _ := beyond(p.Module.Path, p.ImportPath)
		for _, path := range p.Imports {
			to, counts := beyond(p.Module.Path, path)
			if !counts {
				continue
			}
			e, general := edge{from, to, ""}, edge{anyone, to, ""}
			if why[general] != "" {
				e = general
			}
			used[e] = true
			if why[e] == "" {
				t.Errorf("%s imports %s: not in the table; if the direction is right, add the row with its reason", from, to)
			}
		}
	}
	for e := range why {
		if !used[e] {
			t.Errorf("the row that lets %s import %s is used by nothing: remove it", e.from, e.to)
		}
	}
}
