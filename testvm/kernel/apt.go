package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// Image is a kernel on disk.
type Image struct {
	Row
	Version string // of the Debian package
	Path    string // what QEMU's -kernel takes
}

// Cache is where kernels outlive "make clean": below $XDG_CACHE_HOME if that is set, else below out.
func Cache(out string) (string, error) {
	if d := os.Getenv("XDG_CACHE_HOME"); d != "" {
		return filepath.Join(d, "syd-testvm"), nil
	}
	return filepath.Abs(filepath.Join(out, "cache"))
}

// Fetch returns the row's kernel of today's index, from the cache where it has that version.
func (r Row) Fetch(ctx context.Context, cache string) (*Image, error) {
	path, version, err := file{
		suite: r.Suite, arch: r.Arch, pkg: r.Package, check: r.check, is: isKernel, convert: bootable,
	}.fetch(ctx, cache)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", r.Name, err)
	}
	return &Image{Row: r, Version: version, Path: path}, nil
}

func (r Row) check(version string) error {
	if !r.Is(version) {
		return fmt.Errorf("is %s now, not %s", version, r.Series())
	}
	return nil
}

// isKernel knows /boot/vmlinuz-VERSION, and from 7.2 on /usr/lib/modules/VERSION/vmlinuz; vmlinux where the
// architecture has no compressed one.
func isKernel(name string) bool {
	base := path.Base(name)
	return strings.HasPrefix(base, "vmlinuz") || strings.HasPrefix(base, "vmlinux")
}

// Tool returns one program of a package that Debian links statically, for Debian's architecture arch. Trixie is the first
// suite with riscv64.
func Tool(ctx context.Context, cache, arch, pkg, name string) (string, error) {
	path, _, err := file{
		suite: "trixie", arch: arch, pkg: pkg,
		check:   func(string) error { return nil },
		is:      func(p string) bool { return path.Base(p) == name },
		convert: func(b []byte) []byte { return b },
	}.fetch(ctx, cache)
	return path, err
}

// file is one file out of one package.
type file struct {
	suite, arch, pkg string
	check            func(version string) error // nil if it is the version wanted
	is               func(name string) bool     // the path in the package
	convert          func([]byte) []byte        // what is kept of it
}

// lock makes callers with the same cache take turns, in this process and in others. Closing the file ends the turn.
func lock(cache string) (*os.File, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}

// fetch returns the file's path in the cache and the version of its package.
func (f file) fetch(ctx context.Context, cache string) (path, version string, err error) {
	turn, err := lock(cache)
	if err != nil {
		return "", "", err
	}
	defer turn.Close()
	path, version, err = f.locked(ctx, cache)
	if err != nil {
		return "", "", fmt.Errorf("%s in %s: %w", f.pkg, f.suite, err)
	}
	return path, version, nil
}

func (f file) locked(ctx context.Context, cache string) (path, version string, err error) {
	t, err := newTree(ctx, cache, f.suite, f.arch)
	if err != nil {
		return "", "", err
	}
	pkg, version, err := t.resolve(ctx, f.pkg)
	if err != nil {
		return "", "", err
	}
	if err := f.check(version); err != nil {
		return "", "", err
	}
	dir := filepath.Join(cache, "files", pkg+"_"+version+"_"+f.arch)
	path = filepath.Join(dir, "file")
	if _, err := os.Stat(path); err == nil {
		return path, version, nil
	}
	tmp := dir + ".new"
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o755)); err != nil {
		return "", "", err
	}
	defer os.RemoveAll(tmp)
	deb, err := t.download(ctx, tmp, pkg+"="+version)
	if err != nil {
		return "", "", err
	}
	b, err := extract(ctx, deb, f.is)
	if err != nil {
		return "", "", err
	}
	if err := os.WriteFile(filepath.Join(tmp, "file"), f.convert(b), 0o644); err != nil {
		return "", "", err
	}
	// The rename is the commit: a cut download never looks like a whole file.
	return path, version, errors.Join(os.Remove(deb), os.Rename(tmp, dir))
}

// tree is a private apt: its own configuration, sources, lists and cache.
type tree struct{ dir string }

// maxAge is how old an index may be before it is fetched again.
const maxAge = 24 * time.Hour

// newTree returns the cache's tree for a suite and an architecture, with an index that is not too old.
// Requires: lock.
func newTree(ctx context.Context, cache, suite, arch string) (*tree, error) {
	dir, err := filepath.Abs(filepath.Join(cache, "apt", suite+"-"+arch))
	if err != nil {
		return nil, err
	}
	t := &tree{dir}
	for _, d := range []string{"lists/partial", "cache/archives/partial", "sources.list.d", "preferences.d"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	const source = "Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
	// The sandbox user could not read a tree below a private home.
	const conf = `APT::Architecture "%[2]s";
APT::Architectures { "%[2]s"; };
Dir::State "%[1]s";
Dir::State::status "%[1]s/status";
Dir::State::Lists "%[1]s/lists";
Dir::Cache "%[1]s/cache";
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "%[1]s/sources.list.d";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "%[1]s/preferences.d";
APT::Sandbox::User "root";
Acquire::Retries "2";
`
	// Written each time: they hold where the cache is, and it may have been moved.
	for name, text := range map[string]string{
		"status":                   "",
		"sources.list.d/x.sources": fmt.Sprintf(source, mirror(ctx, suite), suite),
		"apt.conf":                 fmt.Sprintf(conf, dir, arch),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	stamp := filepath.Join(dir, "updated")
	if st, err := os.Stat(stamp); err == nil && time.Since(st.ModTime()) < maxAge {
		return t, nil
	}
	// Error-Mode any: without it apt-get update succeeds with a warning when the index cannot be fetched.
	if _, err := t.apt(ctx, "", "apt-get", "update", "-qq", "-o", "APT::Update::Error-Mode=any"); err != nil {
		return nil, err
	}
	return t, os.WriteFile(stamp, nil, 0o644)
}

// mirror is the site this system's apt uses for Debian, so that a local mirror serves here too, else Debian's own.
func mirror(ctx context.Context, suite string) string {
	site := "http://deb.debian.org/debian"
	security := strings.HasSuffix(suite, "-security")
	if security {
		site = "http://security.debian.org/debian-security"
	}
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(ORIGIN) $(SUITE) $(SITE)", "Created-By: Packages").Output()
	if err != nil {
		return site
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "Debian" && strings.HasSuffix(f[1], "-security") == security {
			return f[2]
		}
	}
	return site
}

// apt runs one of apt's programs in the tree. An error is apt's own last line.
func (t *tree) apt(ctx context.Context, dir string, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(t.dir, "apt.conf"), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		return "", fmt.Errorf("%s %s: %w: %s", argv[0], argv[1], err, lines[len(lines)-1])
	}
	return string(out), nil
}

var depends = regexp.MustCompile(`(?m)^ +\|?Depends: (\S+)`)

// resolve follows a meta package to the package that holds the kernel image. Up to 7.1 that is linux-image-VERSION;
// from 7.2 on that one is empty and depends on linux-binary-VERSION.
func (t *tree) resolve(ctx context.Context, pkg string) (name, version string, err error) {
	for _, prefix := range []string{"linux-image-", "linux-binary-"} {
		out, err := t.apt(ctx, "", "apt-cache", "depends", pkg)
		if err != nil {
			return "", "", err
		}
		for _, m := range depends.FindAllStringSubmatch(out, -1) {
			if strings.HasPrefix(m[1], prefix) {
				pkg = m[1]
				break
			}
		}
	}
	version, err = t.version(ctx, pkg)
	return pkg, version, err
}

// version returns the package's newest version in the index.
func (t *tree) version(ctx context.Context, pkg string) (string, error) {
	out, err := t.apt(ctx, "", "apt-cache", "show", "--no-all-versions", pkg)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(line, "Version: "); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", fmt.Errorf("%s: no version in the index", pkg)
}

// download puts the package into dir and returns its path. apt checks the hash that the signed index has for it.
func (t *tree) download(ctx context.Context, dir, pkg string) (string, error) {
	if _, err := t.apt(ctx, dir, "apt-get", "download", "-qq", pkg); err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("apt-get download %s: left %d files: %w", pkg, len(debs), err)
	}
	return debs[0], nil
}

// extract returns the first regular file of the package that is the one wanted.
func extract(ctx context.Context, deb string, is func(name string) bool) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		// What follows is not worth reading: dpkg-deb and its children end of SIGPIPE, so
		// the status says nothing.
		out.Close()
		_ = cmd.Wait()
	}()
	for r := tar.NewReader(out); ; {
		h, err := r.Next()
		if err != nil {
			return nil, fmt.Errorf("%s: not in it: %w", filepath.Base(deb), err)
		}
		if h.Typeflag == tar.TypeReg && is(h.Name) {
			return io.ReadAll(r)
		}
	}
}
