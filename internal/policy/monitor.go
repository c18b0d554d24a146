package policy

import "golang.org/x/sys/unix"

// SigsetSize is sizeof(sigset_t) as the kernel counts, _NSIG/8: the same on all architectures listed.
const SigsetSize = 8

// monitor is what the monitor may do once it has left the Go runtime, on every architecture, sorted by call. A free
// argument is one that carries no power: its descriptors are a socket to each relay, the owner's pidfd, stderr, what
// else its owner left open that is no socket, and what the Go runtime leaves.
var monitor = []Row{
	{Call: "close", Args: []Arg{free("fd")},
		Why: "relays end when their socket to the monitor does; closing a wrong one only takes away from the monitor"},
	{Call: "exit", Args: []Arg{free("status")},
		Why: "a thread of the Go runtime that has not ended yet ends; the last one ends the process"},
	{Call: "exit_group", Args: []Arg{free("status")}, Why: "the end, with a status for the owner"},
	{Call: "ppoll", Args: []Arg{at("fds", PollPtr), is("nfds", 1), at("tmo_p", TimePtr), at("sigmask", MaskPtr),
		is("sigsetsize", SigsetSize)},
		Why: "the loop: it waits for the owner's end and for signals, each place in memory a fixed one"},
	{Call: "rt_sigreturn", Why: "the way back from the handler of a signal; it changes this thread's registers and no other's"},
	{Call: "wait4", Args: []Arg{int32s("pid", -1), at("wstatus", StatusPtr), is("options", unix.WNOHANG), null("rusage")},
		Why: "which relay ended, and how; children that came with the process go by"},
	{Call: "write", Args: []Arg{free("fd"), at("buf", LinePtr), free("len")},
		Why: "what is to be told, on stderr, and the one byte that releases a relay or tells the owner that all is ready"},
}
