// Package guest boots one kernel with one plan under QEMU and collects the events.
//
// It guarantees that a Report without Problem comes from a guest that reached its end marker: QEMU's exit status,
// which is 0 after a kernel panic too, is not asked. QEMU dies with the caller and at the time limit, and the
// initramfs has no name that could stay. It does not judge the programs; that is the bed's part.
package guest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"syd/testvm/event"
	"syd/testvm/kernel"
)

// Spec is one boot.
type Spec struct {
	QEMU     *kernel.QEMU
	Kernel   *kernel.Image
	Arch     string            // GOARCH of PID 1 and the programs
	Init     string            // PID 1 on the host, static, for Arch
	Files    map[string]string // path in the guest, without leading slash → file on the host
	Programs []event.Program
	Cmdline  string            // appended to the kernel's command line
	Sysctl   map[string]string // see event.Plan
	Timeout  time.Duration     // for the whole guest
	Console  string            // file for what the kernel prints
	Events   string            // file for the events as they come, for whoever wants to watch
}

// Run is what one program did.
type Run struct {
	Output  []byte
	Started bool
	Exit    *event.Event // nil: it never ended
}

// Report is what the host knows after the guest is gone.
type Report struct {
	Boot    event.Event     // zero if PID 1 never spoke
	Runs    map[string]*Run // by program name, one for each program of the plan
	Problem string          // why the guest as a whole is red; empty if the end marker came
	Seconds float64
}

// Start boots the guest and waits for its end. An error means that it could not be started at all.
func Start(ctx context.Context, s Spec) (*Report, error) {
	m, ok := Machines[s.Kernel.Arch]
	if !ok {
		return nil, fmt.Errorf("no machine for kernels of %s", s.Kernel.Arch)
	}
	plan := &event.Plan{Nonce: rand.Text(), Port: m.Port, Sysctl: s.Sysctl, Programs: s.Programs}
	initrd, err := os.CreateTemp("", "testvm-initramfs-")
	if err != nil {
		return nil, err
	}
	defer initrd.Close()
	if err := os.Remove(initrd.Name()); err != nil {
		return nil, err
	}
	files := map[string]string{"init": s.Init}
	for k, v := range s.Files {
		files[k] = v
	}
	if err := writeInitramfs(initrd, plan, files); err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(s.Console), 0o755); err != nil {
		return nil, err
	}

	rep := &Report{Runs: map[string]*Run{}}
	for _, p := range plan.Programs {
		rep.Runs[p.Name] = new(Run)
	}
	limited, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	// The parent-death signal goes by thread: this one must live as long as QEMU.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var stderr bytes.Buffer
	cmd := s.QEMU.Command(limited, m.QEMU, args(m, s)...)
	cmd.ExtraFiles = []*os.File{initrd}
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	events, err := os.Create(s.Events)
	if err != nil {
		return nil, err
	}
	defer events.Close()
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end, fatal := rep.collect(io.TeeReader(stdout, events), plan)
	if fatal != nil {
		// Nobody reads on, so QEMU would block on its full pipe.
		cancel()
	}
	_ = cmd.Wait() // see the package comment
	rep.Seconds = time.Since(begin).Seconds()
	switch {
	case end && fatal == nil:
	case fatal != nil:
		rep.Problem = fatal.Error()
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(limited.Err(), context.DeadlineExceeded):
		rep.Problem = fmt.Sprintf("no end marker after %v: %s", s.Timeout, lastWords(s.Console))
	default:
		rep.Problem = "no end marker: " + lastWords(s.Console)
		if stderr.Len() > 0 {
			rep.Problem += ": " + strings.TrimSpace(stderr.String())
		}
	}
	return rep, nil
}

func args(m Machine, s Spec) []string {
	// panic=-1 with -no-reboot ends QEMU at once; an oops that did not kill the guest would go unseen.
	cmdline := []string{"console=" + m.Console, "panic=-1", "oops=panic", "quiet", "cryptomgr.notests", m.Cmdline, s.Cmdline}
	a := append([]string{}, common...)
	a = append(a,
		"-chardev", "stdio,id=events,signal=off",
		"-chardev", "file,id=console,path="+s.Console)
	a = append(a, m.Args...)
	return append(a, "-m", m.Memory, "-kernel", s.Kernel.Path, "-initrd", "/proc/self/fd/3",
		"-append", strings.TrimSpace(strings.Join(cmdline, " ")))
}

// collect reads events until the port closes. end says that the end marker of this very plan came, after every
// program; an error is something that no sound guest sends.
func (rep *Report) collect(r io.Reader, plan *event.Plan) (end bool, err error) {
	var wrong error
	readErr := event.Read(r, func(e event.Event) {
		run := rep.Runs[e.Program]
		switch {
		case end:
			wrong = errors.Join(wrong, fmt.Errorf("a %s event after the end marker", e.Kind))
		case e.Kind == event.Boot:
			rep.Boot = e
		case e.Kind == event.Fatal:
			wrong = errors.Join(wrong, fmt.Errorf("init: %s", e.Data))
		case e.Kind == event.End:
			end = e.Nonce == plan.Nonce && e.Count == len(plan.Programs)
			if !end {
				wrong = errors.Join(wrong, errors.New("an end marker that is not this plan's"))
			}
		case run == nil:
			wrong = errors.Join(wrong, fmt.Errorf("a %s event for %q, which the plan lacks", e.Kind, e.Program))
		case e.Kind == event.Start:
			run.Started = true
		case e.Kind == event.Output:
			run.Output = append(run.Output, e.Data...)
		case e.Kind == event.Exit:
			run.Exit = &e
		}
	})
	return end, errors.Join(readErr, wrong)
}

// lastWords is the line of the console that tells most: the panic, what killed PID 1, or the last one.
func lastWords(console string) string {
	b, err := os.ReadFile(console)
	if err != nil {
		return err.Error()
	}
	last := "the console is empty"
	for line := range strings.Lines(strings.ToValidUTF8(string(b), "?")) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, "Kernel panic") || strings.HasPrefix(line, "init: ") {
			return line
		}
		if line != "" {
			last = line
		}
	}
	return last
}
