//go:build !purego && !fakekernel

#include "go_asm.h"
#include "textflag.h"

// The kernel keeps all registers but AX, CX and R11: f stays in BX, short in R12, and the arguments that never
// change (SI, R10: no offsets; R9: flags) where they are.

// func Pump(f *Flow) Outcome
TEXT ·Pump(SB),NOSPLIT,$0-12
	MOVQ	f+0(FP), BX
	MOVL	$0, Flow_Moved(BX)
	XORL	R12, R12
	XORL	SI, SI
	XORL	R10, R10
	MOVL	$const_SpliceFlags, R9

drain:
	MOVL	Flow_Held(BX), R8
	TESTL	R8, R8
	JZ	empty
	MOVLQSX	Flow_PipeR(BX), DI
	MOVLQSX	Flow_Dst(BX), DX
	MOVL	$const_sysSplice, AX
	SYSCALL
	CMPQ	AX, $0
	JLE	undelivered
	SUBL	AX, Flow_Held(BX)
	ADDL	AX, Flow_Moved(BX)
	JMP	drain
undelivered:
	NEGQ	AX
	CMPQ	AX, $const_eintr
	JEQ	drain
	CMPQ	AX, $const_eagain
	JEQ	blocked
	MOVL	AX, Flow_Errno(BX)
	MOVL	$const_DstFailed, AX
	JMP	done

empty:
	TESTL	R12, R12
	JNZ	drained
	MOVL	Flow_Moved(BX), AX
	CMPL	AX, Flow_Budget(BX)
	JCC	spent
	MOVLQSX	Flow_Src(BX), DI
	MOVLQSX	Flow_PipeW(BX), DX
	MOVL	$const_Chunk, R8
	MOVL	$const_sysSplice, AX
	SYSCALL
	CMPQ	AX, $0
	JLE	unread
	MOVL	AX, Flow_Held(BX)
	CMPL	AX, Flow_Slots(BX)
	JCC	drain
	MOVL	$1, R12
	JMP	drain
unread:
	JEQ	ended
	NEGQ	AX
	CMPQ	AX, $const_eintr
	JEQ	empty
	CMPQ	AX, $const_eagain
	JEQ	drained
	MOVL	AX, Flow_Errno(BX)
	MOVL	$const_SrcFailed, AX
	JMP	done

drained:
	MOVL	$const_Drained, AX
	JMP	done
blocked:
	MOVL	$const_Blocked, AX
	JMP	done
ended:
	MOVL	$const_Ended, AX
	JMP	done
spent:
	MOVL	$const_Spent, AX
done:
	MOVL	AX, ret+8(FP)
	RET
