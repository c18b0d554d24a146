#include "textflag.h"

#define SYS_exit 1
#define SYS_clone 120

// INT $0x80, not the vDSO's entry: the relay gives up the vDSO.

// func Syscall6(nr, a1, a2, a3, a4, a5, a6 uintptr) uintptr
TEXT ·Syscall6(SB),NOSPLIT,$0-32
	MOVL	nr+0(FP), AX
	MOVL	a1+4(FP), BX
	MOVL	a2+8(FP), CX
	MOVL	a3+12(FP), DX
	MOVL	a4+16(FP), SI
	MOVL	a5+20(FP), DI
	MOVL	a6+24(FP), BP
	INT	$0x80
	MOVL	AX, ret+28(FP)
	RET

// func rawFork(flags, stack uintptr, child func()) uintptr
TEXT ·rawFork(SB),NOSPLIT,$0-16
	MOVL	flags+0(FP), BX
	MOVL	stack+4(FP), CX
	MOVL	child+8(FP), BP
	XORL	DX, DX
	XORL	SI, SI
	XORL	DI, DI
	MOVL	$SYS_clone, AX
	INT	$0x80
	TESTL	AX, AX
	JZ	child
	MOVL	AX, ret+12(FP)
	RET
child:
	// The closure goes in DX; g stays in thread-local storage, which the child shares by copy.
	MOVL	BP, DX
	MOVL	(DX), AX
	CALL	AX
	UNDEF

// func handlers() (catch, leave uintptr)
TEXT ·handlers(SB),NOSPLIT,$0-8
	LEAL	catch<>(SB), AX
	MOVL	AX, catch+0(FP)
	LEAL	leave<>(SB), AX
	MOVL	AX, leave+4(FP)
	RET

// void catch(int signal)
TEXT catch<>(SB),NOSPLIT|NOFRAME,$0
	MOVL	4(SP), AX
	LEAL	·caught(SB), CX
	MOVB	$1, (CX)(AX*1)
	RET

// void leave(int signal)
TEXT leave<>(SB),NOSPLIT|NOFRAME,$0
	XORL	BX, BX
	MOVL	$SYS_exit, AX
	INT	$0x80
	UNDEF
