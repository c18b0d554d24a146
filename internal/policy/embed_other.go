//go:build !amd64 && !386 && !arm64 && !arm

package policy

import "embed"

// programs is empty: there is no policy for this architecture yet, and Relay says so.
var programs embed.FS
