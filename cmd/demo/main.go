// Demo shows, with real parts on one machine, what syd and syd-tor do: a program inside the sandbox cannot reach a
// page outside, and reaches it through the proxy. It ends with status 1 if any of that does not hold.
//
// It expects syd and syd-tor beside itself and needs nothing else: it is the web page, the SOCKS5 server and, once
// more inside the sandbox, the client.
package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"syd/internal/socks"
)

const (
	pageSize = 8 << 20
	// nowhere is an address for documentation (RFC 5737). It is only tried inside, where no packet can leave.
	nowhere = "192.0.2.1:80"
	// settle is plenty for syd-tor to notice that its one connection has ended.
	settle = 300 * time.Millisecond
	// patience bounds the whole run.
	patience = 60 * time.Second
)

func main() {
	run := demonstrate
	if len(os.Args) == 3 && os.Args[1] == "inside" {
		run = inside
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// seen is what the client inside the sandbox tells, as JSON on standard output.
type seen struct {
	Devices []string // network devices
	Direct  string   // error of a direct request for the page, "" if it was answered
	Nowhere string   // error of a connection to an address beyond this machine
	Proxied fetched
	Error   string // of the request through the proxy
}

type fetched struct {
	Bytes int64
	Sum   [sha256.Size]byte
	Took  time.Duration
}

func fetch(client *http.Client, page string) (f fetched, err error) {
	start := time.Now()
	response, err := client.Get(page)
	if err != nil {
		return f, err
	}
	defer response.Body.Close()
	sum := sha256.New()
	f.Bytes, err = io.Copy(sum, response.Body)
	f.Took = time.Since(start)
	copy(f.Sum[:], sum.Sum(nil))
	return f, err
}

// inside is the sandboxed program.
func inside() error {
	var s seen
	page := os.Args[2]
	devices, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, d := range devices {
		s.Devices = append(s.Devices, d.Name)
	}
	if _, err := fetch(socks.Client(nil), page); err != nil {
		s.Direct = cause(err)
	}
	// Were there another device, nothing should be sent by it.
	s.Nowhere = "not tried"
	if len(devices) == 1 {
		s.Nowhere = ""
		if _, err := net.DialTimeout("tcp", nowhere, 5*time.Second); err != nil {
			s.Nowhere = cause(err)
		}
	}
	proxy, err := url.Parse(os.Getenv("ALL_PROXY"))
	if err == nil {
		s.Proxied, err = fetch(socks.Client(proxy), page)
	}
	if err != nil {
		s.Error = err.Error()
	}
	// The end of this program ends syd-tor, which counts a turn's bytes at the end of the turn and a connection at
	// its end: what it prints then is to be complete.
	time.Sleep(settle)
	return json.NewEncoder(os.Stdout).Encode(s)
}

// cause returns the innermost error of err: the system's word for what happened.
func cause(err error) string {
	for {
		wrapper, ok := err.(interface{ Unwrap() error })
		if !ok {
			return err.Error()
		}
		err = wrapper.Unwrap()
	}
}

// tally prints one line for each claim and counts those that do not hold.
type tally struct{ failed int }

func (t *tally) claim(holds bool, name, format string, args ...any) {
	mark := "ok  "
	if !holds {
		mark = "FAIL"
		t.failed++
	}
	fmt.Printf("%s %-9s %s\n", mark, name, fmt.Sprintf(format, args...))
}

func demonstrate() error {
	time.AfterFunc(patience, func() { panic(fmt.Sprint("not done after ", patience)) })
	content := make([]byte, pageSize)
	rand.Read(content)
	want := sha256.Sum256(content)

	pageListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go http.Serve(pageListener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(content) }))
	page := "http://" + pageListener.Addr().String() + "/"

	upstreamListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	upstream, err := socks.Serve(upstreamListener)
	if err != nil {
		return err
	}
	port := strconv.Itoa(upstreamListener.Addr().(*net.TCPAddr).Port)

	fmt.Printf("     page      %s, %d bytes, outside\n", page, pageSize)
	fmt.Printf("     upstream  SOCKS5 server at 127.0.0.1:%s, outside\n", port)
	fmt.Printf("     command   syd -m sandbox/proxy:on -m proxy/ext/port:%s -m proxy/stats:on -- demo inside %s\n", port, page)

	var t tally
	// Without this, a page that nobody can reach would look like a sandbox that works.
	control, err := fetch(socks.Client(nil), page)
	t.claim(err == nil && control.Sum == want, "outside", "the page is reached directly: %d bytes in %v", control.Bytes, round(control.Took))

	start := time.Now()
	s, stderr, err := sandboxed(port, page)
	took := time.Since(start)
	if err != nil {
		return err
	}
	t.claim(len(s.Devices) == 1, "devices", "inside there are only these: %v", s.Devices)
	t.claim(s.Direct != "", "direct", "inside, the page cannot be reached: %s", orReached(s.Direct))
	t.claim(s.Nowhere != "", "beyond", "inside, no other address can be reached: %s", orReached(s.Nowhere))
	t.claim(s.Error == "" && s.Proxied.Bytes == pageSize && s.Proxied.Sum == want, "proxied",
		"inside, through the proxy, the page is reached: %d bytes in %v %s", s.Proxied.Bytes, round(s.Proxied.Took), s.Error)
	t.claim(upstream.Accepted() == 1, "upstream", "the SOCKS5 server had %d connection", upstream.Accepted())
	accepted, down := counter(stderr, "accepted"), counter(stderr, "bytes-down")
	t.claim(accepted == 1 && down > pageSize, "syd-tor", "counted %d connection and %d bytes down: page, HTTP and SOCKS headers", accepted, down)
	fmt.Printf("     time      %v from syd's start to its end\n", round(took))
	if t.failed > 0 {
		return fmt.Errorf("%d claims do not hold; standard error of syd was:\n%s", t.failed, stderr)
	}
	return nil
}

// sandboxed runs this program inside, and returns what it saw and what syd and syd-tor wrote to standard error.
func sandboxed(port, page string) (s seen, stderr []byte, err error) {
	self, err := os.Executable()
	if err != nil {
		return s, nil, err
	}
	var out, errors bytes.Buffer
	syd := exec.Command(filepath.Join(filepath.Dir(self), "syd"), "-m", "sandbox/proxy:on",
		"-m", "proxy/ext/port:"+port, "-m", "proxy/stats:on", "--", self, "inside", page)
	// syd leaves alone what the environment says of a proxy, which would send the client elsewhere.
	syd.Env = withoutProxies(os.Environ())
	syd.Stdout, syd.Stderr = &out, &errors
	if err := syd.Run(); err != nil {
		return s, nil, fmt.Errorf("syd: %w\n%s", err, &errors)
	}
	if err := json.Unmarshal(out.Bytes(), &s); err != nil {
		return s, nil, fmt.Errorf("output of the program inside: %w", err)
	}
	return s, errors.Bytes(), nil
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

func orReached(problem string) string {
	if problem == "" {
		return "it was reached"
	}
	return problem
}

// proxyVariable matches what tells programs about a proxy.
var proxyVariable = regexp.MustCompile(`^(?i:[a-z]+_proxy)=`)

func withoutProxies(env []string) (rest []string) {
	for _, v := range env {
		if !proxyVariable.MatchString(v) {
			rest = append(rest, v)
		}
	}
	return rest
}

// counter returns a counter that syd-tor printed, or -1.
func counter(stderr []byte, name string) int64 {
	match := regexp.MustCompile(`syd-tor: counters:.* ` + name + `=(\d+)`).FindSubmatch(stderr)
	if match == nil {
		return -1
	}
	n, err := strconv.ParseInt(string(match[1]), 10, 64)
	if err != nil {
		return -1
	}
	return n
}
