#include "textflag.h"

#define SYS_exit 1
#define SYS_clone 120

// func Counter() uintptr
TEXT ·Counter(SB),NOSPLIT,$0-4
	RDTSC
	SHRL	$1, AX // an error number it is not
	MOVL	AX, ret+0(FP)
	RET

// func CounterP() uintptr
TEXT ·CounterP(SB),NOSPLIT,$0-4
	RDTSCP
	SHRL	$1, AX
	MOVL	AX, ret+0(FP)
	RET

// func Int80(nr uintptr) uintptr
TEXT ·Int80(SB),NOSPLIT,$0-8
	MOVL	$-1, AX // the door that every call goes through here
	MOVL	AX, ret+4(FP)
	RET

// func GateTime() uintptr
TEXT ·GateTime(SB),NOSPLIT,$0-4
	MOVL	$-1, AX
	MOVL	AX, ret+0(FP)
	RET

// func Thread(flags, stack uintptr) uintptr
TEXT ·Thread(SB),NOSPLIT,$0-12
	MOVL	flags+0(FP), BX
	MOVL	stack+4(FP), CX
	XORL	DX, DX
	XORL	SI, SI
	XORL	DI, DI
	MOVL	$SYS_clone, AX
	INT	$0x80
	TESTL	AX, AX
	JZ	child
	MOVL	AX, ret+8(FP)
	RET
child:
	XORL	BX, BX
	MOVL	$SYS_exit, AX
	INT	$0x80
	UNDEF
