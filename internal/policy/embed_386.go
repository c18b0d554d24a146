package policy

import "embed"

//go:embed programs/386_*
var programs embed.FS
