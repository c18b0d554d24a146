package bed

import "syd/testvm/kernel"

// Variant is a kernel made to lack something, so that fallback paths run on purpose and not only on old kernels.
type Variant struct {
	Name    string // empty: the kernel as it comes
	Text    string
	Cmdline string
	Sysctl  map[string]string
	// Deny names system calls that fail with ENOSYS; see Calls.
	Deny []string
}

// Variants are rows of the matrix of their own; those with a name run on the newest stable kernels alone,
// with their own userland: of what a variant leaves, they have most.
var Variants = []Variant{
	{},
	{Name: "nolandlock", Text: "Landlock is not among the security modules", Cmdline: "lsm=capability"},
	{Name: "nouserns", Text: "user namespaces are forbidden", Sysctl: map[string]string{"user/max_user_namespaces": "0"}},
	{Name: "nomseal", Text: "mseal(2) is missing", Deny: []string{"mseal"}},
	{Name: "noseccomp", Text: "seccomp(2) is missing", Deny: []string{"seccomp"}},
}

// Userlands says which GOARCHs run on a kernel of a Debian architecture: its own first.
var Userlands = map[string][]string{
	"amd64":   {"amd64", "386"},
	"i386":    {"386"},
	"arm64":   {"arm64", "arm"},
	"armhf":   {"arm"},
	"riscv64": {"riscv64"},
}

// debian is Debian's name of the architecture whose programs are goarch's.
func debian(goarch string) string {
	for name, arches := range Userlands {
		if arches[0] == goarch {
			return name
		}
	}
	return ""
}

// newestStable names, for each architecture of Debian, the last stable row: kernels.txt is in order of age.
func newestStable(rows []kernel.Row) map[string]string {
	last := map[string]string{}
	for _, r := range rows {
		if r.Stable {
			last[r.Arch] = r.Name
		}
	}
	return last
}
