package policy

// generic is how the relay differs where Linux gives an architecture its common table of calls
// (include/uapi/asm-generic/unistd.h), as it does to each that it is ported to now.
var generic = []Difference{{
	Drop: "epoll_wait",
	Add: []Row{{Call: "epoll_pwait", Args: append(waitArgs[:len(waitArgs):len(waitArgs)], null("sigmask"), null("sigsetsize")),
		Why: waitWhy + "; without a signal mask", Hot: 2}},
	Why: "the generic system call table has epoll_pwait only",
}}
