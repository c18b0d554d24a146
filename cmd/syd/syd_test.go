package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"syd/internal/exit"
)

// bin holds the programs that the tests run: syd and syd-tor, built from this tree, as anybody may execute them; or
// SYD_BIN if it is set, which is for machines without Go.
var bin string

func TestMain(m *testing.M) {
	if names := os.Getenv(attackEnv); names != "" {
		os.Exit(attack(names))
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	// What nohup(1) or a CI ignores, the programs under test would ignore too; a caught signal is reset by exec.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	go func() {
		<-caught
		os.Exit(2)
	}()
	if bin = os.Getenv("SYD_BIN"); bin != "" {
		return m.Run()
	}
	var err error
	if bin, err = os.MkdirTemp("", "syd-test-"); err == nil {
		err = os.Chmod(bin, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(bin)
	build := exec.Command("go", "build", "-o", bin, "syd/cmd/syd", "syd/cmd/syd-tor")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+runtime.GOARCH)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// namespaces asks the kernel, or the emulator that stands before it, without any of syd's code: a test that cannot
// run is told from one that fails by this alone.
func namespaces() bool {
	c := exec.Command("true")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET}
	return c.Run() == nil
}

func needNamespaces(t *testing.T) {
	t.Helper()
	if !namespaces() {
		t.Skip("true(1) cannot have a user and a network namespace here either")
	}
}

// users are those that the sandbox must work for.
func users() map[string]*syscall.Credential {
	if os.Geteuid() != 0 {
		return map[string]*syscall.Credential{"ordinary": nil}
	}
	return map[string]*syscall.Credential{
		"root":     nil,
		"ordinary": {Uid: 1000, Gid: 1000, Groups: []uint32{1000, 4242}},
	}
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name == "namespaces" {
				return namespaces(), nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": expectStatus,
		},
	})
}

// expectStatus is "status N program args...": exec, and the exit status it must have.
func expectStatus(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var e *exec.ExitError
	if errors.As(err, &e) {
		got = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if neg || strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

// command returns a command that runs syd as user, with the proxy on.
func command(t *testing.T, user *syscall.Credential, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), filepath.Join(bin, "syd"), append([]string{"-m", "sandbox/proxy:on"}, args...)...)
	c.Dir = "/"
	c.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	c.WaitDelay = 10 * time.Second
	return c
}

func output(t *testing.T, c *exec.Cmd) string {
	t.Helper()
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, &stderr)
	}
	return string(out)
}

// TestIdentity compares what a program sees of itself inside and outside.
func TestIdentity(t *testing.T) {
	needNamespaces(t)
	for name, user := range users() {
		t.Run(name, func(t *testing.T) {
			const script = `id -u; id -g; umask; ulimit -n; ulimit -c; readlink /proc/self/cwd
				cut -d' ' -f5,6,7 /proc/self/stat; grep -E '^(SigBlk|SigIgn)' /proc/self/status`
			const prepare = "trap '' HUP INT TSTP; ulimit -S -n 512; umask 027; "
			outside := exec.Command("sh", "-c", prepare+script)
			outside.Dir, outside.SysProcAttr = "/", &syscall.SysProcAttr{Credential: user}
			inside := command(t, user)
			inside.Path = "/bin/sh"
			inside.Args = []string{"sh", "-c", prepare + "exec " + bin + "/syd -m sandbox/proxy:on sh -c \"$0\"", script}
			want, got := output(t, outside), output(t, inside)
			if want != got {
				t.Errorf("inside:\n%s\noutside:\n%s", got, want)
			}
		})
	}
}

// TestPrivileges looks at what is left of capabilities, at descriptors and at the network.
func TestPrivileges(t *testing.T) {
	needNamespaces(t)
	for name, user := range users() {
		t.Run(name, func(t *testing.T) {
			// A descriptor that syd inherits must get no further.
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			c := command(t, user, "sh", "-c", "cat /proc/self/status; echo; ls /proc/self/fd; echo; cat /proc/net/dev; echo; cat /proc/self/uid_map")
			c.ExtraFiles = []*os.File{r, w}
			parts := strings.Split(output(t, c), "\n\n")
			for _, want := range []string{
				"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
				"CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1",
			} {
				if !strings.Contains(parts[0], want) {
					t.Errorf("no %q in\n%s", want, parts[0])
				}
			}
			if parts[1] != "0\n1\n2\n3" { // 3 is ls's own
				t.Errorf("descriptors: %q", parts[1])
			}
			if devices := strings.Count(parts[2], ":"); devices != 1 || !strings.Contains(parts[2], "lo:") {
				t.Errorf("devices:\n%s", parts[2])
			}
		})
	}
}

// TestNoWayBack tries to change the network from inside, which the positive control shows to work with capabilities.
func TestNoWayBack(t *testing.T) {
	needNamespaces(t)
	const attack = "ip link set lo down"
	if err := exec.Command("unshare", "--user", "--map-root-user", "--net", "sh", "-c", attack).Run(); err != nil {
		t.Fatalf("control: %v", err)
	}
	for name, user := range users() {
		t.Run(name, func(t *testing.T) {
			// syd itself may be told that something is not permitted, so the program says that it is there.
			out, err := command(t, user, "sh", "-c", "echo inside; "+attack).CombinedOutput()
			if _, said, ran := strings.Cut(string(out), "inside\n"); err == nil || !ran || !strings.Contains(said, "not permitted") {
				t.Errorf("%s: %v\n%s", attack, err, out)
			}
		})
	}
}

// sleeper starts a program inside that says "ready" and then runs script, and returns once it is ready.
func sleeper(t *testing.T, user *syscall.Credential, script string) (*exec.Cmd, *bufio.Reader, *strings.Builder) {
	t.Helper()
	c := command(t, user, "sh", "-c", "echo ready; "+script)
	// In the foreground of the terminal of whoever runs the tests, syd would not pass on what a terminal sends.
	c.SysProcAttr.Setsid = true
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := new(strings.Builder)
	c.Stderr = stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); line != "ready\n" {
		c.Wait()
		t.Fatalf("got %q, %v\n%s", line, err, stderr)
	}
	return c, r, stderr
}

// TestSignals sends signals to syd, which the program must get once and the exit status must tell.
func TestSignals(t *testing.T) {
	needNamespaces(t)
	for name, user := range users() {
		t.Run(name, func(t *testing.T) {
			for _, s := range []syscall.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGALRM, 40} {
				c, _, stderr := sleeper(t, user, "exec sleep 30")
				c.Process.Signal(s)
				c.Wait()
				if got, want := exit.Code(c.ProcessState.ExitCode()), exit.Signal(s); got != want {
					t.Errorf("%v: exit status %d, want %d\n%s", s, got, want, stderr)
				}
			}
			c, r, _ := sleeper(t, user, `trap "n=\$((n+1))" TERM; n=0; echo trapped; while [ $n = 0 ]; do sleep .05; done; sleep .2; exit $n`)
			r.ReadString('\n')
			c.Process.Signal(unix.SIGTERM)
			c.Wait()
			if got := c.ProcessState.ExitCode(); got != 1 {
				t.Errorf("SIGTERM arrived %d times", got)
			}
		})
	}
}

// children returns the ids of pid's children by name.
func children(t *testing.T, pid int) map[string]int {
	t.Helper()
	found := map[string]int{}
	list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	// A child belongs to the thread that started it, which is the main one.
	for field := range strings.FieldsSeq(string(list)) {
		child, _ := strconv.Atoi(field)
		comm, _ := os.ReadFile("/proc/" + field + "/comm")
		found[strings.TrimSpace(string(comm))] = child
	}
	return found
}

func awaitGone(t *testing.T, pid int) {
	t.Helper()
	for range 400 {
		if err := unix.Kill(pid, 0); err == unix.ESRCH {
			return
		}
		if stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); strings.Contains(string(stat), ") Z ") {
			return // nobody here reaps it
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d is still there", pid)
}

// TestKilledSyd kills syd: syd-tor must end, and the program is left with a proxy that nobody listens at.
func TestKilledSyd(t *testing.T) {
	needNamespaces(t)
	for name, user := range users() {
		t.Run(name, func(t *testing.T) {
			c, r, _ := sleeper(t, user, `read _ </dev/null; while kill -0 $PPID 2>/dev/null && [ $PPID != 1 ] && ! [ -e /nonexistent ] && [ "$(cut -d' ' -f4 /proc/$$/stat)" = $PPID ]; do sleep .05; done; sleep .3
				curl -sS -m 5 http://127.0.0.1:9/ 2>&1; echo status $?`)
			tor, ok := children(t, c.Process.Pid)["syd-tor"]
			if !ok {
				t.Fatalf("no syd-tor among %v", children(t, c.Process.Pid))
			}
			c.Process.Signal(unix.SIGKILL)
			awaitGone(t, tor)
			rest, _ := io.ReadAll(r)
			c.Wait()
			if !strings.Contains(string(rest), "status 7") && !strings.Contains(string(rest), "status 97") {
				t.Errorf("curl inside: %s", rest)
			}
		})
	}
}

// TestKilledTor kills syd-tor under a running program: one line says so, and the program goes on to its own end.
func TestKilledTor(t *testing.T) {
	needNamespaces(t)
	c, _, stderr := sleeper(t, nil, "sleep 5; exit 3")
	tor := children(t, c.Process.Pid)["syd-tor"]
	if tor == 0 {
		t.Fatal("no syd-tor")
	}
	unix.Kill(tor, unix.SIGKILL)
	c.Wait()
	if got := c.ProcessState.ExitCode(); got != 3 {
		t.Errorf("exit status %d, want 3", got)
	}
	if want := "syd: syd-tor ended: killed by signal SIGKILL; sh goes on without any network\n"; !strings.Contains(stderr.String(), want) {
		t.Errorf("standard error is %q, want %q in it", stderr, want)
	}
}

// withTor returns a directory with a syd of its own and, in syd-tor's place, a shell script.
func withTor(t *testing.T, script string) string {
	t.Helper()
	dir := t.TempDir()
	binary, err := os.ReadFile(filepath.Join(bin, "syd"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"syd": string(binary), "syd-tor": "#!/bin/sh\n" + script + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// findStage is the start of a script in syd-tor's place that does something to the stage, syd's other child.
const findStage = "for p in $(cat /proc/$PPID/task/$PPID/children); do [ $p = $$ ] || stage=$p; done; "

// TestKilledStage kills the stage in the last moments before it becomes the program: that is told as the program's end.
func TestKilledStage(t *testing.T) {
	needNamespaces(t)
	for _, test := range []struct{ name, script string }{
		{"before it is released", "kill -KILL $stage; sleep .3; printf . >&4; exec sleep 20"},
		{"before it reads that it is", "kill -STOP $stage; sleep .3; printf . >&4; sleep .5; kill -KILL $stage; exec sleep 20"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := command(t, nil, "echo", "ran")
			c.Path = filepath.Join(withTor(t, findStage+test.script), "syd")
			c.SysProcAttr.Setsid = true // at a terminal syd would stop with the stage
			out, _ := c.CombinedOutput()
			if got, want := exit.Code(c.ProcessState.ExitCode()), exit.Signal(unix.SIGKILL); got != want || len(out) > 0 {
				t.Errorf("exit status %d, want %d; output %q", got, want, out)
			}
		})
	}
}

// TestBadTor puts programs in syd-tor's place that never become ready.
func TestBadTor(t *testing.T) {
	needNamespaces(t)
	for _, test := range []struct{ name, script, want string }{
		{"fails", "exit 70", "syd: syd-tor: ended before it was ready: exit status 70\n"},
		{"killed", "kill -9 $$", "syd: syd-tor: ended before it was ready: killed by signal SIGKILL\n"},
		{"closes and fails", "exec 4<&-; sleep .3; exit 1", "syd: syd-tor: ended before it was ready: exit status 1\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := command(t, nil, "echo", "ran")
			c.Path = filepath.Join(withTor(t, test.script), "syd")
			var stderr strings.Builder
			c.Stderr = &stderr
			out, _ := c.Output()
			if got := exit.Code(c.ProcessState.ExitCode()); got != exit.NoProxy || stderr.String() != test.want || len(out) > 0 {
				t.Errorf("exit status %d, standard error %q, output %q", got, &stderr, out)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Link(filepath.Join(bin, "syd"), filepath.Join(dir, "syd")); err != nil {
			t.Fatal(err)
		}
		c := command(t, nil, "/bin/echo", "ran")
		c.Path, c.Env = filepath.Join(dir, "syd"), []string{"PATH=/nonexistent"}
		out, _ := c.CombinedOutput()
		if got := exit.Code(c.ProcessState.ExitCode()); got != exit.NoProxy || !strings.HasPrefix(string(out), "syd: syd-tor: neither beside syd nor in PATH") {
			t.Errorf("exit status %d, output %q", got, out)
		}
	})
}

// TestTorArguments reads what syd-tor is given, from a program in its place.
func TestTorArguments(t *testing.T) {
	needNamespaces(t)
	for _, test := range []struct {
		commands []string
		want     string
	}{
		{nil, "-p 3 -i 4 -o 127.0.0.1:9050"},
		{[]string{"-m", "proxy/ext/host:::1", "-m", "proxy/ext/port:1080"}, "-p 3 -i 4 -o [::1]:1080"},
		{[]string{"-m", "proxy/ext/host:localhost"}, "-p 3 -i 4 -o "},
		{[]string{"-m", "proxy/ext/unix:/run/x", "-m", "proxy/ext/host:no-such-host.invalid"}, "-p 3 -i 4 -u /run/x"},
		{[]string{"-m", "proxy/ext/unix:x"}, "-p 3 -i 4 -u /x"},
		{[]string{"-m", "proxy/ext/unix:@x", "-m", "proxy/stats:on"}, "-p 3 -i 4 -u @x --stats"},
	} {
		// It says what it sees, and then that it is ready.
		const tor = "echo \"$@\" >&2; for f in /proc/$$/fd/*; do [ -L $f ] && printf '%s ' ${f##*/} >&2; done; grep flags /proc/$$/fdinfo/3 >&2; printf . >&4; exec sleep 5"
		r, w, err := os.Pipe() // inherited, and must not reach it
		if err != nil {
			t.Fatal(err)
		}
		c := command(t, nil, append(test.commands, "true")...)
		c.Path, c.ExtraFiles = filepath.Join(withTor(t, tor), "syd"), []*os.File{r, w, r, w}
		out, err := c.CombinedOutput()
		r.Close()
		w.Close()
		lines := strings.Split(string(out), "\n")
		if err != nil || len(lines) != 3 || !strings.HasPrefix(lines[0], test.want) {
			t.Errorf("%v: %v, %q", test.commands, err, lines)
			continue
		}
		descriptors, flags, _ := strings.Cut(lines[1], "flags:")
		// 10 is sh's own, for its script.
		if descriptors != "0 1 10 2 3 4 " {
			t.Errorf("descriptors of syd-tor: %s", descriptors)
		}
		if bits, err := strconv.ParseUint(strings.TrimSpace(flags), 8, 32); err != nil || bits&unix.O_NONBLOCK == 0 {
			t.Errorf("flags of the pidfd: %q", flags)
		}
	}
}

// TestFirstConnection starts a program whose first act is to connect: it must not be refused.
func TestFirstConnection(t *testing.T) {
	needNamespaces(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "hello\n")
			c.Close()
		}
	}()
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	for name, user := range users() {
		for _, addr := range []string{"127.0.0.1", "::1"} {
			t.Run(name+" "+addr, func(t *testing.T) {
				for range 5 {
					got := output(t, command(t, user, "-m", "proxy/addr:"+addr, "-m", "proxy/ext/port:"+port,
						"bash", "-c", "read x </dev/tcp/"+addr+"/9050; echo $x"))
					if got != "hello\n" {
						t.Fatalf("got %q", got)
					}
				}
			})
		}
	}
}

// TestNamespaceRefused takes user namespaces away: an ordinary user is told which and why, root does without.
func TestNamespaceRefused(t *testing.T) {
	needNamespaces(t)
	// In a user namespace of its own the limit is this process's to set (user_namespaces(7)).
	refuse := func(inner string) *exec.Cmd {
		return exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "--net", "sh", "-c",
			"echo 0 >/proc/sys/user/max_user_namespaces; "+inner)
	}
	out, err := refuse(bin + "/syd -m sandbox/proxy:on echo ran").CombinedOutput()
	want := "user namespace: no space left on device (user.max_user_namespaces is 0); going on with a network namespace alone"
	if err != nil || !strings.Contains(string(out), want) || !strings.Contains(string(out), "ran\n") {
		t.Errorf("root: %v\n%s", err, out)
	}
	c := refuse("exec setpriv --bounding-set=-all --inh-caps=-all " + bin + "/syd -m sandbox/proxy:on echo ran")
	out, err = c.CombinedOutput()
	var e *exec.ExitError
	if !errors.As(err, &e) || exit.Code(e.ExitCode()) != exit.Unavailable || strings.Contains(string(out), "ran\n") ||
		!strings.Contains(string(out), "syd: namespaces: user namespace: no space left on device (user.max_user_namespaces is 0)") {
		t.Errorf("ordinary user: %v\n%s", err, out)
	}
}
