//go:build purego || fakekernel || !(amd64 || 386 || arm64 || arm)

package arch

// Pump is pumpGeneric.
//
//go:nosplit
func Pump(f *Flow) Outcome { return pumpGeneric(f) }
