package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// page is the web server that everything is fetched from.
type page struct{ url string }

// largeSize is what /large serves: more than any buffer or pipe on the way holds.
const largeSize = 50_000_000

func startPage(t *testing.T, ip string) page {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/small/{n}", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, smallPage(r.PathValue("n")))
	})
	mux.HandleFunc("/large", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(largeSize))
		io.Copy(w, large())
	})
	mux.HandleFunc("PUT /sum", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		io.Copy(sum, r.Body)
		io.WriteString(w, hex.EncodeToString(sum.Sum(nil)))
	})
	server := &http.Server{Handler: mux}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return page{"http://" + l.Addr().String()}
}

// smallPage differs by n, so that an answer to another connection's question shows.
func smallPage(n string) string { return strings.Repeat("page "+n+"\n", 20) }

// large is the content of /large: reproducible, and nothing repeats.
func large() io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte([]byte("seed of what the large page says"))), largeSize)
}

func sum(r io.Reader) string {
	h := sha256.New()
	io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil))
}

// startMicrosocks starts Debian's SOCKS5 server and returns where it listens.
func startMicrosocks(t *testing.T, ip string) string {
	t.Helper()
	addr := freeAddr(t, ip)
	serveMicrosocks(t, addr)
	return addr
}

func serveMicrosocks(t *testing.T, addr string) *process {
	t.Helper()
	return serve(t, "tcp", addr, "microsocks", "-i", hostOf(addr), "-p", portOf(addr))
}

// startSSH starts an sshd with keys of its own, and `ssh -D` that logs in to it; it returns where the latter listens.
func startSSH(t *testing.T) string {
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, key := range []string{"host", "login"} {
		keygen := command(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key))
		if r := finish(t, keygen); r.status != 0 {
			t.Fatalf("ssh-keygen: %s", r.stderr)
		}
	}
	if os.Getuid() == 0 {
		privilegeSeparation(t)
	}
	server := freeAddr(t, "127.0.0.1")
	// Without PAM sshd refuses an account whose password is locked, as root's often is.
	config := fmt.Sprintf("ListenAddress %s\nHostKey %s/host\nAuthorizedKeysFile %s/login.pub\n"+
		"PidFile none\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nUsePAM yes\n", server, dir, dir)
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	serve(t, "tcp", server, "/usr/sbin/sshd", "-D", "-e", "-f", filepath.Join(dir, "config"))

	socks := freeAddr(t, "127.0.0.1")
	serve(t, "tcp", socks, "ssh", "-F", "none", "-N", "-D", socks,
		"-i", filepath.Join(dir, "login"), "-p", portOf(server), "-l", me.Username,
		"-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", hostOf(server))
	return socks
}

// privilegeSeparation makes the directory that sshd demands of root and that only its start script makes.
func privilegeSeparation(t *testing.T) {
	t.Helper()
	const dir = "/run/sshd"
	if err := os.Mkdir(dir, 0o755); err == nil {
		t.Cleanup(func() { os.Remove(dir) })
	} else if !os.IsExist(err) {
		t.Fatal(err)
	}
}

// startTorDaemon starts tor with a SocksPort on TCP and one on a UNIX socket, and returns both. Its one directory
// authority is a closed port on loopback: it sends nothing anywhere, and so carries nothing, but it speaks SOCKS.
func startTorDaemon(t *testing.T) (addr, path string) {
	t.Helper()
	dir := socketDir(t)
	addr, path = freeAddr(t, "127.0.0.1"), filepath.Join(dir, "socks")
	config := fmt.Sprintf("DataDirectory %s/data\nSocksPort %s\nSocksPort unix:%s WorldWritable\nLog notice stdout\n"+
		"DirAuthority none orport=1 v3ident=%040d 127.0.0.1:1 %040d\nUseDefaultFallbackDirs 0\n"+
		"ClientRejectInternalAddresses 1\nSocksTimeout 2\n", dir, addr, path, 1, 2)
	if err := os.WriteFile(filepath.Join(dir, "torrc"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	serve(t, "unix", path, "tor", "--defaults-torrc", "/dev/null", "--ignore-missing-torrc", "-f", filepath.Join(dir, "torrc"))
	return addr, path
}

// socketDir is a temporary directory with a name short enough for a UNIX socket, that an ordinary user can search.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "syd-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// freeAddr returns a TCP address of ip that nothing listens on now.
func freeAddr(t *testing.T, ip string) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func hostOf(addr string) string {
	host, _, _ := net.SplitHostPort(addr)
	return host
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}
