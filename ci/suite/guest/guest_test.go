// Package guest says where the tests run. The runner demands its line from every architecture.
package guest

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// The line is the proof that the binary ran as what it was built for, and which kernel or emulator answered uname(2).
func TestGuest(t *testing.T) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal("uname:", err)
	}
	t.Logf("guest GOARCH=%s machine=%s uid=%d", runtime.GOARCH, unix.ByteSliceToString(u.Machine[:]), os.Getuid())
}
