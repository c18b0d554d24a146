package policy

import "golang.org/x/sys/unix"

var riscv64 = Arch{Name: "riscv64", Audit: unix.AUDIT_ARCH_RISCV64, Bits: 64, Relay: generic}
