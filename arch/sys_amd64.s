#include "textflag.h"

#define SYS_exit 60
#define SYS_clone 56

// func Syscall6(nr, a1, a2, a3, a4, a5, a6 uintptr) uintptr
TEXT ·Syscall6(SB),NOSPLIT,$0-64
	MOVQ	nr+0(FP), AX
	MOVQ	a1+8(FP), DI
	MOVQ	a2+16(FP), SI
	MOVQ	a3+24(FP), DX
	MOVQ	a4+32(FP), R10
	MOVQ	a5+40(FP), R8
	MOVQ	a6+48(FP), R9
	SYSCALL
	MOVQ	AX, ret+56(FP)
	RET

// func rawFork(flags, stack uintptr, child func()) uintptr
TEXT ·rawFork(SB),NOSPLIT,$0-32
	MOVQ	flags+0(FP), DI
	MOVQ	stack+8(FP), SI
	MOVQ	child+16(FP), R12
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	MOVL	$SYS_clone, AX
	SYSCALL
	TESTQ	AX, AX
	JZ	child
	MOVQ	AX, ret+24(FP)
	RET
child:
	// ABIInternal wants g in R14 (kept through the call), zero in X15, the closure in DX.
	XORL	BP, BP
	XORPS	X15, X15
	MOVQ	R12, DX
	MOVQ	(DX), AX
	CALL	AX
	UNDEF

// func handlers() (catch, leave uintptr)
TEXT ·handlers(SB),NOSPLIT,$0-16
	LEAQ	catch<>(SB), AX
	MOVQ	AX, catch+0(FP)
	LEAQ	leave<>(SB), AX
	MOVQ	AX, leave+8(FP)
	RET

// void catch(int signal)
TEXT catch<>(SB),NOSPLIT|NOFRAME,$0
	LEAQ	·caught(SB), AX
	MOVB	$1, (AX)(DI*1)
	RET

// void leave(int signal)
TEXT leave<>(SB),NOSPLIT|NOFRAME,$0
	XORL	DI, DI
	MOVL	$SYS_exit, AX
	SYSCALL
	UNDEF
