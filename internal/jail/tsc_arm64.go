package jail

// CNTVCT_EL0 is the counter here (arch/arm64/kernel/process.c, Linux 6.12).
const (
	tscSince    = "6.12"
	tscRequired = false
)
