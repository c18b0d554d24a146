package e2e

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// relay is a syd-tor that the test started as its owner, as the manual page describes it for other projects.
type relay struct {
	*process
	owner *process // whose end ends syd-tor
	addr  string   // where it accepts connections
}

// startRelay starts syd-tor with the options given beside -p and -i, and hands it a listener on loopback.
func startRelay(t *testing.T, options ...string) relay {
	t.Helper()
	owner := start(t, exec.Command("sleep", "3600"))
	pidfd, err := unix.PidfdOpen(owner.Process.Pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		t.Fatal("pidfd_open:", err)
	}
	ownerFile := os.NewFile(uintptr(pidfd), "pidfd")
	defer ownerFile.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal("socketpair:", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()

	cmd := exec.Command(program("syd-tor"), append(options, "-p3", "-i4")...)
	cmd.ExtraFiles = []*os.File{ownerFile, theirs}
	p := start(t, cmd)

	var config net.ListenConfig
	config.SetMultipathTCP(false) // the relay gets a plain TCP socket
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(int(file.Fd())), nil, 0); err != nil {
		t.Fatal("sendmsg:", err)
	}
	return relay{p, owner, l.Addr().String()}
}

// serves waits until syd-tor has taken a connection and, with nothing upstream, ended it. Until then it may still be
// confining itself.
func (r relay) serves(t *testing.T) {
	t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if errors.Is(err, syscall.ECONNRESET) {
		return // ended before Dial looked
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("syd-tor does not serve; it said:\n%s", r.out.String())
	}
}

// inModes runs test for syd-tor without confinement and confined.
func inModes(t *testing.T, test func(t *testing.T, options ...string)) {
	t.Run("unconfined", func(t *testing.T) { test(t, "-d") })
	t.Run("confined", func(t *testing.T) {
		needConfinement(t)
		test(t)
	})
}

// needConfinement skips where there is no kernel that could confine anything.
func needConfinement(t *testing.T) {
	t.Helper()
	if emulated() {
		t.Skip("user emulation has no namespaces, seccomp or Landlock")
	}
}

// needNamespaces skips where syd can start nothing.
func needNamespaces(t *testing.T) {
	t.Helper()
	if emulated() {
		t.Skip("user emulation refuses CLONE_NEWUSER")
	}
}

// curl is a curl command that knows of no proxy but the one given, "" for none, and whose failures have a status.
func curl(t *testing.T, proxy string, args ...string) *exec.Cmd {
	t.Helper()
	args = append([]string{"-q", "-sS", "--fail", "--max-time", "100"}, args...)
	if proxy != "" {
		args = append(args, "--proxy", "socks5h://"+proxy)
	}
	return command(t, "curl", args...)
}

// fetched fails the test unless the result is the small page n.
func fetched(t *testing.T, r result, n string) {
	t.Helper()
	if r.status != 0 || r.stdout != smallPage(n) {
		t.Fatalf("status %d, stdout %q, stderr %q; want the page %s", r.status, r.stdout, strings.TrimSpace(r.stderr), n)
	}
}
