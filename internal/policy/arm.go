package policy

import "golang.org/x/sys/unix"

var arm = Arch{
	Name: "arm", Audit: unix.AUDIT_ARCH_ARM, Bits: 32,
	Relay: []Difference{
		{Drop: "fcntl", Add: fcntlRows("fcntl64"), Why: "Go and libc call fcntl64 on 32-bit machines"},
	},
	Monitor: []Difference{
		{Drop: "mmap", Add: []Row{{Call: "mmap2", Args: execMapArgs, Why: whyCode}},
			Why: "the EABI has mmap2 only"},
	},
}
