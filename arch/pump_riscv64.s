//go:build !purego && !fakekernel

#include "go_asm.h"
#include "textflag.h"

// The kernel keeps all registers but A0: f stays in S2, short in S3, and the arguments that never change (A1, A3:
// no offsets; A5: flags; A7: the number) where they are.

// func Pump(f *Flow) Outcome
TEXT ·Pump(SB),NOSPLIT,$0-12
	MOV	f+0(FP), S2
	MOVW	ZERO, Flow_Moved(S2)
	MOV	ZERO, S3
	MOV	ZERO, A1
	MOV	ZERO, A3
	MOV	$const_SpliceFlags, A5
	MOV	$const_sysSplice, A7

drain:
	MOVWU	Flow_Held(S2), A4
	BEQZ	A4, empty
	MOVW	Flow_PipeR(S2), A0
	MOVW	Flow_Dst(S2), A2
	ECALL
	BLEZ	A0, undelivered
	MOVWU	Flow_Held(S2), T0
	SUBW	A0, T0
	MOVW	T0, Flow_Held(S2)
	MOVWU	Flow_Moved(S2), T0
	ADDW	A0, T0
	MOVW	T0, Flow_Moved(S2)
	JMP	drain
undelivered:
	NEG	A0, A0
	MOV	$const_eintr, T0
	BEQ	A0, T0, drain
	MOV	$const_eagain, T0
	BEQ	A0, T0, blocked
	MOVW	A0, Flow_Errno(S2)
	MOV	$const_DstFailed, A0
	JMP	done

empty:
	BNEZ	S3, drained
	MOVWU	Flow_Moved(S2), T0
	MOVWU	Flow_Budget(S2), T1
	BGEU	T0, T1, spent
	MOVW	Flow_Src(S2), A0
	MOVW	Flow_PipeW(S2), A2
	MOV	$const_Chunk, A4
	ECALL
	BEQZ	A0, ended
	BLTZ	A0, unread
	MOVW	A0, Flow_Held(S2)
	MOVWU	Flow_Slots(S2), T0
	BGEU	A0, T0, drain
	MOV	$1, S3
	JMP	drain
unread:
	NEG	A0, A0
	MOV	$const_eintr, T0
	BEQ	A0, T0, empty
	MOV	$const_eagain, T0
	BEQ	A0, T0, drained
	MOVW	A0, Flow_Errno(S2)
	MOV	$const_SrcFailed, A0
	JMP	done

drained:
	MOV	$const_Drained, A0
	JMP	done
blocked:
	MOV	$const_Blocked, A0
	JMP	done
ended:
	MOV	$const_Ended, A0
	JMP	done
spent:
	MOV	$const_Spent, A0
done:
	MOVW	A0, ret+8(FP)
	RET
