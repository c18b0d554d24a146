//go:build !purego && (amd64 || 386 || arm64 || arm)

package arch

// Pump does what pumpGeneric does, in assembly. What it buys is control over the code that runs confined (one
// function without calls, stack checks or bounds checks), not time: the kernel's part is a hundred times as long.
//
//go:noescape
func Pump(f *Flow) Outcome
