package bench

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"syd/internal/jail"
)

// Peer is one way to forward, under the name that the tables show.
type Peer struct {
	Name    string
	Program string // looked for in PATH and where Debian keeps daemons; or built here, see build
	// Args writes what configuration the program needs into place.Dir and returns its arguments.
	Args     func(place) ([]string, error)
	Version  []string // arguments that make it tell its version
	Listener listener
	UNIX     bool // can forward to a UNIX socket
	Splices  bool // moves bulk data by splice(2)
	Forks    bool // a process per connection: not asked to hold thousands
	Ours     bool // a column of the program under test
	Filtered bool // and has a process under a seccomp filter, which is looked at: a column must be what it is called
	Why      string
}

// listener says who opens the listening socket.
type listener int

const (
	itself    listener = iota // the program, from its arguments
	activated                 // the service manager: descriptor 3, sd_listen_fds(3)
	owned                     // the owner: SCM_RIGHTS over a socket pair, syd-tor(1)
)

// place is where one instance stands.
type place struct {
	Host     string // to listen on
	Port     int
	Upstream string // addr:port or /path
	Dir      string // its own, writable for its user
}

func (p place) listen() string { return fmt.Sprintf("%s:%d", p.Host, p.Port) }

func (p place) upstreamUNIX() bool { return strings.HasPrefix(p.Upstream, "/") }

// file writes a configuration file into the instance's directory.
func (p place) file(name, format string, args ...any) (string, error) {
	path := filepath.Join(p.Dir, name)
	return path, os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o644)
}

// Names of the columns that other code refers to.
const (
	Direct        = "direct"
	Splice64      = "C splice 64K"
	Splice1M      = "C splice 1M"
	Filtered      = "C splice 1M filt"
	Naive         = "Go io.Copy"
	HAProxy       = "haproxy"
	HAProxySplice = "haproxy splice"
	SocketProxyd  = "socket-proxyd"
	Bare          = "syd-tor bare"
	NoTrap        = "syd-tor"
	Full          = "syd-tor+tsc"
)

// Peers is every forwarder that the bench knows. Defaults are kept wherever they do not stand in the way of a measurement;
// limits on connections and timeouts are lifted.
var Peers = []Peer{
	{Name: Splice64, Program: "splice", UNIX: true, Splices: true, Args: splice(64 << 10),
		Why: "reference/splice.c with the kernel's default pipe"},
	{Name: Splice1M, Program: "splice", UNIX: true, Splices: true, Args: splice(1 << 20),
		Why: "reference/splice.c with the largest pipe an ordinary user gets"},
	{Name: Filtered, Program: "splice", UNIX: true, Splices: true, Args: splice(1<<20, "filter"),
		Why: "the same under a seccomp filter that allows everything: what any filter costs"},
	{Name: Naive, Program: "naive", UNIX: true, Splices: true, Args: func(p place) ([]string, error) {
		return []string{p.listen(), p.Upstream}, nil
	}, Why: "reference/naive: goroutines and io.Copy"},
	{Name: HAProxy, Program: "haproxy", UNIX: true, Version: []string{"-v"}, Args: haproxy("")},
	{Name: HAProxySplice, Program: "haproxy", UNIX: true, Splices: true, Args: haproxy("option splice-request\n  option splice-response"),
		Why: "splice forced both ways: splice-auto never spliced when its calls were counted"},
	{Name: "nginx stream", Program: "nginx", UNIX: true, Version: []string{"-v"}, Args: nginx},
	{Name: SocketProxyd, Program: "systemd-socket-proxyd", UNIX: true, Splices: true, Listener: activated, Version: []string{"--version"},
		Args: func(p place) ([]string, error) { return []string{"--connections-max=100000", p.Upstream}, nil }},
	{Name: "socat", Program: "socat", UNIX: true, Forks: true, Version: []string{"-V"}, Args: func(p place) ([]string, error) {
		up := "TCP:" + p.Upstream
		if p.upstreamUNIX() {
			up = "UNIX-CONNECT:" + p.Upstream
		}
		return []string{fmt.Sprintf("TCP-LISTEN:%d,bind=%s,fork,reuseaddr,backlog=4096", p.Port, p.Host), up}, nil
	}},
	{Name: "rinetd", Program: "rinetd", Version: []string{"-v"}, Args: func(p place) ([]string, error) {
		host, port, _ := strings.Cut(p.Upstream, ":")
		conf, err := p.file("rinetd.conf", "%s %d %s %s\n", p.Host, p.Port, host, port)
		return []string{"-f", "-c", conf}, err
	}},
	{Name: "redir", Program: "redir", Forks: true, Version: []string{"-v"}, Args: func(p place) ([]string, error) {
		return []string{"-n", p.listen(), p.Upstream}, nil
	}},
	{Name: Bare, Program: "syd-tor", UNIX: true, Splices: true, Listener: owned, Ours: true, Args: sydTor("--without", everyStep()),
		Why: "every confinement step left out"},
	{Name: NoTrap, Program: "syd-tor", UNIX: true, Splices: true, Listener: owned, Ours: true, Filtered: true, Args: sydTor("--without", "tsc"),
		Why: "confined, the counter trap alone left out: the marks hold for this one"},
	{Name: Full, Program: "syd-tor", UNIX: true, Splices: true, Listener: owned, Ours: true, Filtered: true, Version: []string{"--version"}, Args: sydTor(),
		Why: "as it is used"},
}

// budget of the C reference per direction and turn, as fair as 1 MiB makes it.
const budget = 1 << 20

func splice(pipe int, extra ...string) func(place) ([]string, error) {
	return func(p place) ([]string, error) {
		up := p.Upstream
		if host, port, ok := strings.Cut(up, ":"); ok && !p.upstreamUNIX() {
			up = port + "@" + host
		}
		return append([]string{fmt.Sprintf("%d@%s", p.Port, p.Host), up, fmt.Sprint(pipe), fmt.Sprint(budget)}, extra...), nil
	}
}

// sydTor returns the arguments of syd-tor(1) as its owner passes them: descriptor 3 is the read end of the socket pair,
// 4 the owner's PID descriptor.
func sydTor(extra ...string) func(place) ([]string, error) {
	return func(p place) ([]string, error) {
		args := []string{"-p", "4", "-i", "3"}
		if p.upstreamUNIX() {
			args = append(args, "-u", p.Upstream)
		} else {
			args = append(args, "-o", p.Upstream)
		}
		return append(args, extra...), nil
	}
}

// everyStep names the confinement steps that can be left off. The option -d leaves them off as well, and tells each
// connection's life on standard error, which costs.
func everyStep() string {
	var names []string
	for _, s := range jail.Steps {
		if !s.Always {
			names = append(names, s.Name)
		}
	}
	return strings.Join(names, ",")
}

func haproxy(option string) func(place) ([]string, error) {
	return func(p place) ([]string, error) {
		up := p.Upstream
		if p.upstreamUNIX() {
			up = "unix@" + up
		}
		conf, err := p.file("haproxy.cfg", `defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
  %s
listen bench
  bind %s
  server upstream %s
`, option, p.listen(), up)
		return []string{"-db", "-q", "-f", conf}, err
	}
}

func nginx(p place) ([]string, error) {
	up := p.Upstream
	if p.upstreamUNIX() {
		up = "unix:" + up
	}
	var module string
	const so = "/usr/lib/nginx/modules/ngx_stream_module.so" // Debian builds the stream module as a shared object
	if _, err := os.Stat(so); err == nil {
		module = "load_module " + so + ";"
	}
	conf, err := p.file("nginx.conf", `%s
daemon off;
pid %s/nginx.pid;
error_log stderr;
worker_processes auto;
events { worker_connections 20480; }
stream {
  server {
    listen %s backlog=4096;
    proxy_pass %s;
    proxy_timeout 1h;
  }
}
`, module, p.Dir, p.listen(), up)
	return []string{"-c", conf, "-p", p.Dir, "-e", "stderr"}, err
}

// sbin are the places where Debian keeps daemons that are not in everybody's PATH.
var sbin = []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/lib/systemd", "/lib/systemd"}

func find(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err == nil {
		return filepath.Abs(path)
	}
	for _, d := range sbin {
		if p, err := exec.LookPath(filepath.Join(d, program)); err == nil {
			return p, nil
		}
	}
	return "", err
}

//go:embed reference/splice.c
var spliceSource []byte

// build makes the references in dir. What cannot be built is missing afterwards, and says why.
func build(dir, program string) (string, error) {
	out := filepath.Join(dir, program)
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	var cmd *exec.Cmd
	switch program {
	case "splice":
		cmd = exec.Command("cc", "-O2", "-x", "c", "-o", out, "-")
		cmd.Stdin = bytes.NewReader(spliceSource)
	case "naive":
		cmd = exec.Command("go", "build", "-trimpath", "-o", out, "syd/internal/bench/reference/naive")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	}
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", cmd.Args[0], err, firstLine(msg))
	}
	return out, nil
}

var versionNumber = regexp.MustCompile(`\d+(\.\d+)+`)

// version asks a program for its version number.
func version(path string, args []string) string {
	if len(args) == 0 {
		return ""
	}
	out, _ := exec.Command(path, args...).CombinedOutput() // some end with a status of 1
	if v := versionNumber.Find(out); v != nil {
		return string(v)
	}
	return firstLine(out)
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return line
}
