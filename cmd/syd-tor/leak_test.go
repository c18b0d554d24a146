package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestNothingLeaks looks through all memory of a relay for what only the monitor should know: its environment, its
// arguments, its path. The monitor itself, and a relay without the step that forgets them, are the controls.
func TestNothingLeaks(t *testing.T) {
	if os.Geteuid() != 0 || !hasSeccomp() {
		t.Skip("only root may read a confined relay's memory, and there must be one")
	}
	// Made now: what stands in the program's text, of which the tests are a part here, is in every relay.
	secret, port := rand.Text(), fmt.Sprint(20000+os.Getpid()%10000)
	t.Setenv("SYD_TOR_TEST_SECRET", secret)
	marks := []string{secret, "PATH=" + os.Getenv("PATH"), "-o\x00127.0.0.1:" + port}
	for _, test := range []struct {
		name   string
		args   []string
		leaves bool // the relay is a control
	}{
		{"confined", nil, false},
		{"workers", []string{"-w", "2"}, false},
		{"control", []string{"--without", "memory"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := startForwarder(t, append([]string{"-o", "127.0.0.1:" + port}, test.args...)...)
			f.counters() // it is confined by then
			if found := search(t, f.cmd.Process.Pid, marks); len(found) != len(marks) {
				t.Errorf("control: the monitor's memory has only %q", found)
			}
			for _, pid := range f.relays() {
				found := search(t, pid, marks)
				if test.leaves && len(found) != len(marks) {
					t.Errorf("control: the relay's memory has only %q", found)
				}
				if !test.leaves && len(found) > 0 {
					t.Errorf("relay %d knows %q", pid, found)
				}
			}
		})
	}
}

// search returns those of marks that are somewhere in the memory of a process.
func search(t *testing.T, pid int, marks []string) (found []string) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	seen, total := map[string]bool{}, 0
	for line := range strings.Lines(string(maps)) {
		var start, end uint64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &start, &end, &mode); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		// The kernel's own pages, which /proc/PID/mem does not give: vvar, and vectors on 32-bit arm.
		if mode[0] != 'r' || strings.Contains(line, "[vvar") || strings.Contains(line, "[vectors]") {
			continue
		}
		memory := make([]byte, end-start)
		if n, err := mem.ReadAt(memory, int64(start)); err != nil {
			t.Fatalf("%d bytes of %q: %v", n, line, err)
		}
		total += len(memory)
		for _, m := range marks {
			seen[m] = seen[m] || bytes.Contains(memory, []byte(m))
		}
	}
	if total == 0 {
		t.Fatal("no memory was read")
	}
	for _, m := range marks {
		if seen[m] {
			found = append(found, m)
		}
	}
	return found
}
