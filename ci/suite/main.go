// Suite runs every test of the module on every architecture and tells what happened in one closing line.
//
// The host's own architectures run natively, the others in full under QEMU user emulation. What it guarantees: a
// package that does not build, a test binary that dies, hangs or ends early, a test that is missing on one
// architecture, a skip that the table in skips.go does not allow, and a guest that is not of the architecture it
// should be, each make the run fail. It does not judge confinement on emulated architectures: user emulation has
// none, and the tests say so by skipping.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == insideFlag {
		fmt.Fprintln(os.Stderr, "suite:", inside(os.Args[2:]))
		os.Exit(noNamespace)
	}
	arches := flag.String("arch", strings.Join(allArches(), ","), "comma-separated `architectures`")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: suite [-arch list] [package...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if !suite(ctx, strings.Split(*arches, ","), flag.Args()) {
		os.Exit(1)
	}
}

// variant is a build of some packages other than the usual, with which their tests run once more.
type variant struct {
	name, tags string
	packages   []string
	nativeOnly bool
}

var variants = []variant{
	{"with the generic pump", "purego", []string{"./arch/...", "./internal/relay/...", guestPackage}, false},
	// It answers alike on every architecture, and an emulated one takes ten times as long.
	{"on the fake kernel", "fakekernel", []string{"./internal/relay/...", guestPackage}, true},
}

// suite runs the packages on each architecture in turn and reports whether all is well.
func suite(ctx context.Context, arches, packages []string) bool {
	all := len(packages) == 0
	if all {
		packages = []string{"./..."}
	}
	// The proof that the guest is what it should be runs with whatever else is asked for.
	packages = append(packages, guestPackage)

	var total results
	for _, arch := range arches {
		run, err := test(ctx, arch, packages)
		if err != nil {
			run.broken("%v", err)
		}
		total.add(run)
	}
	total.compare()
	if all {
		// Fewer packages than before, so these results are no part of the comparison.
		for _, v := range variants {
			for _, arch := range arches {
				if v.nativeOnly && !native(arch) {
					continue
				}
				fmt.Printf("%s:\n", v.name)
				run, err := test(ctx, arch, append([]string{"-tags=" + v.tags}, v.packages...))
				if err != nil {
					run.broken("%v", err)
				}
				total.add(run)
			}
		}
	}
	return total.print(os.Stdout, allowed)
}
