// Package event is what the host and the guest's PID 1 say to each other: one Plan goes in, inside the initramfs,
// and a stream of Events comes out, one JSON object a line, on a serial port that nothing else writes to.
//
// It guarantees that a lost, repeated or cut line is seen: events are numbered, and only an End that repeats the
// plan's nonce and the number of programs closes a run. It does not defend against a test program that runs as
// root and writes to the port on purpose.
package event

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// PlanPath is where PID 1 finds its Plan.
const PlanPath = "/plan.json"

// Plan is all that PID 1 is told.
type Plan struct {
	Nonce    string            // comes back in End, so that no fixed text can pass for it
	Port     string            // device of the event port, such as /dev/ttyS1
	Sysctl   map[string]string // file below /proc/sys → value, written before the first program; failing is fatal
	Programs []Program
}

// Program is one run of one test binary.
type Program struct {
	Name    string // unique in the plan
	Dir     string // working directory
	Argv    []string
	Env     []string
	UID     int // also the GID
	Timeout time.Duration
	// Deny names system calls that fail with ENOSYS in the program and its children, as on a kernel
	// without them.
	Deny []int
}

// Kind says which fields of an Event mean something.
type Kind string

const (
	Boot   Kind = "boot"   // PID 1 is up: Arch, Release, Version, Cmdline
	Start  Kind = "start"  // Program begins
	Output Kind = "output" // Data that Program wrote to stdout or stderr
	Exit   Kind = "exit"   // Program ended: Status, Seconds, and Hung if PID 1 had to kill it
	Fatal  Kind = "fatal"  // PID 1 gives up: Data says why
	End    Kind = "end"    // every program ended and was reported: Nonce, Count
)

// Event is one line from the guest.
type Event struct {
	Seq     int     `json:"seq"`
	Kind    Kind    `json:"kind"`
	Program string  `json:"program,omitempty"`
	Data    []byte  `json:"data,omitempty"` // base64 in JSON: test output may be any bytes
	Arch    string  `json:"arch,omitempty"` // GOARCH of PID 1
	Release string  `json:"release,omitempty"`
	Version string  `json:"version,omitempty"`
	Cmdline string  `json:"cmdline,omitempty"`
	Status  string  `json:"status,omitempty"` // "exit status 0", "signal: killed", or why it did not start
	Seconds float64 `json:"seconds,omitempty"`
	Hung    bool    `json:"hung,omitempty"`
	Nonce   string  `json:"nonce,omitempty"`
	Count   int     `json:"count,omitempty"`
}

// OK is the Status of a program that succeeded.
const OK = "exit status 0"

// Writer numbers events and writes each as one line. It is for one goroutine.
type Writer struct {
	W   io.Writer
	seq int
}

// Send writes e with the next number.
func (w *Writer) Send(e Event) error {
	e.Seq = w.seq
	w.seq++
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = w.W.Write(append(b, '\n'))
	return err
}

// Read calls f for each event of r until r ends. An error names the first line that is no event or is out of turn;
// what follows it proves nothing and is not read.
func Read(r io.Reader, f func(Event)) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for n := 0; s.Scan(); n++ {
		var e Event
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			return fmt.Errorf("event %d: %q is no event", n, clip(s.Bytes()))
		}
		if e.Seq != n {
			return fmt.Errorf("event %d: has number %d: lines were lost or repeated", n, e.Seq)
		}
		f(e)
	}
	return s.Err()
}

// clip keeps a diagnosis to one line.
func clip(b []byte) []byte { return b[:min(len(b), 120)] }
