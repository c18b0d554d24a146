package policy

import "embed"

//go:embed programs/arm_*
var programs embed.FS
