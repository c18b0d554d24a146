// Audit reads finished executables of syd-tor and holds them against tables of what they may do.
//
// It guarantees, of the code as linked: from where relay and monitor leave the Go runtime no call or jump leads out of
// this project's own code but to the functions that the tables name; nothing in there goes to an address that is
// computed, or is an instruction that the decoder does not know; the functions of the whole binary that enter the
// kernel or read a counter are exactly those listed; and the system calls of the confined code are exactly those of the
// policy.
//
// It does not follow data: which values the arguments take is the policy's business, and code that someone writes
// into memory is W^X's. Stores through pointers are taken not to hit a caller's own outgoing arguments.
//
// Read tables.go first, then audit.go, graph.go and numbers.go.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: audit executable...")
		os.Exit(64)
	}
	sound := true
	for _, file := range os.Args[1:] {
		r, err := audit(file)
		if err != nil {
			fmt.Fprintln(os.Stderr, "audit:", err)
			sound = false
			continue
		}
		for _, f := range r.faults {
			fmt.Fprintf(os.Stderr, "audit: %s: %s\n", file, f)
		}
		sound = sound && len(r.faults) == 0
		fmt.Println(r.summary)
	}
	if !sound {
		os.Exit(1)
	}
}
