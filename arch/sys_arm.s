#include "textflag.h"

#define SYS_exit 1
#define SYS_clone 120

// func Syscall6(nr, a1, a2, a3, a4, a5, a6 uintptr) uintptr
TEXT ·Syscall6(SB),NOSPLIT,$0-32
	MOVW	nr+0(FP), R7
	MOVW	a1+4(FP), R0
	MOVW	a2+8(FP), R1
	MOVW	a3+12(FP), R2
	MOVW	a4+16(FP), R3
	MOVW	a5+20(FP), R4
	MOVW	a6+24(FP), R5
	SWI	$0
	MOVW	R0, ret+28(FP)
	RET

// func rawFork(flags, stack uintptr, child func()) uintptr
TEXT ·rawFork(SB),NOSPLIT,$0-16
	MOVW	flags+0(FP), R0
	MOVW	stack+4(FP), R1
	MOVW	child+8(FP), R8
	MOVW	$0, R2
	MOVW	$0, R3
	MOVW	$0, R4
	MOVW	$SYS_clone, R7
	SWI	$0
	CMP	$0, R0
	BEQ	child
	MOVW	R0, ret+12(FP)
	RET
child:
	// g stays in R10; the closure goes in R7.
	MOVW	R8, R7
	MOVW	(R7), R0
	CALL	(R0)
	UNDEF

// func handlers() (catch, leave uintptr)
TEXT ·handlers(SB),NOSPLIT,$0-8
	MOVW	$catch<>(SB), R0
	MOVW	R0, catch+0(FP)
	MOVW	$leave<>(SB), R0
	MOVW	R0, leave+4(FP)
	RET

// void catch(int signal)
TEXT catch<>(SB),NOSPLIT|NOFRAME,$0
	MOVW	$·caught(SB), R1
	ADD	R0, R1
	MOVW	$1, R2
	MOVB	R2, (R1)
	RET

// void leave(int signal)
TEXT leave<>(SB),NOSPLIT|NOFRAME,$0
	MOVW	$0, R0
	MOVW	$SYS_exit, R7
	SWI	$0
	UNDEF
