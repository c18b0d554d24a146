package launch

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"syd/internal/exit"
)

func settingsOf(args ...string) (Settings, error) {
	o, err := ParseArgs(append(args, "program"))
	if err != nil {
		return Settings{}, err
	}
	return o.Settings()
}

func TestSettings(t *testing.T) {
	loopback6 := netip.MustParseAddr("::1")
	for _, test := range []struct {
		command string
		want    func(*Settings)
	}{
		{"sandbox/proxy:on", func(s *Settings) { s.Proxy = true }},
		{"sandbox/proxy:off", func(*Settings) {}},
		{"proxy/addr:::1", func(s *Settings) { s.Addr = loopback6 }},
		{"proxy/addr:127.1.2.3", func(s *Settings) { s.Addr = netip.MustParseAddr("127.1.2.3") }},
		{"proxy/port:1", func(s *Settings) { s.Port = 1 }},
		{"proxy/port:65535", func(s *Settings) { s.Port = 65535 }},
		{"proxy/ext/host:2001:db8::1", func(s *Settings) { s.Host = "2001:db8::1" }},
		{"proxy/ext/host:::ffff:192.0.2.1", func(s *Settings) { s.Host = "192.0.2.1" }},
		{"proxy/ext/host:proxy.example", func(s *Settings) { s.Host = "proxy.example" }},
		{"proxy/ext/port:1080", func(s *Settings) { s.HostPort = 1080 }},
		{"proxy/ext/unix:/run/tor/socks", func(s *Settings) { s.Unix = "/run/tor/socks" }},
		{"proxy/ext/unix:/a/../b//c", func(s *Settings) { s.Unix = "/b/c" }},
		{"proxy/ext/unix:@name", func(s *Settings) { s.Unix = "@name" }},
		{"proxy/env:off", func(s *Settings) { s.Env = false }},
		{"proxy/stats:on", func(s *Settings) { s.Stats = true }},
	} {
		want := Defaults()
		test.want(&want)
		want.Others = !strings.HasPrefix(test.command, proxyKey)
		if got, err := settingsOf("-m", test.command); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", test.command, got, err, want)
		}
	}
}

func TestSettingsError(t *testing.T) {
	long := "/" + strings.Repeat("x", sunPath)
	for _, command := range []string{
		"sandbox/proxy:", "sandbox/proxy:ON", "sandbox/proxy:true", "sandbox/proxy?",
		"proxy/addr:", "proxy/addr:0.0.0.0", "proxy/addr:localhost", "proxy/addr:::", "proxy/addr:::ffff:127.0.0.1",
		"proxy/port:", "proxy/port:0", "proxy/port:+1", "proxy/port:-1", "proxy/port:65536", "proxy/port:0x10", "proxy/port: 1",
		"proxy/ext/host:", "proxy/ext/host:-o", "proxy/ext/host:a b", "proxy/ext/host:[::1]", "proxy/ext/host:1.2.3.4:5", "proxy/ext/host:fe80::1%lo",
		"proxy/ext/unix:", "proxy/ext/unix:@", "proxy/ext/unix:" + long, "proxy/ext/unix:@" + long,
		"proxy/nothing:1", "proxy/port+1", "nothing",
	} {
		_, err := settingsOf("-m", "sandbox/proxy:on", "-m", command)
		if exit.Of(err) != exit.Usage || !strings.HasPrefix(err.Error(), "-m:2:") {
			t.Errorf("%s: got error %v", command, err)
		}
	}
	if _, err := settingsOf("-m", "proxy/ext/unix:"+long[1:]); err == nil {
		t.Error("a relative path that is too long once made absolute is accepted")
	}
	if _, err := settingsOf("-m", "proxy/ext/unix:"+long[:sunPath]); err != nil {
		t.Errorf("the longest path: %v", err)
	}
}

// TestOrder: the last command wins, be it from -m or from -P.
func TestOrder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("proxy/port:2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		want uint16
	}{
		{[]string{"-m", "proxy/port:1", "-P", file}, 2},
		{[]string{"-P", file, "-mproxy/port:1"}, 1},
		{[]string{"-P" + file, "--magic=proxy/port:1", "--file", file}, 2},
	} {
		if s, err := settingsOf(test.args...); err != nil || s.Port != test.want {
			t.Errorf("%q: got port %d, %v, want %d", test.args, s.Port, err, test.want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	proxy := netip.MustParseAddrPort("127.0.0.1:9050")
	got := environment([]string{"A=1", "AB=2", "A=3", "all_proxy=mine"}, []string{"A=4", "A=5", "HTTP_PROXY="}, proxy)
	want := []string{"AB=2", "all_proxy=mine", "A=5", "HTTP_PROXY=",
		"ALL_PROXY=socks5h://127.0.0.1:9050", "http_proxy=socks5h://127.0.0.1:9050",
		"HTTPS_PROXY=socks5h://127.0.0.1:9050", "https_proxy=socks5h://127.0.0.1:9050",
		"FTP_PROXY=socks5h://127.0.0.1:9050", "ftp_proxy=socks5h://127.0.0.1:9050"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	base := []string{"A=1"}
	if got := environment(base, nil, netip.AddrPort{}); !slices.Equal(got, base) {
		t.Errorf("without a proxy: got %q", got)
	}
}

func TestFindProgram(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"a/run": 0o755, "b/run": 0o755, "a/data": 0o644, "b/data": 0o755, "b/only": 0o644} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(filepath.Join(dir, "a"))
	path := "PATH=" + dir + "/none:" + dir + "/a:" + dir + "/b"
	for _, test := range []struct {
		name, path, want string
		code             exit.Code
	}{
		{"run", path, dir + "/a/run", exit.OK},
		{"data", path, dir + "/b/data", exit.OK}, // what cannot be executed does not hide what can
		{"only", path, "", exit.CannotExec},
		{"none", path, "", exit.NotFound},
		{"run", "PATH=", "./run", exit.OK}, // an empty entry is the working directory
		{"run", "PATH=/none:", "./run", exit.OK},
		{"run", "PATH=/none", "", exit.NotFound},
		{"sh", "HOME=/", "/bin/sh", exit.OK}, // no PATH at all
		{"./run", "PATH=", "./run", exit.OK},
		{"./none", path, "", exit.NotFound},
		{"./data", path, "", exit.CannotExec},
		{"/", path, "", exit.CannotExec},
		{"", path, "", exit.NotFound},
	} {
		got, err := findProgram(test.name, []string{test.path})
		if exit.Of(err) != test.code || err == nil && got != test.want {
			t.Errorf("%q in %s: got %q, %v, want %q, code %d", test.name, test.path, got, err, test.want, test.code)
		}
	}
}

// TestStageArguments: the stage gets back what syd tells it.
func TestStageArguments(t *testing.T) {
	s := stage{outside: "net:[1]", owner: "user:[2]", listen: netip.MustParseAddrPort("[::1]:9050"), path: "/bin/x", argv: []string{"x", "", "\xff"}}
	got, err := parseStage(s.args())
	if err != nil || got.outside != s.outside || got.owner != s.owner || got.listen != s.listen || got.path != s.path || !slices.Equal(got.argv, s.argv) {
		t.Errorf("got %+v, %v, want %+v", got, err, s)
	}
	for n := range 6 {
		if _, err := parseStage(s.args()[:n]); err == nil {
			t.Errorf("%d arguments are enough", n)
		}
	}
}

// TestSteps: errors are told with the step's name and code, unless they bring their own, and end the sequence.
func TestSteps(t *testing.T) {
	cause := errors.New("cause")
	for _, test := range []struct {
		err  error
		want string
		code exit.Code
	}{
		{nil, "", exit.OK},
		{cause, "second: cause", exit.NoProxy},
		{exit.Errorf(exit.NotFound, "%w", cause), "cause", exit.NotFound},
	} {
		ran := ""
		record := func(name string, err error) step[int] {
			return step[int]{name, "", exit.NoProxy, func(int) error { ran += name; return err }}
		}
		err := runSteps([]step[int]{record("first", nil), record("second", test.err), record("third", nil)}, 0)
		if exit.Of(err) != test.code || err != nil && (err.Error() != test.want || !errors.Is(err, cause) || ran != "firstsecond") {
			t.Errorf("%v: got %v after %s", test.err, err, ran)
		}
	}
	if got, want := len(plainSteps), 2; got != want {
		t.Errorf("%d plain steps were found by name, want %d", got, want)
	}
}

func TestIgnoredSignals(t *testing.T) {
	set, err := ignoredSignals()
	if err != nil {
		t.Fatal(err)
	}
	// Go's runtime handles it, so it cannot be ignored here.
	if set>>(unix.SIGTERM-1)&1 != 0 {
		t.Errorf("set %x has SIGTERM", set)
	}
}

func TestHelp(t *testing.T) {
	var b strings.Builder
	if err := WriteHelp(&b); err != nil {
		t.Fatal(err)
	}
	for _, row := range Commands {
		if !strings.Contains(b.String(), row.Key+row.Op.String()+row.Value+" ") {
			t.Errorf("%s is not in the help", row.Key)
		}
	}
	for _, row := range exit.Table {
		if !strings.Contains(b.String(), row.Text) {
			t.Errorf("exit code %d is not in the help", row.Code)
		}
	}
	for line := range strings.Lines(b.String()) {
		if len(line) > 121 {
			t.Errorf("longer than 120 columns: %s", line)
		}
	}
}
