package bed

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// Builder compiles what guests run, once for each GOARCH, into Dir/GOARCH. It calls the go command in Root.
type Builder struct {
	Root, Dir string
	Overlay   string // file for go build -overlay; empty is the source as it stands

	mu   sync.Mutex // one compiler at a time: guests are using the other processor
	done map[string]error
}

// Test compiles a package's tests and returns the binary.
func (b *Builder) Test(ctx context.Context, goarch, pkg string) (string, error) {
	name := strings.ReplaceAll(strings.TrimPrefix(pkg, "./"), "/", "-") + ".test"
	return b.run(ctx, goarch, name, "test", "-c", "-tags=testvm", "-trimpath", pkg)
}

// Program compiles one program and returns the binary.
func (b *Builder) Program(ctx context.Context, goarch, pkg string) (string, error) {
	return b.run(ctx, goarch, filepath.Base(pkg), "build", "-trimpath", pkg)
}

func (b *Builder) run(ctx context.Context, goarch, name string, argv ...string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	dir, err := filepath.Abs(filepath.Join(b.Dir, goarch))
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, name)
	if err, ok := b.done[out]; ok {
		return out, err
	}
	if b.done == nil {
		b.done = map[string]error{}
	}
	// The package is the last argument, and -o comes before it. A package without tests leaves no file.
	pkg := argv[len(argv)-1]
	argv = append(argv[:len(argv)-1:len(argv)-1], "-overlay="+b.Overlay, "-o", out, pkg)
	_ = os.Remove(out)
	cmd := exec.CommandContext(ctx, "go", argv...)
	cmd.Dir = b.Root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+goarch)
	text, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("go %s for %s: %w\n%s", strings.Join(argv, " "), goarch, err, text)
	} else if _, serr := os.Stat(out); serr != nil {
		err = fmt.Errorf("go %s for %s: made nothing: %s", strings.Join(argv, " "), goarch, text)
	}
	b.done[out] = err
	return out, err
}

// ImportPath returns the import path of a package given by its directory, as symbols are named after it.
func (b *Builder) ImportPath(ctx context.Context, pkg string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-tags=testvm", pkg)
	cmd.Dir = b.Root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go list %s: %w", pkg, err)
	}
	return strings.TrimSpace(string(out)), nil
}
