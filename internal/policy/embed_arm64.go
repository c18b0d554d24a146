package policy

import "embed"

//go:embed programs/arm64_*
var programs embed.FS
