package policy

import "embed"

//go:embed programs/arm_*
var embedded embed.FS

func init() { programs = embedded }
