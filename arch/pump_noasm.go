//go:build purego || fakekernel

package arch

// Pump is pumpGeneric.
//
//go:nosplit
func Pump(f *Flow) Outcome { return pumpGeneric(f) }
