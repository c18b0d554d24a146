package policy

import "golang.org/x/sys/unix"

// amd64 is the architecture that the common tables are written for. x32 calls come under the same architecture
// with bit 30 set in the number; libseccomp answers them with the action for foreign architectures.
var amd64 = Arch{Name: "amd64", Audit: unix.AUDIT_ARCH_X86_64, Bits: 64}
