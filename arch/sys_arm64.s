#include "textflag.h"

#define SYS_exit 93
#define SYS_clone 220

// func Syscall6(nr, a1, a2, a3, a4, a5, a6 uintptr) uintptr
TEXT ·Syscall6(SB),NOSPLIT,$0-64
	MOVD	nr+0(FP), R8
	MOVD	a1+8(FP), R0
	MOVD	a2+16(FP), R1
	MOVD	a3+24(FP), R2
	MOVD	a4+32(FP), R3
	MOVD	a5+40(FP), R4
	MOVD	a6+48(FP), R5
	SVC
	MOVD	R0, ret+56(FP)
	RET

// func rawFork(flags, stack uintptr, child func()) uintptr
TEXT ·rawFork(SB),NOSPLIT,$0-32
	MOVD	flags+0(FP), R0
	MOVD	stack+8(FP), R1
	MOVD	child+16(FP), R19
	MOVD	ZR, R2
	MOVD	ZR, R3
	MOVD	ZR, R4
	MOVD	$SYS_clone, R8
	SVC
	CBZ	R0, child
	MOVD	R0, ret+24(FP)
	RET
child:
	// g stays in R28; the closure goes in R26; R29 ends the frame chain.
	MOVD	ZR, R29
	MOVD	R19, R26
	MOVD	(R26), R1
	CALL	(R1)
	UNDEF

// func handlers() (catch, leave uintptr)
TEXT ·handlers(SB),NOSPLIT,$0-16
	MOVD	$catch<>(SB), R0
	MOVD	R0, catch+0(FP)
	MOVD	$leave<>(SB), R0
	MOVD	R0, leave+8(FP)
	RET

// void catch(int signal)
TEXT catch<>(SB),NOSPLIT|NOFRAME,$0
	MOVD	$·caught(SB), R1
	MOVD	$1, R2
	MOVB	R2, (R1)(R0)
	RET

// void leave(int signal)
TEXT leave<>(SB),NOSPLIT|NOFRAME,$0
	MOVD	ZR, R0
	MOVD	$SYS_exit, R8
	SVC
	UNDEF
