package jail

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// Report is the table of steps as it came out in this run.
type Report struct {
	Program  string `json:"program"`
	Kernel   string `json:"kernel"`  // uname -r
	Machine  string `json:"machine"` // uname -m: the kernel's architecture
	Arch     string `json:"arch"`    // this program's, as Go names it
	UID      int    `json:"uid"`
	Upstream string `json:"upstream"`
	Holds    bool   `json:"holds"` // every step holds, or is not needed
	Steps    []Row  `json:"steps"`
}

// Row is one step of a Report.
type Row struct {
	Name     string `json:"name"`
	Status   Status `json:"status"`
	Required bool   `json:"required"`
	Since    string `json:"since"` // first kernel; empty: all that this program runs on; "never": not on this architecture
	Where    Where  `json:"where"`
	Errno    string `json:"errno"` // name of the error, or empty
	Detail   string `json:"detail"`
	What     string `json:"what"`
}

// Report tells what became of every step, in every relay: the worst counts.
func (j *Jail) Report() *Report {
	r := &Report{Program: "syd-tor", Arch: runtime.GOARCH, UID: unix.Getuid(), Upstream: j.upstream.String(), Holds: true}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		r.Kernel, r.Machine = unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
	}
	for id, s := range Steps {
		o := j.outcome(StepID(id))
		row := Row{Name: s.Name, Status: o.Status, Required: s.Required, Since: s.Since, Where: s.Where, Detail: o.Detail, What: s.What}
		if o.Errno != 0 {
			row.Errno = unix.ErrnoName(o.Errno)
		}
		r.Holds = r.Holds && (o.Status == Holds || o.Status == Unneeded)
		r.Steps = append(r.Steps, row)
	}
	return r
}

func (j *Jail) outcome(id StepID) Outcome {
	o := j.known[id]
	if o.Status != "" && o.Status != Holds {
		return o
	}
	if Steps[id].build != nil || o.Status == "" && Steps[id].Where == Clone {
		for _, p := range j.pids {
			if o := p.outcome(id); o.Status != Holds {
				return o
			}
		}
		return Outcome{Status: Holds}
	}
	if o.Status == "" {
		return Outcome{Status: Failed, Detail: "not reached"}
	}
	return o
}

// reason says in words why a step does not hold.
func (o Outcome) reason() string {
	var parts []string
	if o.Detail != "" {
		parts = append(parts, o.Detail)
	}
	if o.Errno != 0 {
		parts = append(parts, o.Errno.Error())
	}
	return strings.Join(parts, ": ")
}

// Notes are lines for the user where not every step holds: one for each way in which steps can be missing.
func (j *Jail) Notes() []string {
	if j.off {
		return []string{"running without confinement"}
	}
	lines := []struct {
		status Status
		text   string
		steps  []string
	}{{status: Absent, text: "not available here: "}, {status: Failed, text: "failed: "}, {status: Off, text: "left off: "}}
	for i, s := range Steps {
		o := j.outcome(StepID(i))
		for k := range lines {
			if lines[k].status != o.Status {
				continue
			}
			name := s.Name
			if o.Status == Failed {
				name += " (" + o.reason() + ")"
			}
			lines[k].steps = append(lines[k].steps, name)
		}
	}
	var notes []string
	for _, l := range lines {
		if len(l.steps) > 0 {
			notes = append(notes, l.text+strings.Join(l.steps, ", "))
		}
	}
	return notes
}

// JSON writes the report as one JSON object.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// Text writes the report for people.
func (r *Report) Text(w io.Writer) error {
	fmt.Fprintf(w, "%s: Linux %s %s, program %s, uid %d, external address %s\n", r.Program, r.Kernel, r.Machine, r.Arch, r.UID, r.Upstream)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "STEP\tSTATUS\tNEED\tSINCE\tWHAT")
	for _, s := range r.Steps {
		need, since := "best effort", s.Since
		if s.Required {
			need = "required"
		}
		if since == "" {
			since = "-"
		}
		status := string(s.Status)
		if s.Errno != "" {
			status += " " + s.Errno
		}
		what := s.What
		if s.Detail != "" {
			what += " [" + s.Detail + "]"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", s.Name, status, need, since, what)
	}
	return t.Flush()
}
