package main

import (
	"slices"
	"strings"

	"syd/internal/policy"
)

// What the finished binary may hold, each with its reason. A row that nothing uses any more is a fault as well.

// The relay begins at one function and is confined from another one on. rawFork, whose child calls the first, is the
// one function of its code that runs before it.
const (
	entry    = "syd/internal/monitor.runRelay"
	fork     = "syd/arch.rawFork"
	confined = "syd/internal/relay.(*Worker).Run"
)

// ours is what the names of the relay's own code begin with.
const ours = "syd/"

// syscall6 enters the kernel for the relay; its first argument is the number.
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

// stubs end a path: what the relay's code calls only where it has gone wrong, or never.
var stubs = []allowance{
	{"runtime.panicBounds", nil,
		"a failed bounds check: before the relay gives up the runtime's memory it exits 2, after that it dies of SIGSEGV"},
	{"memory_barrier", []string{"arm"},
		"the kernel's barrier for processors before ARMv7; the binary is built for ARMv7, and the branch is not taken"},
}

// leaves are functions of others that the relay's code may call. The audit goes on through them.
var leaves = []allowance{
	{"sync/atomic.StoreUint32 internal/runtime/atomic.Store", only32,
		"the store that ends a record of counters; 64-bit compilers write it in place. No more than that: no lock, no runtime"},
}

// indirect are the functions of the graph that may call or jump to an address that is computed.
var indirect = []allowance{
	{fork, nil, "calls the function that Fork was given, which is " + entry},
}

// fromData are the functions that may make a system call whose number no constant says, before the relay is confined.
var fromData = []allowance{
	{"syd/internal/jail.(*call).issue", nil, "carries out the confinement steps, a table that the monitor wrote before the fork"},
}

// before are the system calls that the relay's code makes by constant numbers before it is confined.
var before = []struct {
	call    string
	numbers map[string]uint32
	why     string
}{
	{"clone", map[string]uint32{"amd64": 56, "386": 120, "arm64": 220, "arm": 120, "riscv64": 220}, "the fork itself"},
	{"dup3", map[string]uint32{"amd64": 292, "386": 330, "arm64": 24, "arm": 358, "riscv64": 24}, "descriptors take their places"},
	{"close_range", map[string]uint32{"amd64": 436, "386": 436, "arm64": 436, "arm": 436, "riscv64": 436}, "all others are closed"},
}

// kernel are the instructions that enter the kernel.
var kernel = []string{"SYSCALL", "INT 0x80", "SVC", "ECALL"}

// guards lists, for the whole binary, which functions hold an instruction that enters the kernel or reads a counter.
var guards = []struct {
	kinds []string
	allowance
}{
	{kernel, allowance{"syd/arch.Syscall6 syd/arch.Pump syd/arch.rawFork", nil, "the relay's three ways into the kernel"}},
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
