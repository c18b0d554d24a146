// Package e2e tests the finished programs with the parts that people use them with: curl, microsocks, ssh -D, and
// tor's SocksPort. What the programs promise is observed from outside, by what a sandboxed program can and cannot do.
//
// Everything stays on loopback. Each test that shows that something is impossible first shows, with the same
// command outside the sandbox, that it would be possible.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bin is the directory of the programs under test: SYD_BIN if it is set, which is for machines without Go;
// otherwise they are built for the architecture of the tests.
var bin string

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(roles[role](os.Args[1:]))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if bin = os.Getenv("SYD_BIN"); bin != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "syd-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	if err := errors.Join(os.Chmod(dir, 0o755), build(dir)); err != nil { // an ordinary user must reach it
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return m.Run()
}

func build(dir string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", dir, "./cmd/...")
	cmd.Dir = "../.."
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// program is the path of a program under test.
func program(name string) string { return filepath.Join(bin, name) }

// emulated reports whether the tests run under user emulation, which refuses namespaces and all confinement.
func emulated() bool { return os.Getenv("SYD_TEST_EMULATED") != "" }

// patience bounds every wait for something that takes milliseconds when all is well, and more on a busy machine.
const patience = 30 * time.Second

// cleanEnviron is the environment without what tells programs about a proxy.
func cleanEnviron() []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(strings.ToLower(v), "=")
		if !strings.HasSuffix(name, "_proxy") {
			env = append(env, v)
		}
	}
	return env
}

// output collects what a process prints, while it may be read.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// process is a background process that ends with the test.
type process struct {
	*exec.Cmd
	out  output // stdout and stderr
	done chan struct{}
}

// start starts cmd, collects what it prints unless it goes elsewhere, and kills it when the test ends.
func start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{Cmd: cmd, done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.out
	}
	if cmd.Env == nil {
		cmd.Env = cleanEnviron()
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.WaitDelay = time.Second // a grandchild may hold the output open
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(cmd.Path), p.out.String())
		}
	})
	return p
}

// ended waits for the process's end and returns its exit status, 128+n for signal n.
func (p *process) ended(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("%s goes on; it said:\n%s", p.Path, p.out.String())
	}
	return status(p.ProcessState)
}

// status is the exit status as a shell tells it.
func status(state *os.ProcessState) int {
	if ws := state.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return state.ExitCode()
}

// says waits until the process has printed text.
func (p *process) says(t *testing.T, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s says %q", filepath.Base(p.Path), text), func() bool {
		return strings.Contains(p.out.String(), text)
	})
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// result is what became of a command that ran to its end.
type result struct {
	status         int
	stdout, stderr string
}

// finish runs cmd to its end.
func finish(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	cmd.Stderr = &stderr
	if cmd.Env == nil {
		cmd.Env = cleanEnviron()
	}
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return result{status(cmd.ProcessState), stdout.String(), stderr.String()}
}

// command is exec.Command bounded in time by the test's own patience.
func command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, name, args...)
}

// serve starts a server and waits until it accepts connections at the address.
func serve(t *testing.T, network, address string, name string, args ...string) *process {
	t.Helper()
	p := start(t, exec.Command(name, args...))
	eventually(t, name+" listens on "+address, func() bool {
		select {
		case <-p.done:
			t.Fatalf("%s ended: %s", name, p.out.String())
		default:
		}
		c, err := net.DialTimeout(network, address, time.Second)
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
	return p
}
