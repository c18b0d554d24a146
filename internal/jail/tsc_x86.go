//go:build 386 || amd64

package jail

const (
	tscSince    = "2.6.26"
	tscRequired = true
)
