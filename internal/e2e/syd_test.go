package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// syd is a syd command with the proxy on; options are values of -m up to "--", the rest is the program.
func syd(t *testing.T, options []string, args ...string) *exec.Cmd {
	t.Helper()
	all := []string{"-m", "sandbox/proxy:on"}
	for _, m := range options {
		all = append(all, "-m", m)
	}
	return command(t, program("syd"), append(append(all, "--"), args...)...)
}

// external are the options that name the upstream at a TCP address.
func external(addr string) []string {
	return []string{"proxy/ext/host:" + hostOf(addr), "proxy/ext/port:" + portOf(addr)}
}

// plainCurl is the argument list of a curl that knows of the proxy by its environment alone.
func plainCurl(args ...string) []string {
	return append([]string{"curl", "-q", "-sS", "--fail", "--max-time", "100"}, args...)
}

// asEach runs test as the user that runs the tests and, if that is root, as an ordinary user as well. become makes
// a command run as that user.
func asEach(t *testing.T, test func(t *testing.T, become func(*exec.Cmd) *exec.Cmd)) {
	if os.Getuid() != 0 {
		t.Run("user", func(t *testing.T) { test(t, func(c *exec.Cmd) *exec.Cmd { return c }) })
		return
	}
	t.Run("root", func(t *testing.T) { test(t, func(c *exec.Cmd) *exec.Cmd { return c }) })
	t.Run("user", func(t *testing.T) {
		test(t, func(c *exec.Cmd) *exec.Cmd {
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinary, Gid: ordinary}}
			c.Dir = "/"
			return c
		})
	})
}

// ordinary is a user and group number without a name.
const ordinary = 12345

// The main job: a program in the sandbox reaches a page through the proxy, whatever the proxy is.
func TestSydFetches(t *testing.T) {
	needNamespaces(t)
	site := startPage(t, "127.0.0.1")
	upstreams := map[string]string{
		"microsocks":      startMicrosocks(t, "127.0.0.1"),
		"microsocks-ipv6": startMicrosocks(t, "::1"),
		"ssh":             startSSH(t),
	}
	asEach(t, func(t *testing.T, become func(*exec.Cmd) *exec.Cmd) {
		for name, addr := range upstreams {
			t.Run(name, func(t *testing.T) {
				fetched(t, finish(t, become(syd(t, external(addr), plainCurl(site.url+"/small/1")...))), "1")
			})
		}
	})
}

// A sandboxed program talks with the real tor on both kinds of SocksPort.
func TestSydTor(t *testing.T) {
	needNamespaces(t)
	addr, path := startTorDaemon(t)
	upstreams := map[string][]string{"tcp": external(addr), "unix": {"proxy/ext/unix:" + path}}
	self := testBinary(t)
	asEach(t, func(t *testing.T, become func(*exec.Cmd) *exec.Cmd) {
		for name, upstream := range upstreams {
			t.Run(name, func(t *testing.T) {
				cmd := become(syd(t, upstream, self, "127.0.0.1:9050"))
				cmd.Env = append(cleanEnviron(), roleVariable+"=handshake")
				if r := finish(t, cmd); r.status != 0 || r.stdout != wantHandshake {
					t.Errorf("status %d, stdout %q, stderr %q; want %q", r.status, r.stdout, r.stderr, wantHandshake)
				}
				r := finish(t, become(syd(t, upstream, plainCurl("http://10.1.2.3/")...)))
				if r.status != curlProxyRefused || !strings.Contains(r.stderr, "(1)") {
					t.Errorf("curl: status %d, %q; want status %d and tor's code (1)", r.status, r.stderr, curlProxyRefused)
				}
			})
		}
	})
}

// A large file arrives whole.
func TestSydLarge(t *testing.T) {
	needNamespaces(t)
	site := startPage(t, "127.0.0.1")
	file := filepath.Join(t.TempDir(), "large")
	r := finish(t, syd(t, external(startMicrosocks(t, "127.0.0.1")), plainCurl("-o", file, site.url+"/large")...))
	if r.status != 0 {
		t.Fatalf("status %d, %s", r.status, r.stderr)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, want := sum(f), sum(large()); got != want {
		t.Errorf("SHA-256 %s, want %s", got, want)
	}
}

// Many connections in one sandbox, and many sandboxes at once.
func TestSydParallel(t *testing.T) {
	needNamespaces(t)
	site := startPage(t, "127.0.0.1")
	upstream := external(startMicrosocks(t, "127.0.0.1"))
	parallel(t, func(args ...string) *exec.Cmd { return syd(t, upstream, plainCurl(args...)...) }, site)
}

// Nothing outside can be reached but through the proxy. The same program outside the sandbox reaches all of it.
func TestSydNoWayOut(t *testing.T) {
	needNamespaces(t)
	targets := echoServers(t)
	site := startPage(t, "127.0.0.1")
	upstream := external(startMicrosocks(t, "127.0.0.1"))
	self := testBinary(t)

	outside := command(t, self, targets...)
	outside.Env = append(cleanEnviron(), roleVariable+"=reach")
	if r := finish(t, outside); r.status != 0 || r.stdout != strings.Join(targets, " reached\n")+" reached\n" {
		t.Fatalf("control: outside the sandbox: %q, %s; want everything reached", r.stdout, r.stderr)
	}
	direct := plainCurl("--noproxy", "*", site.url+"/small/1")
	fetched(t, finish(t, command(t, direct[0], direct[1:]...)), "1")

	asEach(t, func(t *testing.T, become func(*exec.Cmd) *exec.Cmd) {
		inside := become(syd(t, upstream, append([]string{self}, targets...)...))
		inside.Env = outside.Env
		if r := finish(t, inside); r.status != 0 || r.stdout != strings.Join(targets, " refused\n")+" refused\n" {
			t.Errorf("in the sandbox: %q, %s; want everything refused", r.stdout, r.stderr)
		}
		const curlCouldNotConnect = 7
		if r := finish(t, become(syd(t, upstream, direct...))); r.status != curlCouldNotConnect {
			t.Errorf("curl around the proxy: status %d, %q, %s; want status %d", r.status, r.stdout, r.stderr, curlCouldNotConnect)
		}
		fetched(t, finish(t, become(syd(t, upstream, plainCurl(site.url+"/small/1")...))), "1")
	})
}

// echoServers answer what they are sent, on every kind of socket that a network namespace is about. It returns their
// addresses as "network,address".
func echoServers(t *testing.T) []string {
	t.Helper()
	var targets []string
	for _, at := range [][2]string{
		{"tcp4", "127.0.0.1:0"}, {"tcp6", "[::1]:0"}, {"unix", fmt.Sprintf("@syd-e2e-%d", os.Getpid())},
	} {
		l, err := net.Listen(at[0], at[1])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.SetDeadline(time.Now().Add(patience))
				var b [1]byte
				c.Read(b[:])
				c.Write(b[:])
				c.Close()
			}
		}()
		targets = append(targets, at[0]+","+l.Addr().String())
	}
	u, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	go func() {
		var b [1]byte
		for {
			_, from, err := u.ReadFrom(b[:])
			if err != nil {
				return
			}
			u.WriteTo(b[:], from)
		}
	}()
	return append(targets, "udp4,"+u.LocalAddr().String())
}

// fetchTwice fetches a page, waits for a line, and fetches it again: between the two the test changes the world.
const fetchTwice = `c="curl -q -sS --fail --max-time 10 $0"; $c; echo "first $?"; read line; $c; echo "second $?"`

// startFetching starts fetchTwice in the sandbox and returns when the first page has arrived. Closing the returned
// file lets it go on.
func startFetching(t *testing.T) (*process, *os.File) {
	t.Helper()
	site := startPage(t, "127.0.0.1")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	defer r.Close()
	cmd := syd(t, external(startMicrosocks(t, "127.0.0.1")), "sh", "-c", fetchTwice, site.url+"/small/1")
	cmd.Stdin = r
	p := start(t, cmd)
	p.says(t, "first 0\n")
	return p, w
}

// named returns those of the processes that have the name.
func named(t *testing.T, family []kin, name string) []kin {
	t.Helper()
	var found []kin
	for _, k := range family {
		if k.name == name {
			found = append(found, k)
		}
	}
	return found
}

// The control of the two tests below: left alone, the program fetches twice, and syd takes syd-tor with it.
func TestSydUndisturbed(t *testing.T) {
	needNamespaces(t)
	p, more := startFetching(t)
	tor := named(t, p.family(t), "syd-tor")
	if len(tor) < 2 {
		t.Fatalf("%d processes of syd-tor, want monitor and relay", len(tor))
	}
	more.Close()
	if got := p.ended(t); got != 0 || !strings.Contains(p.out.String(), "second 0\n") {
		t.Errorf("status %d, %q; want a second page", got, p.out.String())
	}
	for _, k := range tor {
		k.gone(t)
	}
}

// When syd is killed, syd-tor and its relay go, and the program, should it live, has no network.
func TestSydKilled(t *testing.T) {
	needNamespaces(t)
	p, more := startFetching(t)
	family := p.family(t)
	tor := named(t, family, "syd-tor")
	if len(tor) < 2 {
		t.Fatalf("%d processes of syd-tor, want monitor and relay", len(tor))
	}
	p.Process.Kill()
	for _, k := range tor {
		k.gone(t)
	}
	more.Close()
	for _, k := range family {
		k.gone(t)
	}
	p.ended(t)
	if strings.Contains(p.out.String(), "second 0\n") {
		t.Error("the program still reached the page")
	}
}

// When syd-tor is killed, syd says so and the program has no network; its exit status is still the program's.
func TestSydTorKilled(t *testing.T) {
	needNamespaces(t)
	p, more := startFetching(t)
	tor := named(t, p.family(t), "syd-tor")
	if len(tor) < 2 {
		t.Fatalf("%d processes of syd-tor, want monitor and relay", len(tor))
	}
	syscall.Kill(tor[0].pid, syscall.SIGKILL)
	for _, k := range tor {
		k.gone(t)
	}
	p.says(t, "syd: syd-tor ended: killed by signal SIGKILL")
	more.Close()
	if got := p.ended(t); got != 0 {
		t.Errorf("status %d, want the program's own 0", got)
	}
	if said := p.out.String(); strings.Contains(said, "second 0\n") || !strings.Contains(said, "second ") {
		t.Errorf("%q; want a second fetch that fails", said)
	}
}
