package launch

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// standardNames are the descriptors that the program keeps.
var standardNames = [...]string{"standard input", "standard output", "standard error"}

// checkStandard fails if one of them is a socket that the program could connect anew: a socket belongs to the network
// namespace in which it was made, and connect(2) to AF_UNSPEC frees even a connected TCP socket for another address.
// Connected UNIX streams stay, as sshd(8) and the journal use them: they cannot be connected again.
func checkStandard() error {
	for fd, name := range standardNames {
		domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err != nil {
			continue // no socket, or not open
		}
		if domain == unix.AF_UNIX && connectedForGood(fd) {
			continue
		}
		return fmt.Errorf("%s is a socket of the network outside, which the program could connect elsewhere: "+
			"put cat(1) and a pipe between", name)
	}
	return nil
}

func connectedForGood(fd int) bool {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || typ != unix.SOCK_STREAM && typ != unix.SOCK_SEQPACKET {
		return false
	}
	_, err = unix.Getpeername(fd)
	return err == nil
}
