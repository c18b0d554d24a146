package policy

import "golang.org/x/sys/unix"

var i386 = Arch{
	Name: "386", Audit: unix.AUDIT_ARCH_I386, Bits: 32,
	Relay: []Difference{
		{Drop: "fcntl", Add: fcntlRows("fcntl64"), Why: "Go and libc call fcntl64 on 32-bit machines"},
		{
			Add: []Row{{Call: "socketcall", Dead: true,
				Why: "its arguments lie in memory, where no filter sees them; socket, connect, accept4, setsockopt and " +
					"shutdown have had numbers of their own since Linux 4.3"}},
			// libseccomp turns each rule for a socket call into one for socketcall too, which compares the wrong
			// thing: the pointer to the argument block. A rule without conditions replaces those. It cannot be
			// KILL_PROCESS: libseccomp refuses a rule that equals the default.
			Why: "socketcall(2) multiplexes the socket calls here, and libseccomp would allow it in part",
		},
	},
}
