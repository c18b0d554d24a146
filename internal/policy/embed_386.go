package policy

import "embed"

//go:embed programs/386_*
var embedded embed.FS

func init() { programs = embedded }
