package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A test of another architecture starts programs of that architecture, itself among them, so `go test -exec` is not
// enough: the kernel must know the interpreter. Since Linux 6.7 a user namespace has a binfmt_misc of its own, which
// changes nothing on the machine and ends with its last process. Where that cannot be had, the machine's own
// registration serves, which Debian's package makes where systemd-binfmt runs.

const (
	insideFlag  = "-inside"
	noNamespace = 125 // exit status of inside: it could not set up what it should
	binfmt      = "/proc/sys/fs/binfmt_misc"
)

// emulated returns the command that runs args where the kernel executes the target's programs.
func (t target) emulated(ctx context.Context, args []string) (*exec.Cmd, error) {
	interpreter, err := exec.LookPath("qemu-" + t.emulator + "-static")
	if err != nil {
		interpreter, err = exec.LookPath("qemu-" + t.emulator)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: no user emulator: install qemu-user-static (ci/deps test)", t.goarch)
	}
	if t.magic == "" {
		return nil, fmt.Errorf("%s: not emulated on %s", t.goarch, runtime.GOARCH)
	}
	register := fmt.Sprintf(":syd-%s:M::%s:%s:%s:F", t.goarch, t.magic, t.mask, interpreter)

	identity := fmt.Sprintf("%d:%d", os.Geteuid(), os.Getegid())
	private := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{insideFlag, identity, register}, args...)...)
		cmd.SysProcAttr = namespaces()
		return cmd
	}
	var stderr bytes.Buffer
	probe := private("true")
	probe.Stderr = &stderr
	err = probe.Run()
	if err == nil {
		return private(args...), nil
	}
	// Debian registers each under the emulator's name.
	registered, readErr := os.ReadFile(binfmt + "/qemu-" + t.emulator)
	if readErr == nil && strings.HasPrefix(string(registered), "enabled") {
		return exec.CommandContext(ctx, args[0], args[1:]...), nil
	}
	return nil, fmt.Errorf("%s: no private binfmt_misc (%v: %s) and none of the machine's: "+
		"needs Linux 6.7 with user namespaces, or qemu-user-static's own registration (systemctl restart systemd-binfmt)",
		t.goarch, err, bytes.TrimSpace(stderr.Bytes()))
}

// namespaces describes a process in a user and a mount namespace of its own. Root keeps every identity that it has
// here, so that tests that change theirs work; an ordinary user becomes root, for as long as it takes to mount,
// because only a root of the namespace may write to what is mounted.
func namespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
		return attr
	}
	attr.UidMappings = sameIDs("/proc/self/uid_map")
	attr.GidMappings = sameIDs("/proc/self/gid_map")
	attr.GidMappingsEnableSetgroups = true
	return attr
}

// sameIDs returns the mapping that keeps each identity that the file, uid_map or gid_map of user_namespaces(7), has.
func sameIDs(file string) []syscall.SysProcIDMap {
	var same []syscall.SysProcIDMap
	text, _ := os.ReadFile(file) // without it the clone fails, and says so
	for line := range strings.Lines(string(text)) {
		var first, outside, count int
		if _, err := fmt.Sscan(line, &first, &outside, &count); err == nil {
			same = append(same, syscall.SysProcIDMap{ContainerID: first, HostID: first, Size: count})
		}
	}
	return same
}

// inside runs in the new namespaces: registers the emulator that args[1] describes, then runs the command in the
// rest of args as the user and group that args[0] names. It returns only if it cannot.
func inside(args []string) error {
	var uid, gid int
	if len(args) < 3 {
		return errors.New("usage: " + insideFlag + " uid:gid registration command [argument...]")
	}
	if _, err := fmt.Sscanf(args[0], "%d:%d", &uid, &gid); err != nil {
		return fmt.Errorf("identity %q: %w", args[0], err)
	}
	if err := unix.Mount("binfmt_misc", binfmt, "binfmt_misc", 0, ""); err != nil {
		return fmt.Errorf("mount binfmt_misc: %w", err)
	}
	if err := os.WriteFile(binfmt+"/register", []byte(args[1]), 0); err != nil {
		return fmt.Errorf("register emulator: %w", err)
	}
	path, err := exec.LookPath(args[2])
	if err != nil {
		return err
	}
	if uid == 0 {
		return syscall.Exec(path, args[2:], os.Environ())
	}

	// Becoming oneself again takes one more namespace, which finds the emulator in this one, its parent.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := exec.CommandContext(ctx, path, args[3:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: 0, Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := cmd.Run(); cmd.ProcessState == nil {
		return err
	}
	os.Exit(cmd.ProcessState.ExitCode())
	return nil
}
