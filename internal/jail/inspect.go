package jail

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"syd/internal/exit"
)

// namespaceFiles are the names in /proc/PID/ns, namespaces(7).
var namespaceFiles = map[StepID]string{userNS: "user", mountNS: "mnt", pidNS: "pid", ipcNS: "ipc", utsNS: "uts", cgroupNS: "cgroup", netNS: "net"}

// Confine writes the relay's identity maps, lets it take its steps, and looks at it before it becomes opaque.
// socket is the monitor's end of the handshake. The relay may still be on its last steps when it returns nil.
// ErrEnded: the relay is gone, and Explain may know why.
func (p *Prisoner) Confine(socket int) error {
	if err := p.jail.writeMaps(p.PID); err != nil {
		return failure(userNS, err)
	}
	if err := tell(socket); err != nil {
		return err
	}
	if err := hear(socket); err != nil {
		return err
	}
	for id, s := range Steps {
		if s.check != nil {
			if err := p.look(StepID(id), func() error { return s.check(p.jail, p) }); err != nil {
				return err
			}
		}
	}
	return tell(socket)
}

// Confirm looks at the relay once it has said that it is confined. What the relay tells later of its steps is
// not believed.
func (p *Prisoner) Confirm() error {
	results := *p.results
	p.results = &results
	for id, s := range Steps {
		if s.late != nil {
			if err := p.look(StepID(id), func() error { return s.late(p) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// look has a step that went well so far checked from outside. What may not be looked at stays as the calls left
// it: root in a container may lack CAP_SYS_PTRACE, and an ordinary user may not look at a relay in no namespace.
func (p *Prisoner) look(id StepID, check func() error) error {
	j := p.jail
	if !j.on(id) || p.outcome(id).Status != Holds {
		return nil
	}
	err := check()
	if err == nil || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	j.known[id] = Outcome{Status: Failed, Detail: "no effect: " + err.Error()}
	if Steps[id].Required {
		return failure(id, fmt.Errorf("no effect: %w", err))
	}
	return nil
}

// outcome is what the relay's results say of a step that the monitor does not know better.
func (p *Prisoner) outcome(id StepID) Outcome {
	if s := Steps[id].Where; s == Clone {
		return Outcome{Status: Holds} // clone(2) gives all that it was asked for, or fails
	}
	r := p.results[id]
	errno := unix.Errno(r >> 8)
	switch r & 0xff {
	case held:
		return Outcome{Status: Holds}
	case refused:
		return outcomeOf(errno)
	case inert:
		return Outcome{Status: Failed, Errno: errno, Detail: "no effect"}
	}
	return Outcome{Status: Failed, Detail: "not reached"}
}

// Explain returns the error of the required step that ended the relay, or nil if no step did.
func (p *Prisoner) Explain() error {
	for i, s := range Steps {
		id := StepID(i)
		if o := p.outcome(id); s.Required && s.Where == Child && p.results[id]&0xff > held {
			return exit.Errorf(exit.Unavailable, "confinement step %s: %s", s.Name, o.reason())
		}
	}
	return nil
}

// status returns the lines of /proc/PID/status by name, proc_pid_status(5).
func (p *Prisoner) status() (map[string]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		return nil, err
	}
	lines := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		lines[name] = strings.TrimSpace(value)
	}
	return lines, nil
}

// expect compares lines of /proc/PID/status.
func (p *Prisoner) expect(want string, names ...string) error {
	lines, err := p.status()
	if err != nil {
		return err
	}
	for _, name := range names {
		if got, ok := lines[name]; ok && got != want {
			return fmt.Errorf("%s is %s", name, got)
		}
	}
	return nil
}

// inNamespace checks that the relay's namespace is not the monitor's.
func inNamespace(name string) func(*Jail, *Prisoner) error {
	return func(j *Jail, p *Prisoner) error {
		own, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			return err
		}
		got, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.PID, name))
		if err != nil {
			return err
		}
		if got == own {
			return fmt.Errorf("the relay is in the monitor's: %s", got)
		}
		return nil
	}
}

func (j *Jail) checkIdentity(p *Prisoner) error {
	lines, err := p.status()
	if err != nil {
		return err
	}
	for _, l := range []struct {
		name string
		id   int
	}{{"Uid", j.user.uid}, {"Gid", j.user.gid}} {
		for _, f := range strings.Fields(lines[l.name]) {
			if f != strconv.Itoa(l.id) {
				return fmt.Errorf("%s is %s", l.name, lines[l.name])
			}
		}
	}
	if !j.user.change {
		return nil
	}
	var want []string
	for _, g := range j.user.groups {
		want = append(want, strconv.FormatUint(uint64(g), 10))
	}
	if got := strings.Fields(lines["Groups"]); !slices.Equal(got, want) {
		return fmt.Errorf("supplementary groups are %s", lines["Groups"])
	}
	return nil
}

// checkRoot finds one mount, read-only, and, but for the external socket's directory, nothing in it.
func (j *Jail) checkRoot(p *Prisoner) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", p.PID))
	if err != nil {
		return err
	}
	mounts := slices.Collect(strings.Lines(string(text)))
	if len(mounts) != 1 {
		return fmt.Errorf("%d mounts", len(mounts))
	}
	if f := strings.Fields(mounts[0]); len(f) < 6 || f[4] != "/" || !slices.Contains(strings.Split(f[5], ","), "ro") {
		return fmt.Errorf("mount %q", mounts[0])
	}
	if j.place.dir != "" {
		return nil
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/", p.PID))
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%d entries", len(entries))
	}
	return err
}

func (j *Jail) checkLimits(p *Prisoner) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.PID))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		for _, l := range limits {
			rest, ok := strings.CutPrefix(line, l.line)
			if f := strings.Fields(rest); ok && (len(f) < 2 || f[0] != "0" || f[1] != "0") {
				return errors.New(strings.TrimSpace(line))
			}
		}
	}
	return nil
}

const noCapabilities = "0000000000000000"

func (j *Jail) checkBounding(p *Prisoner) error { return p.expect(noCapabilities, "CapBnd") }

func (j *Jail) checkCapabilities(p *Prisoner) error {
	return p.expect(noCapabilities, "CapEff", "CapPrm", "CapInh", "CapAmb")
}

func checkNoNewPrivs(p *Prisoner) error { return p.expect("1", "NoNewPrivs", "Threads") }

func checkSeccomp(p *Prisoner) error {
	return p.expect(strconv.Itoa(unix.SECCOMP_MODE_FILTER), "Seccomp")
}

func checkDescriptors(p *Prisoner) error {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID))
	if err == nil && len(entries) != relayDescriptors {
		err = fmt.Errorf("%d descriptors", len(entries))
	}
	return err
}

// tell and hear pass one byte of the handshake.
func tell(socket int) error {
	if _, err := unix.Write(socket, []byte{0}); err != nil && err != unix.EPIPE {
		return exit.Errorf(exit.OS, "handshake with the relay: %w", err)
	}
	return nil // a relay that is gone will not answer
}

func hear(socket int) error {
	for {
		n, err := unix.Read(socket, make([]byte, 1))
		switch {
		case err == unix.EINTR:
		case err == nil && n == 1:
			return nil
		case err == nil || err == unix.ECONNRESET:
			return ErrEnded
		default:
			return exit.Errorf(exit.OS, "handshake with the relay: %w", err)
		}
	}
}

// ErrEnded means that the relay ended before it was confined; Explain may know why.
var ErrEnded = errors.New("the relay ended")
