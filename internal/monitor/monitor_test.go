package monitor

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestInherit: what accepted sockets get from the listener. A client that reads nothing for minutes keeps its
// connection, which TCP_USER_TIMEOUT would end (tcp(7)).
func TestInherit(t *testing.T) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	if err := inherit(s); err != nil {
		t.Fatal(err)
	}
	for _, o := range []struct{ level, option, want int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 120},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0},
	} {
		if got, err := unix.GetsockoptInt(s, o.level, o.option); err != nil || got != o.want {
			t.Errorf("option %d of level %d is %d, %v, want %d", o.option, o.level, got, err, o.want)
		}
	}
}
