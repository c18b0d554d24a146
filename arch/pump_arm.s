//go:build !purego && !fakekernel

#include "go_asm.h"
#include "textflag.h"

// The kernel keeps all registers but R0: f stays in R6, short in R8, and the arguments that never change (R1, R3: no
// offsets; R5: flags; R7: the number) where they are. R12 is free for results.

// func Pump(f *Flow) Outcome
TEXT ·Pump(SB),NOSPLIT,$0-8
	MOVW	f+0(FP), R6
	MOVW	$0, R1
	MOVW	R1, Flow_Moved(R6)
	MOVW	$0, R8
	MOVW	$0, R3
	MOVW	$const_SpliceFlags, R5
	MOVW	$const_sysSplice, R7

drain:
	MOVW	Flow_Held(R6), R4
	CMP	$0, R4
	BEQ	empty
	MOVW	Flow_PipeR(R6), R0
	MOVW	Flow_Dst(R6), R2
	SWI	$0
	CMP	$0, R0
	BLE	undelivered
	MOVW	Flow_Held(R6), R12
	SUB	R0, R12
	MOVW	R12, Flow_Held(R6)
	MOVW	Flow_Moved(R6), R12
	ADD	R0, R12
	MOVW	R12, Flow_Moved(R6)
	B	drain
undelivered:
	RSB	$0, R0
	CMP	$const_eintr, R0
	BEQ	drain
	CMP	$const_eagain, R0
	BEQ	blocked
	MOVW	R0, Flow_Errno(R6)
	MOVW	$const_DstFailed, R0
	B	done

empty:
	CMP	$0, R8
	BNE	drained
	MOVW	Flow_Moved(R6), R0
	MOVW	Flow_Budget(R6), R12
	CMP	R12, R0
	BHS	spent
	MOVW	Flow_Src(R6), R0
	MOVW	Flow_PipeW(R6), R2
	MOVW	$const_Chunk, R4
	SWI	$0
	CMP	$0, R0
	BLE	unread
	MOVW	R0, Flow_Held(R6)
	MOVW	Flow_Slots(R6), R12
	CMP	R12, R0
	BHS	drain
	MOVW	$1, R8
	B	drain
unread:
	BEQ	ended
	RSB	$0, R0
	CMP	$const_eintr, R0
	BEQ	empty
	CMP	$const_eagain, R0
	BEQ	drained
	MOVW	R0, Flow_Errno(R6)
	MOVW	$const_SrcFailed, R0
	B	done

drained:
	MOVW	$const_Drained, R0
	B	done
blocked:
	MOVW	$const_Blocked, R0
	B	done
ended:
	MOVW	$const_Ended, R0
	B	done
spent:
	MOVW	$const_Spent, R0
done:
	MOVW	R0, ret+4(FP)
	RET
