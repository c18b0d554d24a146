package policy

import "golang.org/x/sys/unix"

var arm = Arch{
	Name: "arm", Audit: unix.AUDIT_ARCH_ARM, Bits: 32,
	Relay: []Difference{
		{Drop: "fcntl", Add: fcntlRows("fcntl64"), Why: "Go and libc call fcntl64 on 32-bit machines"},
	},
}
