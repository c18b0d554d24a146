package policy

import "embed"

//go:embed programs/amd64_*
var programs embed.FS
