module syd

go 1.26.0

require golang.org/x/sys v0.49.0

require github.com/seccomp/libseccomp-golang v0.11.1

require github.com/spf13/pflag v1.0.10

require github.com/cavaliergopher/cpio v1.0.1
