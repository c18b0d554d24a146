//go:build cgo

// Policygen compiles the tables of internal/policy with libseccomp into the programs embedded there, for every
// architecture, on any host. It needs cgo and libseccomp's headers; nothing else in the module does.
//
//	policygen -numbers DIR   writes DIR/numbers.go: the call numbers, from golang.org/x/sys/unix
//	policygen DIR            writes DIR/programs/
//	policygen -check DIR     writes nothing, and fails if DIR is not what it would write
//
// The same libseccomp gives the same bytes. Numbers come first, in a run of its own, because the second run has
// them compiled in.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	seccomp "github.com/seccomp/libseccomp-golang"

	"syd/internal/policy"
)

func main() {
	numbers := flag.Bool("numbers", false, "write the table of call numbers")
	check := flag.Bool("check", false, "compare instead of writing")
	flag.Parse()
	if err := run(*numbers, *check, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "policygen:", err)
		os.Exit(1)
	}
}

func run(numbers, check bool, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: policygen [-numbers | -check] directory of package policy")
	}
	dir := args[0]
	files := map[string][]byte{}
	if numbers || check {
		if err := numberTable(files); err != nil {
			return err
		}
	}
	if !numbers {
		if err := compileAll(files); err != nil {
			return err
		}
	}
	if check {
		return compare(dir, files)
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o666); err != nil {
			return err
		}
	}
	return nil
}

// compare holds the files of dir against those made now, and names every one that differs, lacks or is left over.
func compare(dir string, files map[string][]byte) error {
	var errs []error
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		switch {
		case err != nil:
			errs = append(errs, err)
		case !bytes.Equal(got, want):
			errs = append(errs, fmt.Errorf("%s is not what the tables compile to; run make generate", name))
		}
	}
	have, err := fs.Glob(os.DirFS(dir), programs+"/*")
	for _, name := range have {
		if _, ok := files[name]; !ok {
			errs = append(errs, fmt.Errorf("%s belongs to no policy", name))
		}
	}
	major, minor, micro := seccomp.GetLibraryVersion()
	if v := fmt.Sprintf("%d.%d.%d", major, minor, micro); len(errs) != 0 && v != version {
		errs = append(errs, fmt.Errorf("the programs in the tree are libseccomp %s's, and this is %s", version, v))
	}
	slices.SortFunc(errs, func(a, b error) int { return bytes.Compare([]byte(a.Error()), []byte(b.Error())) })
	return errors.Join(append(errs, err)...)
}

const (
	programs = "programs"
	// version is the release that made the programs in the tree. Another one may order its instructions otherwise.
	version = "2.5.4"
)

func compileAll(files map[string][]byte) error {
	for _, a := range policy.Arches {
		for _, p := range policy.Policies(a) {
			c, err := compilePolicy(p)
			if err != nil {
				return fmt.Errorf("%s for %s: %w", p.Name, a.Name, err)
			}
			base := programs + "/" + a.Name + "_" + p.Name
			files[base+policy.BPFSuffix] = c.bpf
			files[base+policy.SiteSuffix] = c.sites
			files[base+policy.PFCSuffix] = c.pfc
		}
	}
	return nil
}
