package policy

import "embed"

//go:embed programs/arm64_*
var embedded embed.FS

func init() { programs = embedded }
