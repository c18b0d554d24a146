// Package exit is the one table of exit codes of syd(1) and syd-tor(1).
//
// A code below 64 or between 79 and 125 that leaves syd(1) is always the sandboxed program's own.
package exit

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Code is a process exit status. The values from 64 on are those of BSD's sysexits(3), so that a supervisor
// that knows them needs no table of ours; 126, 127 and 128+n are the shell's.
type Code int

const (
	OK          Code = 0   // the owner or the program ended as it should
	Usage       Code = 64  // bad option, operand or command
	Handoff     Code = 65  // the listening socket did not arrive, or is not what it must be
	Unavailable Code = 69  // a required confinement step or namespace cannot be had
	Software    Code = 70  // the relay died of a signal, or broke a promise of its own
	OS          Code = 71  // a system call failed that always works on a sound system
	NoProxy     Code = 76  // syd(1) could not start syd-tor(1), or it died before it was ready
	CannotExec  Code = 126 // the program was found and could not be executed
	NotFound    Code = 127 // the program was not found
	signalBase  Code = 128
)

// Row describes one code for the manual page and --help.
type Row struct {
	Code Code
	Name string
	Text string
}

// Table lists every code in ascending order.
var Table = []Row{
	{OK, "ok", "the owner exited, or help was asked for"},
	{Usage, "usage", "bad option, operand or command; nothing was started"},
	{Handoff, "handoff", "the listening socket did not arrive on -i, or is not a bound stream socket"},
	{Unavailable, "unavailable", "a required confinement step or namespace cannot be had here"},
	{Software, "software", "the relay died; stderr names the signal and the likely cause"},
	{OS, "os", "a system call failed; stderr names it"},
	{NoProxy, "noproxy", "syd-tor could not be started, or ended before it was ready"},
	{CannotExec, "noexec", "the program cannot be executed"},
	{NotFound, "notfound", "the program was not found"},
	{signalBase, "signal", "128+n: ended by signal n"},
}

// Signal returns the code of a process that ended by signal s: 128+s, as sh(1) reports it.
func Signal(s syscall.Signal) Code { return signalBase + Code(s) }

// Error carries the code with which main ends for the error it wraps.
type Error struct {
	Code Code
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Errorf formats an error that ends the program with code c.
func Errorf(c Code, format string, args ...any) error {
	return &Error{c, fmt.Errorf(format, args...)}
}

// Of returns the code for err: OK for nil, the code of the outermost Error in its chain, otherwise OS.
func Of(err error) Code {
	if err == nil {
		return OK
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return OS
}

// Help is Table as text, for the end of a program's help.
func Help() string {
	var b strings.Builder
	b.WriteString("Exit codes:\n")
	for _, r := range Table {
		fmt.Fprintf(&b, "  %-4d %s\n", r.Code, r.Text)
	}
	return b.String()
}
