package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// TestDemo runs the demonstration with syd, and with something in its place that does not confine: it must tell them
// apart.
func TestDemo(t *testing.T) {
	probe := exec.Command("true")
	probe.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET}
	if err := probe.Run(); err != nil {
		t.Skip("true(1) cannot have a user and a network namespace here either:", err)
	}
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "syd/cmd/demo", "syd/cmd/syd", "syd/cmd/syd-tor")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+runtime.GOARCH)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "demo")).CombinedOutput()
	if err != nil || strings.Count(string(out), "\nok ") != 7 {
		t.Errorf("%v\n%s", err, out)
	}

	const unconfined = "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done; shift; exec \"$@\"\n"
	syd := filepath.Join(bin, "syd")
	if err := os.Remove(syd); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(syd, []byte(unconfined), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err = exec.CommandContext(t.Context(), filepath.Join(bin, "demo")).CombinedOutput()
	for _, want := range []string{"FAIL direct", "FAIL upstream", "FAIL syd-tor"} {
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("unconfined: no %q, %v\n%s", want, err, out)
		}
	}
}
