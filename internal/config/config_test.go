package config

import (
	"encoding/hex"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"syd/internal/exit"
)

// env makes a lookup function of a list of names that are set.
func env(names ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, n := range names {
			if n == name {
				return "", true
			}
		}
		return "", false
	}
}

func TestParse(t *testing.T) {
	c, err := Parse([]string{"-dp3", "-i", "4", "-o", "[::1]:9051", "--stats", "-w", "2"}, env("SYD_TOR_RULES"))
	if err != nil {
		t.Fatal(err)
	}
	if !c.Debug || !c.Rules || !c.Stats || c.OwnerFD != 3 || c.SocketFD != 4 || c.Workers != 2 || c.Upstream.String() != "[::1]:9051" {
		t.Errorf("%+v", c)
	}
	if c, err = Parse([]string{"-i4"}, env("SYD_TOR_DEBUG")); err != nil || !c.Debug || c.OwnerFD != -1 || c.Upstream.String() != DefaultExternal || c.Workers != 1 {
		t.Errorf("defaults: %+v, %v", c, err)
	}
	if c, err = Parse([]string{"-i4", "-u", "/run/tor/socks", "-o", "nonsense"}, env()); err != nil || c.Upstream.Path != "/run/tor/socks" {
		t.Errorf("-u wins over -o: %+v, %v", c, err)
	}
	if c, err = Parse([]string{"-i4", "-w", "auto"}, env()); err != nil || c.Workers < 1 || c.Workers > MaxWorkers {
		t.Errorf("-w auto: %+v, %v", c, err)
	}
	if c, err = Parse([]string{"--check"}, env()); err != nil || c.Check != CheckText {
		t.Errorf("--check: %+v, %v", c, err)
	}
}

// TestErrors gives each mistake and the one line that it must be told in.
func TestErrors(t *testing.T) {
	for args, want := range map[string]string{
		"":                          `-i is missing: the socket to receive the listening socket from`,
		"-i x":                      `-i "x": not a descriptor number`,
		"-i -1":                     `-i "-1": not a descriptor number`,
		"-i 99999999999":            `-i "99999999999": too large for a descriptor`,
		"-p 3x -i 4":                `-p "3x": not a descriptor number`,
		"-p 4 -i 4":                 `-i 4: the same descriptor as -p`,
		"-i 4 -o localhost:9050":    `-o "localhost:9050": not an IPv4 or IPv6 address; host names are not resolved`,
		"-i 4 -o 127.0.0.1":         `-o "127.0.0.1": no port: want addr:port`,
		"-i 4 -o 127.0.0.1:0":       `-o "127.0.0.1:0": port "0" is not a number from 1 to 65535`,
		"-i 4 -o 127.0.0.1:65536":   `-o "127.0.0.1:65536": port "65536" is not a number from 1 to 65535`,
		"-i 4 -o 127.0.0.1:":        `-o "127.0.0.1:": port "" is not a number from 1 to 65535`,
		"-i 4 -o ::1:9050":          `-o "::1:9050": not an IPv6 address in brackets, as in [::1]:9050`,
		"-i 4 -o [127.0.0.1]:9050":  `-o "[127.0.0.1]:9050": brackets are for IPv6 addresses`,
		"-i 4 -o [fe80::1%noif0]:1": `-o "[fe80::1%noif0]:1": zone "noif0": no such device`,
		"-i 4 -o 256.0.0.1:1":       `-o "256.0.0.1:1": not an IPv4 or IPv6 address; host names are not resolved`,
		"-i 4 -u @":                 `-u "@": an empty abstract name`,
		"-i 4 -w 0":                 `-w "0": neither a number from 1 to 64 nor auto`,
		"-i 4 -w 65":                `-w "65": neither a number from 1 to 64 nor auto`,
		"-i 4 extra":                `operand "extra": syd-tor takes none`,
		"-i 4 -x":                   `unknown shorthand flag: 'x' in -x`,
		"-i 4 --nope":               `unknown flag: --nope`,
		"-i":                        `flag needs an argument: 'i' in -i`,
		"--check=xml":               `--check "xml": neither text nor json`,
		"-i 4 -u " + longPath(108):  `-u "` + longPath(108) + `": 108 bytes, and a UNIX socket's path has at most 107`,
	} {
		_, err := Parse(strings.Fields(args), env())
		if err == nil || err.Error() != want || exit.Of(err) != exit.Usage {
			t.Errorf("%q: %v (status %d), want %s (status %d)", args, err, exit.Of(err), want, exit.Usage)
		}
	}
	if _, err := Parse([]string{"-i", "4", "-u", ""}, env()); err == nil || err.Error() != `-u "": an empty path` {
		t.Errorf("empty path: %v", err)
	}
	if _, err := Parse([]string{"-i", "a\nb"}, env()); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("newline in a value: %v", err)
	}
}

func longPath(n int) string { return "/" + strings.Repeat("x", n-1) }

// TestSockaddr compares addresses with what ip(7), ipv6(7) and unix(7) say of their bytes.
func TestSockaddr(t *testing.T) {
	little := func(family byte) string { return hex.EncodeToString([]byte{family, 0}) }
	for text, want := range map[string]string{
		"127.0.0.1:9050":   little(unix.AF_INET) + "235a" + "7f000001" + "0000000000000000",
		"[::1]:9050":       little(unix.AF_INET6) + "235a" + "00000000" + strings.Repeat("00", 15) + "01" + "00000000",
		"[fe80::1%7]:9050": little(unix.AF_INET6) + "235a" + "00000000" + "fe80" + strings.Repeat("00", 13) + "01" + "07000000",
		"/run/s":           little(unix.AF_UNIX) + hex.EncodeToString([]byte("/run/s\x00")),
		"@s":               little(unix.AF_UNIX) + hex.EncodeToString([]byte("\x00s")),
	} {
		parse := ParseAddr
		if text[0] == '/' || text[0] == '@' {
			parse = ParseUnix
		}
		u, err := parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := hex.EncodeToString(u.Sockaddr()); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"-dh", "-p3 -i4 -o 127.0.0.1:9050", "-i4 -u @x", "--check=json", "-i4 -o [::1%lo]:1", "-w auto -i0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c, err := Parse(strings.Split(line, " "), env())
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") || exit.Of(err) == exit.OK {
				t.Errorf("%q: error %q, status %d", line, err, exit.Of(err))
			}
			return
		}
		if c.Help || c.Version {
			return
		}
		if n := len(c.Upstream.Sockaddr()); n < 3 || n > unix.SizeofSockaddrUnix {
			t.Errorf("%q: an address of %d bytes", line, n)
		}
	})
}
