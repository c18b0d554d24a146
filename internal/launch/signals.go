package launch

import (
	"fmt"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"

	"syd/internal/exit"
)

// notPassedOn are the signals that syd leaves alone.
var notPassedOn = map[unix.Signal]string{
	unix.SIGKILL:   "cannot be caught",
	unix.SIGSTOP:   "cannot be caught",
	unix.SIGSEGV:   "a fault of syd's own",
	unix.SIGBUS:    "a fault of syd's own",
	unix.SIGFPE:    "a fault of syd's own",
	unix.SIGILL:    "a fault of syd's own",
	unix.SIGTRAP:   "a fault of syd's own",
	unix.SIGSYS:    "a fault of syd's own",
	unix.SIGSTKFLT: "a fault of syd's own",
	unix.SIGPIPE:   "a write of syd's own",
	unix.SIGCHLD:   "speaks of syd's children",
	unix.SIGURG:    "Go's runtime preempts with it",
	32:             "the C library's own",
	33:             "the C library's own",
	34:             "musl's own",
}

// fromTerminal are the signals that a terminal sends to every process of its foreground job, so to the program too.
// Twice would be wrong: a second ^C means "at once" to many programs. SIGHUP is not among them: if syd leads the
// session it gets that one alone.
var fromTerminal = map[unix.Signal]bool{
	unix.SIGINT: true, unix.SIGQUIT: true, unix.SIGTSTP: true,
	unix.SIGTTIN: true, unix.SIGTTOU: true, unix.SIGWINCH: true,
}

// harmless are the signals whose default action does not end a process.
var harmless = map[unix.Signal]bool{
	unix.SIGCONT: true, unix.SIGWINCH: true,
	unix.SIGTSTP: true, unix.SIGTTIN: true, unix.SIGTTOU: true,
}

const lastSignal = 64

// catch returns a channel of the signals that are sent to syd. Those that it was started to ignore, as nohup(1)
// does, it goes on to ignore: the program inherits that, and catching them would undo it. (Go's runtime keeps it for
// SIGHUP, SIGINT and the job control signals alone; the program finds all others at their default.)
func catch() (chan os.Signal, error) {
	ignored, err := ignoredSignals()
	if err != nil {
		return nil, exit.Errorf(exit.OS, "%w", err)
	}
	c := make(chan os.Signal, 2*lastSignal) // os/signal drops what does not fit
	for s := unix.Signal(1); s <= lastSignal; s++ {
		if _, not := notPassedOn[s]; !not && ignored>>(s-1)&1 == 0 {
			signal.Notify(c, s)
		}
	}
	return c, nil
}

// ignoredSignals returns a bit n-1 for each signal n that this process ignores.
func ignoredSignals() (set uint64, err error) {
	const file, field = "/proc/self/status", "\nSigIgn:"
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	_, value, _ := strings.Cut(string(text), field)
	if _, err := fmt.Sscanf(value, "%x", &set); err != nil {
		return 0, fmt.Errorf("%s: SigIgn: %w", file, err)
	}
	return set, nil
}

// passOn says whether the program needs s from syd. What a terminal sends can only be told from what kill(2)
// sends by si_code, which Go does not give, and Go's runtime does not let these signals be blocked for signalfd(2).
// So while syd is in the foreground of its terminal they are taken for the terminal's.
func passOn(s unix.Signal) bool { return !fromTerminal[s] || !inForeground() }

// inForeground says whether syd's process group is the foreground job of its controlling terminal.
func inForeground() bool {
	fd, err := openTerminal()
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// openTerminal fails if there is no controlling terminal.
func openTerminal() (int, error) {
	return unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
}

// stop stops syd because the program was stopped, so that the shell, which waits for syd, sees a stopped job. It
// returns once syd is continued. Without a terminal nobody would continue it, so it does nothing.
//
// It is SIGSTOP whatever stopped the program: for the other three Go's runtime keeps its handler once they were
// asked for, and takes no action.
func stop() {
	fd, err := openTerminal()
	if err != nil {
		return
	}
	unix.Close(fd)
	unix.Kill(unix.Getpid(), unix.SIGSTOP)
}

// Say writes one line to standard error. It must not end syd by SIGPIPE, as os.Stderr would, and not stop the job
// by SIGTTOU, which Go's runtime would restart forever (termios(3), TOSTOP).
func Say(format string, args ...any) {
	var ttou unix.Sigset_t
	ttou.Val[0] = 1 << (unix.SIGTTOU - 1)
	var old unix.Sigset_t
	unix.PthreadSigmask(unix.SIG_BLOCK, &ttou, &old)
	unix.Write(2, fmt.Appendf(nil, "syd: "+format+"\n", args...))
	unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
}
