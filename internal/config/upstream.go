package config

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Upstream is the one external address that traffic is forwarded to.
type Upstream struct {
	Family int            // unix.AF_INET, AF_INET6 or AF_UNIX
	Addr   netip.AddrPort // for AF_INET and AF_INET6
	Scope  uint32         // index of the interface of a link-local AF_INET6 address
	Path   string         // for AF_UNIX; a leading @ stands for the NUL of an abstract name
}

// maxUnixPath is sun_path less its terminating NUL (unix(7)).
const maxUnixPath = 107

// ParseAddr reads "addr:port". A host name is refused: what a name resolves to may change, and the address is
// sealed at start.
func ParseAddr(s string) (Upstream, error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return Upstream{}, errors.New("no port: want addr:port")
	}
	host, port := s[:i], s[i+1:]
	bracketed := len(host) >= 2 && host[0] == '[' && host[len(host)-1] == ']'
	if bracketed {
		host = host[1 : len(host)-1]
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil && strings.Contains(host, ":") || err == nil && addr.Is6() && !bracketed:
		return Upstream{}, errors.New("not an IPv6 address in brackets, as in [::1]:9050")
	case err != nil:
		return Upstream{}, errors.New("not an IPv4 or IPv6 address; host names are not resolved")
	case addr.Is4() && bracketed:
		return Upstream{}, errors.New("brackets are for IPv6 addresses")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return Upstream{}, fmt.Errorf("port %q is not a number from 1 to 65535", port)
	}
	u := Upstream{Family: unix.AF_INET, Addr: netip.AddrPortFrom(addr, uint16(n))}
	if addr.Is6() {
		u.Family = unix.AF_INET6
		if u.Scope, err = scope(addr.Zone()); err != nil {
			return Upstream{}, err
		}
	}
	return u, nil
}

// scope turns the zone of an IPv6 address into an interface index: a number, or an interface's name.
func scope(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	ifr, err := unix.NewIfreq(zone)
	if err != nil {
		return 0, fmt.Errorf("zone %q is not the name of an interface", zone)
	}
	s, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("zone %q: socket: %w", zone, err)
	}
	defer unix.Close(s)
	if err := unix.IoctlIfreq(s, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, fmt.Errorf("zone %q: %w", zone, err)
	}
	return ifr.Uint32(), nil
}

// ParseUnix reads the path of a UNIX socket, or "@name" for an abstract one.
func ParseUnix(s string) (Upstream, error) {
	switch {
	case s == "":
		return Upstream{}, errors.New("an empty path")
	case s == "@":
		return Upstream{}, errors.New("an empty abstract name")
	case strings.IndexByte(s, 0) >= 0:
		return Upstream{}, errors.New("a NUL byte in the path")
	case len(s) > maxUnixPath:
		return Upstream{}, fmt.Errorf("%d bytes, and a UNIX socket's path has at most %d", len(s), maxUnixPath)
	}
	return Upstream{Family: unix.AF_UNIX, Path: s}, nil
}

// Abstract tells whether the upstream is a UNIX socket with a name outside the file system.
func (u Upstream) Abstract() bool { return u.Family == unix.AF_UNIX && u.Path[0] == '@' }

// String gives the address as the options take it.
func (u Upstream) String() string {
	if u.Family == unix.AF_UNIX {
		return u.Path
	}
	return u.Addr.String()
}

// Protocol is the third argument of socket(2) for the upstream.
func (u Upstream) Protocol() int {
	if u.Family == unix.AF_UNIX {
		return 0
	}
	return unix.IPPROTO_TCP
}

// Sockaddr is the address as connect(2) takes it: sockaddr_in, sockaddr_in6 or sockaddr_un (ip(7), ipv6(7),
// unix(7)). An abstract name's length leaves out the NUL that ends a path.
func (u Upstream) Sockaddr() []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(u.Family))
	switch u.Family {
	case unix.AF_INET:
		b = binary.BigEndian.AppendUint16(b, u.Addr.Port())
		ip := u.Addr.Addr().As4()
		b = append(b, ip[:]...)
		return append(b, make([]byte, 8)...)
	case unix.AF_INET6:
		b = binary.BigEndian.AppendUint16(b, u.Addr.Port())
		b = append(b, 0, 0, 0, 0) // flow information
		ip := u.Addr.Addr().As16()
		b = append(b, ip[:]...)
		return binary.NativeEndian.AppendUint32(b, u.Scope)
	}
	if u.Abstract() {
		return append(append(b, 0), u.Path[1:]...)
	}
	return append(append(b, u.Path...), 0)
}
