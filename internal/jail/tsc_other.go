//go:build !386 && !amd64 && !arm64

package jail

// No kernel can deny the counter here: the relay can read the time.
const (
	tscSince    = Never
	tscRequired = false
)
