#include "textflag.h"

#define SYS_exit 93
#define SYS_clone 220

// func Counter() uintptr
TEXT ·Counter(SB),NOSPLIT,$0-8
	MRS	CNTVCT_EL0, R0
	LSR	$1, R0, R0 // an error number it is not
	MOVD	R0, ret+0(FP)
	RET

// func CounterP() uintptr
TEXT ·CounterP(SB),NOSPLIT,$0-8
	MOVD	$-1, R0
	MOVD	R0, ret+0(FP)
	RET

// func Int80(nr uintptr) uintptr
TEXT ·Int80(SB),NOSPLIT,$0-16
	MOVD	$-1, R0
	MOVD	R0, ret+8(FP)
	RET

// func GateTime() uintptr
TEXT ·GateTime(SB),NOSPLIT,$0-8
	MOVD	$-1, R0
	MOVD	R0, ret+0(FP)
	RET

// func Thread(flags, stack uintptr) uintptr
TEXT ·Thread(SB),NOSPLIT,$0-24
	MOVD	flags+0(FP), R0
	MOVD	stack+8(FP), R1
	MOVD	$0, R2
	MOVD	$0, R3
	MOVD	$0, R4
	MOVD	$SYS_clone, R8
	SVC
	CBZ	R0, child
	MOVD	R0, ret+16(FP)
	RET
child:
	MOVD	$0, R0
	MOVD	$SYS_exit, R8
	SVC
	UNDEF
