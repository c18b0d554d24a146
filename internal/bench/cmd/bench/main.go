// Bench measures this project's forwarder against others and against its marks; see package bench for what it guarantees.
//
// Figures go to standard output; JSON, Markdown and an SVG plot into the directory that -out names.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"syd/internal/bench"
)

func main() {
	bench.Dispatch()
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		code = 71
	}
	os.Exit(code)
}

// scratchEnv names the scratch directory to the process inside the namespaces; without it, a process is outside.
const scratchEnv = "SYD_BENCH_SCRATCH"

func run() (code int, err error) {
	full := flag.Bool("full", false, "longer and more: up to 25 minutes instead of 3")
	out := flag.String("out", "out/bench", "`directory` for bench.json, bench.md and bench.svg")
	sydTor := flag.String("syd-tor", "", "`path` of the syd-tor to measure; its columns are absent without one")
	only := flag.String("peers", "", "measure only forwarders whose name contains one of these `words`, separated by commas")
	setups := flag.String("setups", "", "only these `setups`, separated by commas; rest and growth count as such")
	scenarios := flag.String("scenarios", "", "only scenarios whose name contains one of these `words`, separated by commas")
	rounds := flag.Int("rounds", 0, "number of rounds (3; the duels of -full have nine times as many)")
	from := flag.String("from", "", "measure nothing: write the report of this bench.json `file` again, by today's marks")
	budget := flag.Duration("budget", 0, "time for everything (2m30s; 22m with -full)")
	flag.Parse()
	if flag.NArg() > 0 {
		return 64, fmt.Errorf("operand %q: none is expected", flag.Arg(0))
	}
	if *from != "" {
		return 0, report(*from, *out)
	}
	dir := os.Getenv(scratchEnv)
	inside := dir != ""
	if !inside {
		if dir, err = os.MkdirTemp("", "syd-bench-"); err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil { // forwarders run as users of their own
			return 0, err
		}
		// In namespaces of its own, if the machine allows it: then this process waits for the one inside, and cleans up.
		code, err := bench.InNamespaces(os.Args[1:], scratchEnv+"="+dir)
		bench.Sweep(dir)
		if err == nil {
			return code, nil
		}
		fmt.Fprintf(os.Stderr, "bench: %v; measuring on the machine's own loopback device\n", err)
	}
	c := bench.Config{Dir: dir, Full: *full, Rounds: 3, Budget: 150 * time.Second, Inside: inside, Log: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
	}}
	if *full {
		c.Rounds, c.Budget = 3, 22*time.Minute
	}
	if *rounds > 0 {
		c.Rounds = *rounds
	}
	if *budget > 0 {
		c.Budget = *budget
	}
	if *sydTor != "" {
		if c.SydTor, err = copyProgram(*sydTor, dir); err != nil {
			return 0, err
		}
	}
	for _, p := range bench.Peers {
		if *only == "" || containsAny(p.Name, strings.Split(*only, ",")) {
			c.Peers = append(c.Peers, p)
		}
	}
	chosen := func(name string) bool { return *setups == "" || containsAny(name, strings.Split(*setups, ",")) }
	for _, s := range bench.Setups {
		if chosen(s.Name) {
			s.Scenarios = slices.DeleteFunc(slices.Clone(s.Scenarios), func(sc bench.Scenario) bool {
				return *scenarios != "" && !containsAny(sc.Name, strings.Split(*scenarios, ","))
			})
			c.Setups = append(c.Setups, s)
		}
	}
	c.Rest, c.Growth = chosen("rest"), chosen("growth")
	results, err := bench.Measure(c)
	results.WriteText(os.Stdout)
	return 0, errors.Join(err, write(*out, results))
}

// report writes the report of an earlier run again.
func report(from, out string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	results, err := bench.ReadJSON(f)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	results.WriteText(os.Stdout)
	return write(out, results)
}

func containsAny(name string, words []string) bool {
	for _, w := range words {
		if strings.Contains(name, w) {
			return true
		}
	}
	return false
}

// copyProgram puts the program where every user can execute it.
func copyProgram(path, dir string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	to := filepath.Join(dir, "syd-tor")
	return to, os.WriteFile(to, b, 0o755)
}

func write(dir string, r *bench.Results) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range []struct {
		name  string
		write func(io.Writer) error
	}{
		{"bench.json", r.WriteJSON},
		{"bench.md", func(w io.Writer) error { r.WriteMarkdown(w, "bench.svg"); return nil }},
		{"bench.svg", func(w io.Writer) error { r.WritePlot(w); return nil }},
	} {
		to, err := os.Create(filepath.Join(dir, f.name))
		if err != nil {
			return err
		}
		if err := f.write(to); err != nil {
			to.Close()
			return err
		}
		if err := to.Close(); err != nil {
			return err
		}
	}
	return nil
}
