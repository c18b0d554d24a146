package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whoever names a QEMU of their own gets that, or one line that says why not; never another in silence.
func TestOwnQEMU(t *testing.T) {
	for _, row := range []struct {
		name, script string
		version      string // empty: refused
		want         string // part of the error
	}{
		{"newer", "echo 'QEMU emulator version 11.1.3 (Some)'; echo more", "11.1.3 (Some)", ""},
		{"oldest", "echo 'QEMU emulator version 10.0.0'", "10.0.0", ""},
		{"too old", "echo 'QEMU emulator version 7.2.22 (Some)'", "", "is QEMU 7.2.22 (Some), which is not reliable; needs 10 or newer"},
		{"something else", "echo hello", "", `no version in "hello"`},
		{"fails", "exit 3", "", "exit status 3"},
		{"missing", "", "", "no such file"},
	} {
		t.Run(row.name, func(t *testing.T) {
			bin := t.TempDir()
			if row.script != "" {
				if err := os.WriteFile(filepath.Join(bin, "qemu-system-x86_64"), []byte("#!/bin/sh\n"+row.script+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv(QEMUVariable, bin)
			q, err := FetchQEMU(t.Context(), t.TempDir())
			switch {
			case row.version == "" && err == nil:
				t.Errorf("takes %q", q.Version)
			case row.version == "" && !strings.Contains(err.Error(), row.want):
				t.Errorf("error %q, want %q in it", err, row.want)
			case row.version == "":
				if !strings.HasPrefix(err.Error(), QEMUVariable+"="+bin+": ") {
					t.Errorf("error %q does not begin with variable and value", err)
				}
			case err != nil:
				t.Error(err)
			case q.Version != row.version:
				t.Errorf("version %q, want %q", q.Version, row.version)
			}
		})
	}
}
