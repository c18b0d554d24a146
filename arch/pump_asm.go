//go:build !purego && !fakekernel

package arch

// Pump does what pumpGeneric does, in assembly. What it buys is control over the code that runs confined (one
// function without calls, stack checks or bounds checks), not time: on amd64, in the best of 8 runs of BenchmarkPump, a
// splice that the kernel refuses at once took 334 ns instead of 361, and a message the same within the noise.
//
//go:noescape
func Pump(f *Flow) Outcome
