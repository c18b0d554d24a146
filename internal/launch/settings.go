package launch

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"syd/internal/command"
)

// Settings is what the commands of -m and -P decide.
type Settings struct {
	Proxy    bool       // the program's only way out is syd-tor
	Addr     netip.Addr // where the proxy listens, inside
	Port     uint16
	Host     string // the external address: an IP address or a name
	HostPort uint16 // its port
	Unix     string // a UNIX socket instead of Host: an absolute path, or "@name" for an abstract one; "" for none
	Env      bool   // tell the program about the proxy in its environment
	Stats    bool   // let syd-tor print its counters at exit
	Others   bool   // there were commands other than sandbox/proxy, which do nothing without it
}

// Defaults returns the settings without any command.
func Defaults() Settings {
	return Settings{
		Addr:     netip.AddrFrom4([4]byte{127, 0, 0, 1}),
		Port:     9050,
		Host:     "127.0.0.1",
		HostPort: 9050,
		Env:      true,
	}
}

// proxyKey is the command without which the others do nothing.
const proxyKey = "sandbox/proxy"

// Commands are the commands of the proxy sandbox, in the order of the help.
var Commands = command.Table[Settings]{
	{Key: proxyKey, Op: command.Set, Value: "on|off",
		Text: "run the program in a network of its own, with syd-tor as the only way out (off)",
		Run:  func(s *Settings, v string) error { return setSwitch(&s.Proxy, v) }},
	{Key: "proxy/addr", Op: command.Set, Value: "ADDRESS",
		Text: "loopback address at which the program finds the proxy (127.0.0.1)",
		Run:  setAddr},
	{Key: "proxy/port", Op: command.Set, Value: "PORT",
		Text: "port at which the program finds the proxy (9050)",
		Run:  func(s *Settings, v string) error { return setPort(&s.Port, v) }},
	{Key: "proxy/ext/host", Op: command.Set, Value: "HOST",
		Text: "address of the real proxy, or its name, looked up once at start (127.0.0.1)",
		Run:  setHost},
	{Key: "proxy/ext/port", Op: command.Set, Value: "PORT",
		Text: "port of the real proxy (9050)",
		Run:  func(s *Settings, v string) error { return setPort(&s.HostPort, v) }},
	{Key: "proxy/ext/unix", Op: command.Set, Value: "PATH",
		Text: "UNIX socket of the real proxy, @NAME for an abstract one; wins over proxy/ext/host",
		Run:  setUnix},
	{Key: "proxy/env", Op: command.Set, Value: "on|off",
		Text: "set ALL_PROXY and its like for the program, unless it has them (on)",
		Run:  func(s *Settings, v string) error { return setSwitch(&s.Env, v) }},
	{Key: "proxy/stats", Op: command.Set, Value: "on|off",
		Text: "let syd-tor print its counters to standard error at the end (off)",
		Run:  func(s *Settings, v string) error { return setSwitch(&s.Stats, v) }},
}

func setSwitch(b *bool, v string) error {
	switch v {
	case "on", "off":
		*b = v == "on"
		return nil
	}
	return fmt.Errorf("%q is neither on nor off", v)
}

func setPort(p *uint16, v string) error {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil || n == 0 || v[0] == '+' {
		return fmt.Errorf("%q is not a port from 1 to 65535", v)
	}
	*p = uint16(n)
	return nil
}

func setAddr(s *Settings, v string) error {
	// Nothing but the loopback device exists inside.
	a, err := netip.ParseAddr(v)
	if err != nil || !a.IsLoopback() || a.Is4In6() {
		return fmt.Errorf("%q is not a loopback address", v)
	}
	s.Addr = a
	return nil
}

func setHost(s *Settings, v string) error {
	if a, err := netip.ParseAddr(v); err == nil {
		if a.Zone() != "" {
			return fmt.Errorf("%q has a zone", v) // syd-tor(1) takes none
		}
		s.Host = a.Unmap().String()
		return nil
	}
	if strings.HasPrefix(v, "-") || strings.Trim(v, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") != "" || v == "" {
		return fmt.Errorf("%q is neither an address nor a host name", v)
	}
	s.Host = v
	return nil
}

// sunPath is the longest path of a UNIX socket: the kernel wants room for a NUL (unix(7)).
const sunPath = len(unix.RawSockaddrUnix{}.Path) - 1

func setUnix(s *Settings, v string) error {
	if v == "" || v == "@" { // what syd-tor would refuse
		return fmt.Errorf("%q is neither a path nor a name", v)
	}
	path := v
	if v[0] != '@' {
		var err error
		// syd-tor changes its root directory, so a path must not depend on where syd was started.
		if path, err = filepath.Abs(v); err != nil {
			return fmt.Errorf("%q: %w", v, err)
		}
	}
	if len(path) > sunPath {
		return fmt.Errorf("%q is longer than %d bytes", path, sunPath)
	}
	s.Unix = path
	return nil
}
