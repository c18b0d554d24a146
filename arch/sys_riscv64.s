#include "textflag.h"

#define SYS_exit 93
#define SYS_clone 220

// func Syscall6(nr, a1, a2, a3, a4, a5, a6 uintptr) uintptr
TEXT ·Syscall6(SB),NOSPLIT,$0-64
	MOV	nr+0(FP), A7
	MOV	a1+8(FP), A0
	MOV	a2+16(FP), A1
	MOV	a3+24(FP), A2
	MOV	a4+32(FP), A3
	MOV	a5+40(FP), A4
	MOV	a6+48(FP), A5
	ECALL
	MOV	A0, ret+56(FP)
	RET

// func rawFork(flags, stack uintptr, child func()) uintptr
TEXT ·rawFork(SB),NOSPLIT,$0-32
	MOV	flags+0(FP), A0
	MOV	stack+8(FP), A1
	MOV	child+16(FP), S2
	MOV	ZERO, A2
	MOV	ZERO, A3
	MOV	ZERO, A4
	MOV	$SYS_clone, A7
	ECALL
	BEQZ	A0, child
	MOV	A0, ret+24(FP)
	RET
child:
	// g stays in S11; the closure goes in S10, which the assembler calls CTXT.
	MOV	S2, CTXT
	MOV	(CTXT), A1
	CALL	A1
	UNDEF

// func handlers() (catch, leave uintptr)
TEXT ·handlers(SB),NOSPLIT,$0-16
	MOV	$catch<>(SB), A0
	MOV	A0, catch+0(FP)
	MOV	$leave<>(SB), A0
	MOV	A0, leave+8(FP)
	RET

// void catch(int signal)
TEXT catch<>(SB),NOSPLIT|NOFRAME,$0
	MOV	$·caught(SB), A1
	ADD	A0, A1
	MOV	$1, A2
	MOVB	A2, (A1)
	RET

// void leave(int signal)
TEXT leave<>(SB),NOSPLIT|NOFRAME,$0
	MOV	ZERO, A0
	MOV	$SYS_exit, A7
	ECALL
	UNDEF
