package policy

import "golang.org/x/sys/unix"

// amd64 is the architecture that the common tables are written for. x32 calls come under the same architecture
// with bit 30 set in the number; libseccomp answers them with the action for foreign architectures.
//
// Two calls pass every filter here since Linux 6.14 (kernel/seccomp.c): uretprobe and uprobe, which the kernel makes
// from pages that it maps itself. Made from elsewhere they do nothing: SIGILL and ENXIO.
var amd64 = Arch{Name: "amd64", Audit: unix.AUDIT_ARCH_X86_64, Bits: 64}
