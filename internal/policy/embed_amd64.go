package policy

import "embed"

//go:embed programs/amd64_*
var embedded embed.FS

func init() { programs = embedded }
