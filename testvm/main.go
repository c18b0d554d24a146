// Testvm boots kernels under QEMU and runs test suites in them.
//
//	go run ./testvm                          every guest: the matrix
//	go run ./testvm -arch arm -kernel 6.12   the guests that match
//	go run ./testvm -smoke                   the newest stable kernel of each architecture, quick suites
//
// It ends with 0 if every cell passed or does not apply, 1 if any failed or a stable suite's kernel could not be had,
// and 2 if the bed itself failed.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"syd/testvm/bed"
	"syd/testvm/kernel"
)

func main() {
	green, err := run()
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "testvm:", err)
		os.Exit(2)
	case !green:
		os.Exit(1)
	}
}

// bootLimit is forty times what the slowest guest takes to boot and power off on an idle machine.
const bootLimit = 2 * time.Minute

func run() (green bool, err error) {
	var (
		arch     = flag.String("arch", "", "only guests whose programs are of this `GOARCH`")
		kern     = flag.String("kernel", "", "only kernels of this `name` (amd64-6.12) or series (6.12)")
		variant  = flag.String("variant", "*", "only this `variant`; empty is the kernel as it comes")
		only     = flag.String("suite", "", "only these suites, comma-separated `names`")
		smoke    = flag.Bool("smoke", false, "one guest per architecture, newest stable kernel, quick suites")
		list     = flag.Bool("list", false, "print the guests and suites, and boot nothing")
		jobs     = flag.Int("j", 2, "`guests` at a time")
		out      = flag.String("o", "out/vm", "`folder` for binaries, logs and results")
		resume   = flag.Bool("resume", false, "leave out guests that passed in the last run, if that was of the same commit with the same QEMU")
		markdown = flag.String("markdown", "", "write the table to this `file` as well")
	)
	flag.Parse()
	if flag.NArg() > 0 {
		return false, fmt.Errorf("no operands, please: %q", flag.Args())
	}
	rows, err := kernel.Table()
	if err != nil {
		return false, err
	}
	guests := bed.Guests(rows)
	if *smoke {
		guests = bed.Own(rows)
	}
	guests = slices.DeleteFunc(guests, func(g bed.Guest) bool {
		return *arch != "" && g.Arch != *arch ||
			*kern != "" && g.Row.Name != *kern && g.Row.Series() != *kern ||
			*variant != "*" && g.Variant.Name != *variant
	})
	if len(guests) == 0 {
		return false, fmt.Errorf("no guest matches -arch %q -kernel %q -variant %q", *arch, *kern, *variant)
	}
	suites, err := choose(*only, *smoke)
	if err != nil {
		return false, err
	}
	if *list {
		for _, g := range guests {
			fmt.Println(g)
		}
		for _, s := range suites {
			fmt.Println("suite", s.Name, s.Package)
		}
		return true, nil
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	cache, err := kernel.Cache(*out)
	if err != nil {
		return false, err
	}
	qemu, err := kernel.FetchQEMU(ctx, cache)
	if err != nil {
		return false, err
	}
	b := bed.Bed{
		Builder: bed.Builder{Root: ".", Dir: filepath.Join(*out, "bin")},
		QEMU:    qemu, Cache: cache, Logs: filepath.Join(*out, "logs"), Jobs: *jobs, Boot: bootLimit,
		Log: func(format string, a ...any) { fmt.Fprintf(os.Stderr, format+"\n", a...) },
	}
	results, left := bed.Describe(ctx, ".", qemu), guests
	file := filepath.Join(*out, "results.json")
	if *resume {
		var last bed.Results
		if err := read(file, &last); err != nil {
			return false, fmt.Errorf("-resume: %w", err)
		}
		left = results.Resume(last, guests, suites)
	}
	// Written as they come, for a run that does not end.
	var mu sync.Mutex
	b.Done = func(cells []bed.Cell) {
		mu.Lock()
		defer mu.Unlock()
		// Programs are built as guests need them, over hours.
		if now := bed.Describe(ctx, ".", qemu).Commit; now != results.Commit && results.Clean() {
			b.Log("the tree changed: %s is %s now", results.Commit, now)
			results.Commit += bed.Dirty
		}
		results.Cells = append(results.Cells, cells...)
		results.Sort(guests)
		if err := write(file, results.WriteJSON); err != nil {
			b.Log("%v", err)
		}
	}
	if _, err := b.Run(ctx, left, suites); err != nil {
		return false, err
	}
	if *markdown != "" {
		if err := write(*markdown, results.WriteMarkdown); err != nil {
			return false, err
		}
	}
	stable := func(name string) bool {
		return slices.ContainsFunc(rows, func(r kernel.Row) bool { return r.Name == name && r.Stable })
	}
	return !bed.Red(results.Cells, stable), results.WriteText(os.Stdout)
}

func choose(names string, smoke bool) ([]bed.Suite, error) {
	if names == "" {
		return slices.DeleteFunc(slices.Clone(bed.Suites), func(s bed.Suite) bool { return smoke && !s.Smoke }), nil
	}
	var suites []bed.Suite
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(bed.Suites, func(s bed.Suite) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("-suite %s: no such suite", name)
		}
		suites = append(suites, bed.Suites[i])
	}
	return suites, nil
}

func read(name string, into any) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func write(name string, f func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	w, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := f(w); err != nil {
		w.Close()
		return err
	}
	return w.Close()
}
