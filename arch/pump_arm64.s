//go:build !purego && !fakekernel

#include "go_asm.h"
#include "textflag.h"

// The kernel keeps all registers but R0: f stays in R19, short in R20, and the arguments that never change (R1, R3:
// no offsets; R5: flags; R8: the number) where they are.

// func Pump(f *Flow) Outcome
TEXT ·Pump(SB),NOSPLIT,$0-12
	MOVD	f+0(FP), R19
	MOVW	ZR, Flow_Moved(R19)
	MOVD	ZR, R20
	MOVD	ZR, R1
	MOVD	ZR, R3
	MOVD	$const_SpliceFlags, R5
	MOVD	$const_sysSplice, R8

drain:
	MOVWU	Flow_Held(R19), R4
	CBZ	R4, empty
	MOVW	Flow_PipeR(R19), R0
	MOVW	Flow_Dst(R19), R2
	SVC
	CMP	$0, R0
	BLE	undelivered
	MOVWU	Flow_Held(R19), R6
	SUBW	R0, R6
	MOVW	R6, Flow_Held(R19)
	MOVWU	Flow_Moved(R19), R6
	ADDW	R0, R6
	MOVW	R6, Flow_Moved(R19)
	B	drain
undelivered:
	NEG	R0, R0
	CMP	$const_eintr, R0
	BEQ	drain
	CMP	$const_eagain, R0
	BEQ	blocked
	MOVW	R0, Flow_Errno(R19)
	MOVD	$const_DstFailed, R0
	B	done

empty:
	CBNZ	R20, drained
	MOVWU	Flow_Moved(R19), R6
	MOVWU	Flow_Budget(R19), R7
	CMPW	R7, R6
	BHS	spent
	MOVW	Flow_Src(R19), R0
	MOVW	Flow_PipeW(R19), R2
	MOVD	$const_Chunk, R4
	SVC
	CMP	$0, R0
	BLE	unread
	MOVW	R0, Flow_Held(R19)
	MOVWU	Flow_Slots(R19), R6
	CMPW	R6, R0
	BHS	drain
	MOVD	$1, R20
	B	drain
unread:
	BEQ	ended
	NEG	R0, R0
	CMP	$const_eintr, R0
	BEQ	empty
	CMP	$const_eagain, R0
	BEQ	drained
	MOVW	R0, Flow_Errno(R19)
	MOVD	$const_SrcFailed, R0
	B	done

drained:
	MOVD	$const_Drained, R0
	B	done
blocked:
	MOVD	$const_Blocked, R0
	B	done
ended:
	MOVD	$const_Ended, R0
	B	done
spent:
	MOVD	$const_Spent, R0
done:
	MOVW	R0, ret+8(FP)
	RET
