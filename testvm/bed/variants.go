package bed

// Variant is a kernel made to lack something, so that fallback paths run on purpose and not only on old kernels.
type Variant struct {
	Name    string // empty: the kernel as it comes
	Text    string
	Cmdline string
	Sysctl  map[string]string
	// Deny names system calls that fail with ENOSYS; see Calls.
	Deny []string
}

// Variants are rows of the matrix of their own.
var Variants = []Variant{
	{},
}

// Userlands says which GOARCHs run on a kernel of a Debian architecture: its own first.
var Userlands = map[string][]string{
	"amd64": {"amd64", "386"},
	"i386":  {"386"},
	"arm64": {"arm64", "arm"},
	"armhf": {"arm"},
}
