#include "textflag.h"

#define SYS_exit 1
#define SYS_clone 120

// func Counter() uintptr
TEXT ·Counter(SB),NOSPLIT,$0-4
	MOVW	$-1, R0 // its use by programs is up to the firmware
	MOVW	R0, ret+0(FP)
	RET

// func CounterP() uintptr
TEXT ·CounterP(SB),NOSPLIT,$0-4
	MOVW	$-1, R0
	MOVW	R0, ret+0(FP)
	RET

// func Int80(nr uintptr) uintptr
TEXT ·Int80(SB),NOSPLIT,$0-8
	MOVW	$-1, R0
	MOVW	R0, ret+4(FP)
	RET

// func GateTime() uintptr
TEXT ·GateTime(SB),NOSPLIT,$0-4
	MOVW	$-1, R0
	MOVW	R0, ret+0(FP)
	RET

// func Thread(flags, stack uintptr) uintptr
TEXT ·Thread(SB),NOSPLIT,$0-12
	MOVW	flags+0(FP), R0
	MOVW	stack+4(FP), R1
	MOVW	$0, R2
	MOVW	$0, R3
	MOVW	$0, R4
	MOVW	$SYS_clone, R7
	SWI	$0
	CMP	$0, R0
	BEQ	child
	MOVW	R0, ret+8(FP)
	RET
child:
	MOVW	$0, R0
	MOVW	$SYS_exit, R7
	SWI	$0
	UNDEF
