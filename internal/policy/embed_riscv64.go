package policy

import "embed"

//go:embed programs/riscv64_*
var embedded embed.FS

func init() { programs = embedded }
