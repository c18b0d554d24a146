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

// Fetch returns the row's kernel of today's index, from the cache where it has that version. Calls for the same
// cache take turns, in this process and in others.
func (r Row) Fetch(ctx context.Context, cache string) (*Image, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // and with it the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	img, err := r.fetch(ctx, cache)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %s in %s: %w", r.Name, r.Package, r.Suite, err)
	}
	return img, nil
}

func (r Row) fetch(ctx context.Context, cache string) (*Image, error) {
	t, err := newTree(ctx, filepath.Join(cache, "apt", r.Suite+"-"+r.Arch), r)
	if err != nil {
		return nil, err
	}
	pkg, version, err := t.resolve(ctx, r.Package)
	if err != nil {
		return nil, err
	}
	if !r.Is(version) {
		return nil, fmt.Errorf("is %s now, not %s", version, r.Series())
	}
	dir := filepath.Join(cache, "kernels", pkg+"_"+version+"_"+r.Arch)
	img := &Image{Row: r, Version: version, Path: filepath.Join(dir, "kernel")}
	if _, err := os.Stat(img.Path); err == nil {
		return img, nil
	}
	tmp := dir + ".new"
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o755)); err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	deb, err := t.download(ctx, tmp, pkg+"="+version)
	if err != nil {
		return nil, err
	}
	vmlinuz, err := extract(ctx, deb)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(tmp, "kernel"), bootable(vmlinuz), 0o644); err != nil {
		return nil, err
	}
	// The rename is the commit: a cut download never looks like a kernel.
	return img, errors.Join(os.Remove(deb), os.Rename(tmp, dir))
}

// tree is a private apt: its own configuration, sources, lists and cache.
type tree struct {
	dir  string
	arch string
}

// maxAge is how old an index may be before it is fetched again.
const maxAge = 24 * time.Hour

func newTree(ctx context.Context, dir string, r Row) (*tree, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	t := &tree{dir: dir, arch: r.Arch}
	stamp := filepath.Join(dir, "updated")
	if st, err := os.Stat(stamp); err == nil && time.Since(st.ModTime()) < maxAge {
		return t, nil
	}
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
	for name, text := range map[string]string{
		"status":                   "",
		"sources.list.d/x.sources": fmt.Sprintf(source, mirror(ctx, r.Suite), r.Suite),
		"apt.conf":                 fmt.Sprintf(conf, dir, r.Arch),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
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
	out, err := t.apt(ctx, "", "apt-cache", "show", "--no-all-versions", pkg)
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(line, "Version: "); ok {
			return pkg, strings.TrimSpace(v), nil
		}
	}
	return "", "", fmt.Errorf("%s: no version in the index", pkg)
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

// extract returns the compressed kernel out of a package: /boot/vmlinuz-VERSION, or from 7.2 on
// /usr/lib/modules/VERSION/vmlinuz; vmlinux where the architecture has no compressed one.
func extract(ctx context.Context, deb string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		// Modules follow the kernel and are not worth reading: dpkg-deb and its children end of SIGPIPE, so
		// the status says nothing.
		out.Close()
		_ = cmd.Wait()
	}()
	for r := tar.NewReader(out); ; {
		h, err := r.Next()
		if err != nil {
			return nil, fmt.Errorf("%s: no kernel in it: %w", filepath.Base(deb), err)
		}
		base := path.Base(h.Name)
		if h.Typeflag == tar.TypeReg && (strings.HasPrefix(base, "vmlinuz") || strings.HasPrefix(base, "vmlinux")) {
			return io.ReadAll(r)
		}
	}
}
