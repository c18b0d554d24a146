package e2e

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// kin is a process that the tests did not start themselves. The pidfd keeps it apart from a later one with its number.
type kin struct {
	pid, pidfd int
	name       string
}

// descendants returns the children of a process, and theirs, at this moment.
func descendants(t *testing.T, pid int) []kin {
	t.Helper()
	var all []kin
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// proc_pid_stat(5): pid (name) state ppid ...; the name may hold anything, so look from its end.
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		end := bytes.LastIndexByte(stat, ')')
		if err != nil || end < 0 {
			continue // it ended meanwhile
		}
		fields := strings.Fields(string(stat[end+1:]))
		if len(fields) < 2 || fields[0] == "Z" || fields[1] != strconv.Itoa(pid) {
			continue
		}
		pidfd, err := unix.PidfdOpen(child, 0)
		if err != nil {
			continue
		}
		t.Cleanup(func() { unix.Close(pidfd) })
		_, name, _ := strings.Cut(string(stat[:end]), "(")
		all = append(all, kin{child, pidfd, name})
		all = append(all, descendants(t, child)...)
	}
	return all
}

// family returns the process's descendants, of which there must be some.
func (p *process) family(t *testing.T) []kin {
	t.Helper()
	all := descendants(t, p.Process.Pid)
	if len(all) == 0 {
		t.Fatalf("%s has no children", p.Path)
	}
	return all
}

// gone waits for the end of the process.
func (k kin) gone(t *testing.T) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(k.pidfd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(patience); ; {
		n, err := unix.Poll(fds, int(time.Until(deadline).Milliseconds()))
		switch {
		case err == unix.EINTR:
		case err != nil:
			t.Fatal("poll:", err)
		case n == 0:
			t.Fatalf("process %d (%s) goes on", k.pid, k.name)
		default:
			return
		}
	}
}
