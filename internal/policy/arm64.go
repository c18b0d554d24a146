package policy

import "golang.org/x/sys/unix"

var arm64 = Arch{
	Name: "arm64", Audit: unix.AUDIT_ARCH_AARCH64, Bits: 64,
	Relay: []Difference{{
		Drop: "epoll_wait",
		Add: []Row{{Call: "epoll_pwait", Args: append(waitArgs[:len(waitArgs):len(waitArgs)], null("sigmask"), null("sigsetsize")),
			Why: waitWhy + "; without a signal mask", Hot: 2}},
		Why: "the generic system call table has epoll_pwait only",
	}},
}
