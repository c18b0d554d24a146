package policy

import "golang.org/x/sys/unix"

// Reasons that many rows share.
const (
	whyNet    = "the monitor talks to nobody: the network is the relay's, through one address"
	whyExec   = "nothing is ever executed: the monitor is the last program of its process"
	whyFork   = "all relays are forked before this filter, and no other process is needed"
	whyOther  = "reaches into another process, the relay among them"
	whyFiles  = "the monitor changes no file, name, mode or owner"
	whyWrite  = "files are not written: what the monitor says goes to stderr, which is open"
	whyMount  = "the view of the filesystem and the namespaces are settled"
	whyKernel = "a door into the kernel that the monitor has no use for"
	whyCode   = "no memory becomes executable, on kernels without PR_SET_MDWE too"
	whyShm    = "memory is shared with the relay by inheritance alone"
	whyKeys   = "the key rings are not the monitor's business"
	whySystem = "changes the whole system; it takes capabilities that were dropped, and this is the second lock"
	whySignal = "the monitor signals its relays one by one, never a group or everybody"
	whyTTY    = "puts characters into the terminal that stderr may be: the shell would run them"
)

var execMapArgs = []Arg{free("addr"), free("length"), bits("prot", unix.PROT_EXEC, unix.PROT_EXEC)}

// monitor is what the monitor may not do once the relays run, sorted by call. A Go runtime lives in the process,
// so this is a list of what is denied: it takes away power, it does not promise to be complete. Calls younger
// than libseccomp's tables are not in it.
var monitor = []Row{
	{Call: "accept", Why: whyNet},
	{Call: "accept4", Why: whyNet},
	{Call: "acct", Why: whySystem},
	{Call: "add_key", Why: whyKeys},
	{Call: "adjtimex", Why: whySystem},
	{Call: "bind", Why: whyNet},
	{Call: "bpf", Why: whyKernel},
	{Call: "chmod", Why: whyFiles},
	{Call: "chown", Why: whyFiles},
	{Call: "chown32", Why: whyFiles},
	{Call: "chroot", Why: whyMount},
	{Call: "clock_adjtime", Why: whySystem},
	{Call: "clock_adjtime64", Why: whySystem},
	{Call: "clock_settime", Why: whySystem},
	{Call: "clock_settime64", Why: whySystem},
	{Call: "clone", Args: []Arg{bits("flags", unix.CLONE_THREAD, 0)}, Why: whyFork + "; threads are the runtime's"},
	{Call: "clone3", Why: whyFork + "; its flags lie in memory, and Go starts threads with clone"},
	{Call: "connect", Why: whyNet},
	{Call: "creat", Why: whyWrite},
	{Call: "delete_module", Why: whySystem},
	{Call: "execve", Why: whyExec},
	{Call: "execveat", Why: whyExec},
	{Call: "fanotify_init", Why: whyKernel},
	{Call: "fchmod", Why: whyFiles},
	{Call: "fchmodat", Why: whyFiles},
	{Call: "fchown", Why: whyFiles},
	{Call: "fchown32", Why: whyFiles},
	{Call: "fchownat", Why: whyFiles},
	{Call: "finit_module", Why: whySystem},
	{Call: "fork", Why: whyFork},
	{Call: "fremovexattr", Why: whyFiles},
	{Call: "fsconfig", Why: whyMount},
	{Call: "fsetxattr", Why: whyFiles},
	{Call: "fsmount", Why: whyMount},
	{Call: "fsopen", Why: whyMount},
	{Call: "fspick", Why: whyMount},
	{Call: "init_module", Why: whySystem},
	{Call: "inotify_init", Why: whyKernel},
	{Call: "inotify_init1", Why: whyKernel},
	{Call: "io_setup", Why: whyKernel},
	{Call: "io_uring_enter", Why: whyKernel + ": it makes other calls without passing a filter"},
	{Call: "io_uring_register", Why: whyKernel},
	{Call: "io_uring_setup", Why: whyKernel + ": it makes other calls without passing a filter"},
	{Call: "ioctl", Args: []Arg{free("fd"), int32s("cmd", unix.TIOCSTI, tiocLinux)}, Why: whyTTY},
	{Call: "ioperm", Why: whySystem},
	{Call: "iopl", Why: whySystem},
	{Call: "kcmp", Why: whyOther},
	{Call: "kexec_file_load", Why: whySystem},
	{Call: "kexec_load", Why: whySystem},
	{Call: "keyctl", Why: whyKeys},
	{Call: "kill", Args: []Arg{int32s("pid", 0)}, Why: whySignal},
	{Call: "kill", Args: []Arg{bits("pid", 1<<31, 1<<31)}, Why: whySignal},
	{Call: "lchown", Why: whyFiles},
	{Call: "lchown32", Why: whyFiles},
	{Call: "link", Why: whyFiles},
	{Call: "linkat", Why: whyFiles},
	{Call: "listen", Why: whyNet},
	{Call: "lookup_dcookie", Why: whyKernel},
	{Call: "lremovexattr", Why: whyFiles},
	{Call: "lsetxattr", Why: whyFiles},
	{Call: "memfd_create", Why: whyExec},
	{Call: "memfd_secret", Why: whyKernel},
	{Call: "migrate_pages", Why: whyOther},
	{Call: "mkdir", Why: whyFiles},
	{Call: "mkdirat", Why: whyFiles},
	{Call: "mknod", Why: whyFiles},
	{Call: "mknodat", Why: whyFiles},
	{Call: "mmap", Args: execMapArgs, Why: whyCode},
	{Call: "modify_ldt", Why: whyKernel},
	{Call: "mount", Why: whyMount},
	{Call: "mount_setattr", Why: whyMount},
	{Call: "move_mount", Why: whyMount},
	{Call: "move_pages", Why: whyOther},
	{Call: "mprotect", Args: execMapArgs, Why: whyCode},
	{Call: "mq_open", Why: whyShm},
	{Call: "msgget", Why: whyShm},
	{Call: "name_to_handle_at", Why: whyFiles},
	{Call: "open", Args: openArgs(1, unix.O_ACCMODE, unix.O_WRONLY), Why: whyWrite},
	{Call: "open", Args: openArgs(1, unix.O_ACCMODE, unix.O_RDWR), Why: whyWrite},
	{Call: "open", Args: openArgs(1, unix.O_ACCMODE, unix.O_ACCMODE), Why: whyWrite + "; both bits ask for ioctls on a device"},
	{Call: "open", Args: openArgs(1, unix.O_CREAT, unix.O_CREAT), Why: whyFiles},
	{Call: "open", Args: openArgs(1, unix.O_TRUNC, unix.O_TRUNC), Why: whyWrite},
	{Call: "open_by_handle_at", Why: whyFiles + "; a handle goes past every path"},
	{Call: "open_tree", Why: whyMount},
	{Call: "openat", Args: openArgs(2, unix.O_ACCMODE, unix.O_WRONLY), Why: whyWrite},
	{Call: "openat", Args: openArgs(2, unix.O_ACCMODE, unix.O_RDWR), Why: whyWrite},
	{Call: "openat", Args: openArgs(2, unix.O_ACCMODE, unix.O_ACCMODE), Why: whyWrite + "; both bits ask for ioctls on a device"},
	{Call: "openat", Args: openArgs(2, unix.O_CREAT, unix.O_CREAT), Why: whyFiles},
	{Call: "openat", Args: openArgs(2, unix.O_TRUNC, unix.O_TRUNC), Why: whyWrite},
	{Call: "openat2", Why: whyWrite + "; its flags lie in memory, and Go opens with openat"},
	{Call: "perf_event_open", Why: whyKernel},
	{Call: "personality", Why: whyKernel},
	{Call: "pidfd_getfd", Why: whyOther},
	{Call: "pivot_root", Why: whyMount},
	{Call: "pkey_mprotect", Args: execMapArgs, Why: whyCode},
	{Call: "process_madvise", Why: whyOther},
	{Call: "process_vm_readv", Why: whyOther},
	{Call: "process_vm_writev", Why: whyOther},
	{Call: "ptrace", Why: whyOther},
	{Call: "quotactl", Why: whySystem},
	{Call: "quotactl_fd", Why: whySystem},
	{Call: "reboot", Why: whySystem},
	{Call: "recvfrom", Why: whyNet},
	{Call: "recvmmsg", Why: whyNet},
	{Call: "recvmmsg_time64", Why: whyNet},
	{Call: "recvmsg", Why: whyNet + "; and descriptors arrive this way"},
	{Call: "remap_file_pages", Why: whyCode},
	{Call: "removexattr", Why: whyFiles},
	{Call: "rename", Why: whyFiles},
	{Call: "renameat", Why: whyFiles},
	{Call: "renameat2", Why: whyFiles},
	{Call: "request_key", Why: whyKeys},
	{Call: "rmdir", Why: whyFiles},
	{Call: "rt_sigqueueinfo", Why: whySignal},
	{Call: "rt_tgsigqueueinfo", Why: whySignal},
	{Call: "semget", Why: whyShm},
	{Call: "sendmmsg", Why: whyNet},
	{Call: "sendmsg", Why: whyNet + "; and descriptors leave this way"},
	{Call: "sendto", Why: whyNet},
	{Call: "setdomainname", Why: whySystem},
	{Call: "sethostname", Why: whySystem},
	{Call: "setns", Why: whyMount},
	{Call: "settimeofday", Why: whySystem},
	{Call: "setxattr", Why: whyFiles},
	{Call: "shmat", Why: whyShm},
	{Call: "shmget", Why: whyShm},
	{Call: "socket", Why: whyNet},
	{Call: "socketpair", Why: whyNet},
	{Call: "stime", Why: whySystem},
	{Call: "swapoff", Why: whySystem},
	{Call: "swapon", Why: whySystem},
	{Call: "symlink", Why: whyFiles},
	{Call: "symlinkat", Why: whyFiles},
	{Call: "syslog", Why: whyKernel},
	{Call: "tkill", Why: whySignal + "; the runtime calls tgkill"},
	{Call: "truncate", Why: whyFiles},
	{Call: "truncate64", Why: whyFiles},
	{Call: "umount2", Why: whyMount},
	{Call: "unlink", Why: whyFiles},
	{Call: "unlinkat", Why: whyFiles},
	{Call: "unshare", Why: whyMount},
	{Call: "uselib", Why: whyExec},
	{Call: "userfaultfd", Why: whyKernel},
	{Call: "utime", Why: whyFiles},
	{Call: "utimensat", Why: whyFiles},
	{Call: "utimensat_time64", Why: whyFiles},
	{Call: "utimes", Why: whyFiles},
	{Call: "vfork", Why: whyFork},
	{Call: "vhangup", Why: whySystem},
	{Call: "vmsplice", Why: whyShm},
}

// tiocLinux is TIOCLINUX, ioctl_console(2): among other things it pastes into the console.
const tiocLinux = 0x541c

// openArgs are the conditions of open (skip 1) and openat (skip 2) whose flags, masked, are v.
func openArgs(skip int, mask, v uint64) []Arg {
	args := []Arg{free("dirfd"), free("pathname"), bits("flags", mask, v)}
	return args[2-skip:]
}
