package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"syd/internal/exit"
)

// curl fetches a page through syd-tor and a real SOCKS server, over IPv4 and IPv6.
func TestRelayFetches(t *testing.T) {
	site := startPage(t, "127.0.0.1")
	upstreams := map[string]string{
		"microsocks":      startMicrosocks(t, "127.0.0.1"),
		"microsocks-ipv6": startMicrosocks(t, "::1"),
		"ssh":             startSSH(t),
	}
	inModes(t, func(t *testing.T, options ...string) {
		for name, addr := range upstreams {
			t.Run(name, func(t *testing.T) {
				r := startRelay(t, append(options, "-o", addr)...)
				fetched(t, finish(t, curl(t, r.addr, site.url+"/small/1")), "1")
				fetched(t, finish(t, curl(t, r.addr, site.url+"/small/2")), "2")
			})
		}
	})
}

// tor's SocksPort answers through syd-tor, on TCP and on a UNIX socket, and curl hears its refusal.
func TestRelayTor(t *testing.T) {
	addr, path := startTorDaemon(t)
	upstreams := map[string][]string{
		"tcp":  {"-o", addr},
		"unix": {"-u", path},
	}
	inModes(t, func(t *testing.T, options ...string) {
		for name, upstream := range upstreams {
			t.Run(name, func(t *testing.T) {
				r := startRelay(t, append(options, upstream...)...)
				greeting, reply, err := handshake(r.addr)
				if err != nil {
					t.Fatal(err)
				}
				if got := fmt.Sprintf("greeting % x, reply % x\n", greeting, reply); got != wantHandshake {
					t.Errorf("%s, want %s", got, wantHandshake)
				}
				got := finish(t, curl(t, r.addr, "http://10.1.2.3/"))
				if got.status != curlProxyRefused || !strings.Contains(got.stderr, "(1)") {
					t.Errorf("curl: status %d, %q; want status %d and tor's code (1)", got.status, got.stderr, curlProxyRefused)
				}
			})
		}
	})
}

// A large file arrives whole, both ways.
func TestRelayLarge(t *testing.T) {
	site := startPage(t, "127.0.0.1")
	upstream := startMicrosocks(t, "127.0.0.1")
	want := sum(large())
	inModes(t, func(t *testing.T, options ...string) {
		r := startRelay(t, append(options, "-o", upstream)...)
		file := filepath.Join(t.TempDir(), "large")
		if got := finish(t, curl(t, r.addr, "-o", file, site.url+"/large")); got.status != 0 {
			t.Fatalf("download: status %d, %s", got.status, got.stderr)
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if got := sum(f); got != want {
			t.Errorf("download: SHA-256 %s, want %s", got, want)
		}
		if got := finish(t, curl(t, r.addr, "-T", file, site.url+"/sum")); got.status != 0 || got.stdout != want {
			t.Errorf("upload: status %d, %s, SHA-256 %s, want %s", got.status, got.stderr, got.stdout, want)
		}
	})
}

// Many connections at once, from one curl and from many, each get the answer to their own question.
func TestRelayParallel(t *testing.T) {
	site := startPage(t, "127.0.0.1")
	upstream := startMicrosocks(t, "127.0.0.1")
	inModes(t, func(t *testing.T, options ...string) {
		r := startRelay(t, append(options, "-o", upstream)...)
		parallel(t, func(args ...string) *exec.Cmd { return curl(t, r.addr, args...) }, site)
	})
}

// parallel fetches through the curl commands that it is given: 300 pages by one that keeps 100 connections, and 32 by
// as many processes.
func parallel(t *testing.T, curl func(args ...string) *exec.Cmd, site page) {
	t.Helper()
	const pages, processes = 300, 32
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil { // for an ordinary user's curl
		t.Fatal(err)
	}
	one := curl("--parallel", "--parallel-immediate", "--parallel-max", "100",
		"-o", filepath.Join(dir, "#1"), fmt.Sprintf("%s/small/[1-%d]", site.url, pages))
	var many [processes]result
	var wg sync.WaitGroup
	for i := range many {
		cmd := curl(fmt.Sprintf("%s/small/p%d", site.url, i))
		wg.Go(func() { many[i] = finish(t, cmd) })
	}
	if r := finish(t, one); r.status != 0 {
		t.Errorf("curl --parallel: status %d, %s", r.status, r.stderr)
	}
	wg.Wait()
	for i, r := range many {
		fetched(t, r, "p"+strconv.Itoa(i))
	}
	for i := 1; i <= pages; i++ {
		n := strconv.Itoa(i)
		if got, err := os.ReadFile(filepath.Join(dir, n)); err != nil || string(got) != smallPage(n) {
			t.Fatalf("page %s: %v, %q", n, err, got)
		}
	}
}

// An upstream that refuses ends the client's connection, and syd-tor serves the next one.
func TestRelayRefused(t *testing.T) {
	site := startPage(t, "127.0.0.1")
	addr := freeAddr(t, "127.0.0.1")
	inModes(t, func(t *testing.T, options ...string) {
		r := startRelay(t, append(options, "-o", addr)...)
		if got := finish(t, curl(t, r.addr, site.url+"/small/1")); got.status == 0 {
			t.Fatal("a page came through a proxy that does not exist")
		}
		socks := serveMicrosocks(t, addr)
		fetched(t, finish(t, curl(t, r.addr, site.url+"/small/2")), "2")
		socks.Process.Kill() // the next mode finds the port free again
		<-socks.done
	})
}

// syd-tor ends with its owner, with status 0, and nothing of it stays.
func TestRelayEndsWithOwner(t *testing.T) {
	inModes(t, func(t *testing.T, options ...string) {
		r := startRelay(t, append(options, "-o", freeAddr(t, "127.0.0.1"))...)
		r.serves(t)
		family := r.family(t)
		r.owner.Process.Kill()
		if got := r.ended(t); got != 0 {
			t.Errorf("status %d, want 0", got)
		}
		for _, p := range family {
			p.gone(t)
		}
		if c, err := net.Dial("tcp", r.addr); err == nil {
			c.Close()
			t.Error("the listener is still there")
		}
	})
}

// A killed monitor takes the relay with it: it must not go on unwatched.
func TestRelayDiesWithMonitor(t *testing.T) {
	inModes(t, func(t *testing.T, options ...string) {
		r := startRelay(t, append(options, "-o", freeAddr(t, "127.0.0.1"))...)
		r.serves(t)
		family := r.family(t)
		r.Process.Kill()
		for _, p := range family {
			p.gone(t)
		}
	})
}

// A relay that dies of a signal is reported, by name, with a status of its own.
func TestRelayKilled(t *testing.T) {
	inModes(t, func(t *testing.T, options ...string) {
		r := startRelay(t, append(options, "-o", freeAddr(t, "127.0.0.1"))...)
		r.serves(t)
		for _, p := range r.family(t) {
			if err := unix.PidfdSendSignal(p.pidfd, syscall.SIGKILL, nil, 0); err != nil {
				t.Fatal("pidfd_send_signal:", err)
			}
		}
		if got := r.ended(t); got != int(exit.Software) {
			t.Errorf("status %d, want %d", got, exit.Software)
		}
		if said := r.out.String(); !strings.Contains(said, "SIGKILL") && !strings.Contains(said, "killed") {
			t.Errorf("stderr %q does not name the signal", said)
		}
	})
}
