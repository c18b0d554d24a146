//go:build !purego && !fakekernel

#include "go_asm.h"
#include "textflag.h"

// The six arguments take every register but AX and SP, so f is loaded anew after each call, and short lies on the
// stack. The arguments that never change (CX, SI: no offsets; BP: flags) stay where they are.

// func Pump(f *Flow) Outcome
TEXT ·Pump(SB),NOSPLIT,$4-8
	MOVL	f+0(FP), BX
	MOVL	$0, Flow_Moved(BX)
	MOVL	$0, short-4(SP)
	XORL	CX, CX
	XORL	SI, SI
	MOVL	$const_SpliceFlags, BP

drain:
	MOVL	Flow_Held(BX), DI
	TESTL	DI, DI
	JZ	empty
	MOVL	Flow_Dst(BX), DX
	MOVL	Flow_PipeR(BX), BX
	MOVL	$const_sysSplice, AX
	INT	$0x80
	MOVL	f+0(FP), BX
	CMPL	AX, $0
	JLE	undelivered
	SUBL	AX, Flow_Held(BX)
	ADDL	AX, Flow_Moved(BX)
	JMP	drain
undelivered:
	NEGL	AX
	CMPL	AX, $const_eintr
	JEQ	drain
	CMPL	AX, $const_eagain
	JEQ	blocked
	MOVL	AX, Flow_Errno(BX)
	MOVL	$const_DstFailed, AX
	JMP	done

empty:
	CMPL	short-4(SP), $0
	JNE	drained
	MOVL	Flow_Moved(BX), AX
	CMPL	AX, Flow_Budget(BX)
	JCC	spent
	MOVL	Flow_PipeW(BX), DX
	MOVL	Flow_Src(BX), BX
	MOVL	$const_Chunk, DI
	MOVL	$const_sysSplice, AX
	INT	$0x80
	MOVL	f+0(FP), BX
	CMPL	AX, $0
	JLE	unread
	MOVL	AX, Flow_Held(BX)
	CMPL	AX, Flow_Slots(BX)
	JCC	drain
	MOVL	$1, short-4(SP)
	JMP	drain
unread:
	JEQ	ended
	NEGL	AX
	CMPL	AX, $const_eintr
	JEQ	empty
	CMPL	AX, $const_eagain
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
	MOVL	AX, ret+4(FP)
	RET
