package main

import (
	"slices"
	"strings"

	"syd/internal/policy"
)

// What the finished binary may hold, each with its reason. A row that nothing uses any more is a fault as well.

// program is a process's code from the end of its Go runtime on.
type program struct {
	name     string
	entries  []string // where it begins
	confined []string // where it is confined, among what entries lead to
	handlers []string // of signals: they run at any time
	policies func(*policy.Arch) []*policy.Policy
	before   []foreign // system calls that it makes before it is confined, by numbers that are constant
	apart    []foreign // calls of its policy that are made elsewhere
}

// foreign is a system call that the policy's table of numbers does not have, or not for this code.
type foreign struct {
	call    string
	numbers map[string]uint32
	why     string
}

const (
	runRelay = "syd/internal/monitor.runRelay"
	rawFork  = "syd/arch.rawFork" // its child calls runRelay, the only one of its functions that runs before that
)

var programs = []program{
	{
		name:     "relay",
		entries:  []string{runRelay, rawFork},
		confined: []string{"syd/internal/relay.(*Worker).Run"},
		policies: func(a *policy.Arch) (all []*policy.Policy) {
			for f := range policy.Families {
				all = append(all, policy.RelayPolicy(a, policy.Family(f)))
			}
			return all
		},
		before: []foreign{
			{"clone", everywhere(56, 120, 220), "the fork itself"},
			{"dup3", everywhere(292, 330, 24, 358), "descriptors take their places"},
			{"close_range", everywhere(436, 436, 436), "all others are closed"},
		},
	},
	{
		name:     "monitor",
		entries:  []string{"syd/internal/monitor.(*Monitor).alone"},
		confined: []string{"syd/internal/monitor.(*Monitor).watch"},
		handlers: []string{"catch", "leave"},
		policies: func(a *policy.Arch) []*policy.Policy { return []*policy.Policy{policy.MonitorPolicy(a)} },
		before: []foreign{
			{"rt_sigaction", everywhere(13, 174, 134), "what ends a thread"},
			{"getpid", everywhere(39, 20, 172), "the one thread that stays"},
			{"lseek", everywhere(8, 19, 62), "the list of threads is read again"},
			{"getdents64", everywhere(217, 220, 61, 217), "and again"},
			{"tgkill", everywhere(234, 270, 131, 268), "each of the others is told to end"},
			{"seccomp", everywhere(317, 354, 277, 383), "the filter"},
		},
		apart: []foreign{
			{"rt_sigreturn", everywhere(15, 173, 139), "made by the runtime's code on amd64 and 386, by the kernel's elsewhere"},
		},
	},
}

// everywhere gives the number of a call on amd64, on 386, on the architectures with the generic table, and on arm if it
// is not 386's.
func everywhere(amd64, i386, generic uint32, arm ...uint32) map[string]uint32 {
	return map[string]uint32{"amd64": amd64, "386": i386, "arm64": generic, "riscv64": generic, "arm": append(arm, i386)[0]}
}

// ours is what the names of their own code begin with, but for the handlers in assembly.
const ours = "syd/"

// syscall6 enters the kernel for them; its first argument is the number.
const syscall6 = "syd/arch.Syscall6"

// allowance lets functions do something.
type allowance struct {
	functions string   // one or more, separated by spaces
	arches    []string // nil: all
	why       string
}

func (r *allowance) list() []string { return strings.Fields(r.functions) }

func (r *allowance) names(function string) bool { return slices.Contains(r.list(), function) }

func (r *allowance) on(goarch string) bool {
	return r.arches == nil || slices.Contains(r.arches, goarch)
}

var (
	x86    = []string{"amd64", "386"}
	only32 = ofWidth(32)
	only64 = ofWidth(64)
)

// ofWidth lists the architectures with registers of so many bits.
func ofWidth(bits int) []string {
	var list []string
	for _, a := range policy.Arches {
		if a.Bits == bits {
			list = append(list, a.Name)
		}
	}
	return list
}

// stubs end a path: what their code calls only where it has gone wrong, or never.
var stubs = []allowance{
	{"runtime.panicBounds", nil,
		"a failed bounds check: the process exits 2, or dies of SIGSEGV or SIGSYS once it has given up what that takes"},
	{"memory_barrier", []string{"arm"},
		"the kernel's barrier for processors before ARMv7; the binary is built for ARMv7, and the branch is not taken"},
}

// leaves are functions of others that their code may call. The audit goes on through them.
var leaves = []allowance{
	{"sync/atomic.StoreUint32 internal/runtime/atomic.Store sync/atomic.LoadUint32 internal/runtime/atomic.Load", only32,
		"how counters and records pass between relay and monitor; 64-bit compilers write it in place. No lock, no runtime"},
}

// indirect are the functions of the graph that may call or jump to an address that is computed.
var indirect = []allowance{
	{rawFork, nil, "calls the function that Fork was given, which is " + runRelay},
}

// fromData are the functions that may make a system call whose number no constant says, before confinement.
var fromData = []allowance{
	{"syd/internal/jail.(*call).issue", nil, "carries out the confinement steps, a table that the monitor wrote before the fork"},
}

// kernel are the instructions that enter the kernel.
var kernel = []string{"SYSCALL", "INT 0x80", "SVC", "ECALL"}

// guards lists, for the whole binary, which functions hold an instruction that enters the kernel or reads a counter.
var guards = []struct {
	kinds []string
	allowance
}{
	{kernel, allowance{"syd/arch.Syscall6 syd/arch.Pump syd/arch.rawFork leave", nil, "our four ways into the kernel"}},
	{kernel, allowance{"internal/runtime/syscall/linux.Syscall6", nil, "system calls of the monitor, through package syscall"}},
	{kernel, allowance{"syscall.rawSyscallNoError syscall.rawVforkSyscall golang.org/x/sys/unix.RawSyscallNoError", nil,
		"the same, for calls without an error and for vfork"}},
	{kernel, allowance{"syscall.seek", only32, "lseek with a 64-bit offset"}},
	{kernel, allowance{"syscall.socketcall syscall.rawsocketcall", []string{"386"}, "package syscall's socket calls of the monitor"}},
	{kernel, allowance{"runtime.exit runtime.exitThread runtime.open runtime.closefd runtime.write1 runtime.read runtime.usleep " +
		"runtime.gettid runtime.raise runtime.raiseproc runtime.getpid runtime.tgkill runtime.timer_create runtime.timer_delete " +
		"runtime.mincore runtime.nanotime1 runtime.rtsigprocmask runtime.rt_sigaction runtime.madvise runtime.clone " +
		"runtime.sigaltstack runtime.osyield runtime.sched_getaffinity", nil, "the monitor's Go runtime"}},
	{kernel, allowance{"runtime.timer_settime runtime.futex", only64, "the monitor's Go runtime"}},
	{kernel, allowance{"runtime.sysMmap runtime.sysMunmap", []string{"amd64", "arm64"}, "the monitor's Go runtime"}},
	{kernel, allowance{"runtime.mmap runtime.munmap", []string{"386", "arm", "riscv64"}, "the monitor's Go runtime"}},
	{kernel, allowance{"runtime.timer_settime32 runtime.timer_settime64 runtime.futex_time32 " +
		"runtime.futex_time64 runtime.sbrk0 exit1", only32, "the monitor's Go runtime"}},
	{kernel, allowance{"runtime.walltime", []string{"386", "arm64", "arm", "riscv64"}, "the monitor's clock, where the vDSO has none"}},
	{kernel, allowance{"time.now runtime.settls", []string{"amd64"}, "the monitor's clock, where the vDSO has none; thread-local storage"}},
	{kernel, allowance{"runtime.sigreturn__sigaction", x86, "the end of the monitor's signal handlers"}},
	{kernel, allowance{"runtime.setldt", []string{"386"}, "thread-local storage of the monitor"}},
	{kernel, allowance{"_rt0_arm_linux1", []string{"arm"}, "the start of the program: it asks which kernel ABI this is"}},
	{[]string{"RDTSC", "RDTSCP"}, allowance{"runtime.cputicks", x86, "the monitor's scheduler and profiles"}},
	{[]string{"CSR counter"}, allowance{"runtime.cputicks", []string{"riscv64"}, "the monitor's scheduler and profiles"}},
	{[]string{"MRS CNT"}, allowance{"runtime.procyieldAsm", []string{"arm64"}, "the monitor's spinning locks wait by it"}},
}
