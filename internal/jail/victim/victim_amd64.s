#include "textflag.h"

#define SYS_clone 56
#define SYS_exit 60

// func Counter() uintptr
TEXT ·Counter(SB),NOSPLIT,$0-8
	RDTSC
	SHLQ	$32, DX
	ORQ	DX, AX
	SHRQ	$1, AX // an error number it is not
	MOVQ	AX, ret+0(FP)
	RET

// func CounterP() uintptr
TEXT ·CounterP(SB),NOSPLIT,$0-8
	RDTSCP
	SHLQ	$32, DX
	ORQ	DX, AX
	SHRQ	$1, AX
	MOVQ	AX, ret+0(FP)
	RET

// func Int80(nr uintptr) uintptr
TEXT ·Int80(SB),NOSPLIT,$0-16
	MOVQ	nr+0(FP), AX
	INT	$0x80
	MOVQ	AX, ret+8(FP)
	RET

// vsyscall(7)'s time(2): include/uapi/asm/vsyscall.h.
#define VSYSCALL_time 0xffffffffff600400

// func GateTime() uintptr
TEXT ·GateTime(SB),NOSPLIT,$0-8
	XORL	DI, DI
	MOVQ	$VSYSCALL_time, AX
	CALL	AX
	MOVQ	AX, ret+0(FP)
	RET

// func Thread(flags, stack uintptr) uintptr
TEXT ·Thread(SB),NOSPLIT,$0-24
	MOVQ	flags+0(FP), DI
	MOVQ	stack+8(FP), SI
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	MOVL	$SYS_clone, AX
	SYSCALL
	TESTQ	AX, AX
	JZ	child
	MOVQ	AX, ret+16(FP)
	RET
child:
	XORL	DI, DI
	MOVL	$SYS_exit, AX
	SYSCALL
	UNDEF
