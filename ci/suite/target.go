package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"time"
)

// guestPackage holds the one test that says where it runs.
const guestPackage = "./ci/suite/guest"

// target is an architecture and how its programs run on this machine.
type target struct {
	goarch   string
	machine  string // what uname(2) says in the emulator; unlike the host's, so it proves which of the two ran
	emulator string // suffix of the emulator's name
	magic    string // binfmt_misc's pattern of an ELF executable: \x escapes, as the kernel reads them
	mask     string
}

// The mask ignores the ABI byte and takes ET_EXEC as well as ET_DYN.
const (
	head32 = `\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00`
	head64 = `\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00`
	mask   = `\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff`
)

// targets lists the architectures in the order in which they run: those that find a mistake fastest come first.
// The last two bytes of magic are the ELF machine number.
var targets = []target{
	{goarch: "amd64"},
	{goarch: "386"},
	{"arm64", "aarch64", "aarch64", head64 + `\xb7\x00`, mask},
	{"arm", "armv7l", "arm", head32 + `\x28\x00`, mask},
	{"riscv64", "riscv64", "riscv64", head64 + `\xf3\x00`, mask},
}

func allArches() []string {
	var list []string
	for _, t := range targets {
		list = append(list, t.goarch)
	}
	return list
}

// native reports whether this machine runs the target's programs itself.
func (t target) native() bool {
	return t.goarch == runtime.GOARCH || t.goarch == "386" && runtime.GOARCH == "amd64"
}

// native reports the same for the architecture of that name.
func native(goarch string) bool {
	return slices.ContainsFunc(targets, func(t target) bool { return t.goarch == goarch && t.native() })
}

// proof is what the guest's test prints if it runs where it should.
func (t target) proof() string {
	if t.native() {
		return "guest GOARCH=" + t.goarch + " "
	}
	return fmt.Sprintf("guest GOARCH=%s machine=%s ", t.goarch, t.machine)
}

// test runs the packages' tests on one architecture. An error says that they could not be run at all, or that the
// runner failed apart from what the results show.
func test(ctx context.Context, goarch string, packages []string) (*results, error) {
	run := newResults(goarch)
	var t target
	for _, row := range targets {
		if row.goarch == goarch {
			t = row
		}
	}
	if t.goarch == "" {
		return run, fmt.Errorf("%s: no such architecture", goarch)
	}

	// Vet is lint's; a hanging test is told with every goroutine's stack.
	args := append([]string{"go", "test", "-json", "-count=1", "-vet=off", "-timeout=10m"}, packages...)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	if !t.native() {
		var err error
		if cmd, err = t.emulated(ctx, args); err != nil {
			return run, err
		}
		cmd.Env = append(os.Environ(), "SYD_TEST_EMULATED="+t.goarch)
	}
	cmd.Env = append(cmd.Environ(), "GOOS=linux", "GOARCH="+t.goarch, "GOARM=7", "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	// go test hands an interrupt on to the test binaries, and must have the time for it.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second

	out, err := cmd.StdoutPipe()
	if err != nil {
		return run, err
	}
	if err := cmd.Start(); err != nil {
		return run, err
	}
	readErr := run.read(out, os.Stdout)
	if readErr != nil {
		_, _ = io.Copy(io.Discard, out) // or go test would wait for a reader
	}
	waitErr := cmd.Wait()
	run.proved(t.proof())
	switch {
	case readErr != nil:
		return run, fmt.Errorf("%s: results of go test: %w", goarch, readErr)
	case waitErr != nil && run.sound():
		return run, fmt.Errorf("%s: go test: %w, though no test failed", goarch, waitErr)
	}
	return run, nil
}
