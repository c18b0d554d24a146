// Package victim has what a compromised relay could do and Go has no word for: read a counter, enter the kernel by
// another door, start a thread. Tests of package jail are its only users.
//
// On an architecture that lacks one of them, the function is there and returns Missing.
package victim

// Missing is what a function returns where the architecture has no such thing.
const Missing = ^uintptr(0)

// Counter reads the time stamp counter: RDTSC, CNTVCT_EL0, or RDTIME.
func Counter() uintptr

// CounterP reads it by RDTSCP.
func CounterP() uintptr

// Int80 enters the kernel as a 32-bit program does and makes system call nr without arguments.
func Int80(nr uintptr) uintptr

// GateTime asks for the time through the page at a fixed address that x86-64 keeps for old programs, where it has one.
func GateTime() uintptr

// Thread is clone(2) with flags and stack; the new thread ends at once.
func Thread(flags, stack uintptr) uintptr
