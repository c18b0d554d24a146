package policy

import "golang.org/x/sys/unix"

var arm64 = Arch{Name: "arm64", Audit: unix.AUDIT_ARCH_AARCH64, Bits: 64, Relay: generic}
