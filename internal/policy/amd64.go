package policy

import "golang.org/x/sys/unix"

// amd64 is the architecture that the common tables are written for. x32 calls come under the same architecture
// with bit 30 set in the number; libseccomp answers them with the action for foreign architectures.
var amd64 = Arch{Name: "amd64", Audit: unix.AUDIT_ARCH_X86_64, Bits: 64}

// x32Bit marks a call of the x32 ABI, arch/x86/include/uapi/asm/unistd.h.
const x32Bit = 0x40000000
