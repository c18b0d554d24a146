package bed

import "fmt"

// Calls are numbers of system calls that variants take away, by GOARCH. They stand here because the host builds the
// plan for guests of any architecture, and golang.org/x/sys/unix has only the host's own.
var Calls = map[string]map[string]int{
	"mseal":   {"amd64": 462, "386": 462, "arm64": 462, "arm": 462, "riscv64": 462},
	"seccomp": {"amd64": 317, "386": 354, "arm64": 277, "arm": 383, "riscv64": 277},
}

func numbers(goarch string, names []string) ([]int, error) {
	var ns []int
	for _, name := range names {
		n, ok := Calls[name][goarch]
		if !ok {
			return nil, fmt.Errorf("no number of %s for %s", name, goarch)
		}
		ns = append(ns, n)
	}
	return ns, nil
}
