package launch

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// selfExe is this program, even if its file was replaced or removed meanwhile.
const selfExe = "/proc/self/exe"

// process is a child of syd.
type process struct {
	pid, pidfd int
	stops      <-chan struct{}        // filled when it was stopped, if asked for
	ended      <-chan unix.WaitStatus // its end; then closed
}

// start runs path in a new process. options are those of wait4(2).
func start(path string, args []string, attr *syscall.ProcAttr, options int) (*process, error) {
	pid, err := syscall.ForkExec(path, args, attr)
	if err != nil {
		return nil, err
	}
	// A number could be another process's by the time that it is signalled; this cannot: nobody has waited yet.
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		unix.Kill(pid, unix.SIGKILL)
		unix.Wait4(pid, nil, 0, nil)
		return nil, fmt.Errorf("pidfd_open: %w", err)
	}
	stops, ended := make(chan struct{}, 1), make(chan unix.WaitStatus, 1)
	go func() {
		defer close(ended)
		for {
			var status unix.WaitStatus
			_, err := unix.Wait4(pid, &status, options, nil)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return // cannot happen: nobody else waits for it
			}
			if !status.Stopped() {
				ended <- status
				return
			}
			select {
			case stops <- struct{}{}:
			default: // nobody has taken the one before
			}
		}
	}()
	return &process{pid, pidfd, stops, ended}, nil
}

// signal sends s, unless the process has ended.
func (p *process) signal(s unix.Signal) { unix.PidfdSendSignal(p.pidfd, s, nil, 0) }

// end kills the process and returns when it has ended.
func (p *process) end() {
	p.signal(unix.SIGKILL)
	for range p.ended {
	}
}

// describe says how a process ended.
func describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return "killed by signal " + signalName(status.Signal())
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// signalName returns such as "SIGTERM", or the number of one without a name.
func signalName(s unix.Signal) string {
	if name := unix.SignalName(s); name != "" {
		return name
	}
	return fmt.Sprint(int(s))
}
