package kernel

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// QEMU is an emulator that can be trusted with Go programs: 10 or newer. 7.2 cannot: of Linux 6.12 with cmpxchg16b
// visible, 9 boots of 47 died, and 386 programs die of stray traps now and then.
type QEMU struct {
	Version string // as it tells itself

	argv []string // comes before the program's path: none, or the loader of its own C library
	bin  string   // folder of the programs
	data []string // options that say where the firmware is
}

const (
	// qemuSuite is one for every machine, so that results can be compared.
	qemuSuite  = "trixie"
	qemuOldest = 10

	// QEMUVariable names a folder with the programs to use instead of those that FetchQEMU gets.
	QEMUVariable = "SYD_TEST_QEMU"
)

// qemuPackages have the emulators of the architectures in kernels.txt; the firmware comes by their dependencies.
var qemuPackages = []string{"qemu-system-x86", "qemu-system-arm", "qemu-system-riscv"}

// FetchQEMU returns the suite's QEMU of today's index, from the cache where it has that version. It comes with every
// library down to the C library and runs with these alone, so that it does not matter what this machine has.
func FetchQEMU(ctx context.Context, cache string) (*QEMU, error) {
	if bin := os.Getenv(QEMUVariable); bin != "" {
		q := &QEMU{bin: bin}
		if err := q.ask(ctx); err != nil {
			return nil, fmt.Errorf("%s=%s: %w", QEMUVariable, bin, err)
		}
		return q, nil
	}
	turn, err := lock(cache)
	if err != nil {
		return nil, err
	}
	defer turn.Close()
	root, err := fetchRoot(ctx, cache)
	if err != nil {
		return nil, fmt.Errorf("QEMU of %s (%s names a folder with another): %w", qemuSuite, QEMUVariable, err)
	}
	q := &QEMU{bin: filepath.Join(root, "usr/bin")}
	for _, dir := range []string{"qemu", "seabios"} {
		q.data = append(q.data, "-L", filepath.Join(root, "usr/share", dir))
	}
	loader, err := loader(root, filepath.Join(q.bin, "qemu-system-x86_64"))
	if err != nil {
		return nil, fmt.Errorf("QEMU in %s: %w", root, err)
	}
	q.argv = []string{loader, "--library-path", filepath.Dir(loader)}
	if err := q.ask(ctx); err != nil {
		return nil, fmt.Errorf("QEMU in %s: %w", root, err)
	}
	return q, nil
}

// Command returns the command that runs one of QEMU's programs.
func (q *QEMU) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	argv := append(q.argv[:len(q.argv):len(q.argv)], filepath.Join(q.bin, program))
	argv = append(append(argv, q.data...), args...)
	return exec.CommandContext(ctx, argv[0], argv[1:]...)
}

// ask fills in the version, and refuses one that is too old.
func (q *QEMU) ask(ctx context.Context) error {
	out, err := q.Command(ctx, "qemu-system-x86_64", "--version").Output()
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(string(out), "\n")
	q.Version = strings.TrimPrefix(line, "QEMU emulator version ")
	var major int
	if _, err := fmt.Sscanf(q.Version, "%d.", &major); err != nil {
		return fmt.Errorf("no version in %q", line)
	}
	if major < qemuOldest {
		return fmt.Errorf("is QEMU %s, which is not reliable; needs %d or newer", q.Version, qemuOldest)
	}
	return nil
}

// fetchRoot unpacks QEMU and all that it depends on into a folder of the cache, and returns that.
// Requires: lock.
func fetchRoot(ctx context.Context, cache string) (string, error) {
	arch, err := exec.CommandContext(ctx, "dpkg", "--print-architecture").Output()
	if err != nil {
		return "", fmt.Errorf("dpkg --print-architecture: %w", err)
	}
	native := strings.TrimSpace(string(arch))
	t, err := newTree(ctx, cache, qemuSuite, native)
	if err != nil {
		return "", err
	}
	version, err := t.version(ctx, qemuPackages[0])
	if err != nil {
		return "", err
	}
	// A list of libraries' folders cannot have the colon of an epoch in it.
	_, plain, epoch := strings.Cut(version, ":")
	if !epoch {
		plain = version
	}
	dir, err := filepath.Abs(filepath.Join(cache, "qemu", plain+"_"+native))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp := dir + ".new"
	root, debs := filepath.Join(tmp, "root"), filepath.Join(tmp, "debs")
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(root, 0o755), os.MkdirAll(filepath.Join(debs, "partial"), 0o755)); err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	// In the tree nothing is installed, so that apt takes the C library to be missing, too.
	argv := append([]string{
		"apt-get", "install", "-qq", "--yes", "--download-only", "--no-install-recommends", "-o", "Dir::Cache::archives=" + debs,
	}, qemuPackages...)
	if _, err := t.apt(ctx, "", argv...); err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return "", err
	}
	for _, deb := range files {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", deb, root).CombinedOutput(); err != nil {
			return "", fmt.Errorf("dpkg-deb -x %s: %w: %s", filepath.Base(deb), err, out)
		}
	}
	// There are programs with the set-user-ID bit among the dependencies, which nobody is to find here. The rename is
	// the commit.
	return dir, errors.Join(os.Chmod(root, 0o700), os.Rename(root, dir))
}

// loader returns the path below root of the dynamic loader that the program asks for. It lies beside the libraries.
func loader(root, program string) (string, error) {
	f, err := elf.Open(program)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		name, err := io.ReadAll(p.Open())
		if err != nil {
			return "", err
		}
		// /lib is a link to usr/lib, which is no package's.
		return filepath.EvalSymlinks(filepath.Join(root, "usr", strings.TrimRight(string(name), "\x00")))
	}
	return "", fmt.Errorf("%s: asks for no loader", program)
}
