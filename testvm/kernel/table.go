// Package kernel turns the rows of a table of Debian kernels into files that QEMU boots, and has the QEMU for it.
//
// It guarantees that a kernel came from the row's suite through apt's signature and hash checks, and that its exact
// version is known; QEMU likewise, unless the environment names another. The system's own apt configuration, lists and packages are read at most, never changed. It does
// not keep old versions alive: what a suite dropped is an error, unless it is in the cache.
package kernel

import (
	"bufio"
	"bytes"
	_ "embed"
	"fmt"
	"regexp"
	"strings"
)

// Row is one line of the table.
type Row struct {
	Name    string // ARCH-VERSION[-FLAVOUR]
	Arch    string // Debian's name of the kernel's architecture
	Stable  bool   // the suite keeps it; not having it is an error
	Suite   string
	Package string // meta package or the image package itself
}

//go:embed kernels.txt
var kernelsTxt []byte

// Table returns the rows of kernels.txt, for each architecture in order of age.
func Table() ([]Row, error) {
	rows, err := Parse(kernelsTxt)
	if err != nil {
		return nil, fmt.Errorf("kernels.txt: %w", err)
	}
	return rows, nil
}

// Parse reads a table: five fields a line, # comments.
func Parse(text []byte) ([]Row, error) {
	var rows []Row
	seen := map[string]bool{}
	s := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; s.Scan(); n++ {
		line, _, _ := strings.Cut(s.Text(), "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 5 {
			return nil, fmt.Errorf("line %d: %d fields, want name, architecture, class, suite, package", n, len(f))
		}
		if f[2] != "stable" && f[2] != "moving" {
			return nil, fmt.Errorf("line %d: class %q is neither stable nor moving", n, f[2])
		}
		if !strings.HasPrefix(f[0], f[1]+"-") || seen[f[0]] {
			return nil, fmt.Errorf("line %d: name %q does not begin with the architecture, or is there twice", n, f[0])
		}
		seen[f[0]] = true
		rows = append(rows, Row{Name: f[0], Arch: f[1], Stable: f[2] == "stable", Suite: f[3], Package: f[4]})
	}
	return rows, s.Err()
}

// Series is the VERSION part of the name, such as 6.12 or 7.x.
func (r Row) Series() string {
	return strings.Split(strings.TrimPrefix(r.Name, r.Arch+"-"), "-")[0]
}

// Is reports whether version, of a package or from uname(2), belongs to the row's series.
func (r Row) Is(version string) bool {
	re := strings.ReplaceAll(regexp.QuoteMeta(r.Series()), "x", "[0-9]+")
	ok, err := regexp.MatchString("^"+re+"([^0-9]|$)", version)
	return err == nil && ok
}
