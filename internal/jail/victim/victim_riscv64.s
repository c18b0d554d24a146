#include "textflag.h"

#define SYS_exit 93
#define SYS_clone 220

// func Counter() uintptr
TEXT ·Counter(SB),NOSPLIT,$0-8
	RDTIME	A0
	SRL	$1, A0 // an error number it is not
	MOV	A0, ret+0(FP)
	RET

// func CounterP() uintptr
TEXT ·CounterP(SB),NOSPLIT,$0-8
	MOV	$-1, A0
	MOV	A0, ret+0(FP)
	RET

// func Int80(nr uintptr) uintptr
TEXT ·Int80(SB),NOSPLIT,$0-16
	MOV	$-1, A0
	MOV	A0, ret+8(FP)
	RET

// func GateTime() uintptr
TEXT ·GateTime(SB),NOSPLIT,$0-8
	MOV	$-1, A0
	MOV	A0, ret+0(FP)
	RET

// func Thread(flags, stack uintptr) uintptr
TEXT ·Thread(SB),NOSPLIT,$0-24
	MOV	flags+0(FP), A0
	MOV	stack+8(FP), A1
	MOV	ZERO, A2
	MOV	ZERO, A3
	MOV	ZERO, A4
	MOV	$SYS_clone, A7
	ECALL
	BEQZ	A0, child
	MOV	A0, ret+16(FP)
	RET
child:
	MOV	ZERO, A0
	MOV	$SYS_exit, A7
	ECALL
	UNDEF
