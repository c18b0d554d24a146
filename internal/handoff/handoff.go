// Package handoff receives what the owner of syd-tor(1) hands over: its own PID descriptor, and the listening
// socket by SCM_RIGHTS (unix(7)).
//
// What it returns is open, close-on-exec and of the right kind. It does not know where a listener is bound: that
// is the owner's business.
package handoff

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"syd/internal/exit"
)

// ErrOwnerGone means that the owner exited before it sent the socket: nothing is left to do, and nothing to tell.
var ErrOwnerGone = exit.Errorf(exit.OK, "the owner exited")

// scmMaxFD is how many descriptors one message can carry (include/net/scm.h SCM_MAX_FD, Linux 6.18).
const scmMaxFD = 253

// Owner returns a close-on-exec descriptor that polls readable once the owner has exited: fd after checks, or for
// fd -1 a new one of the parent process. It is above the standard ones, whose numbers relays give to others.
func Owner(fd int) (int, error) {
	if fd < 0 {
		return parent()
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, exit.Errorf(exit.Usage, "-p %d: not an open descriptor", fd)
	}
	// A directory of /proc passes for a pidfd here, and never becomes readable (kernel/signal.c, Linux 6.18).
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	err := unix.PidfdSendSignal(fd, 0, nil, 0)
	// EINVAL: of a process outside this PID namespace. It polls all the same.
	if isDir || err != nil && err != unix.EPERM && err != unix.ESRCH && err != unix.EINVAL {
		return 0, exit.Errorf(exit.Usage, "-p %d: not a PID descriptor", fd)
	}
	if fd > unix.Stderr {
		unix.CloseOnExec(fd)
		return fd, nil
	}
	above, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, unix.Stderr+1)
	if err != nil {
		return 0, exit.Errorf(exit.OS, "-p %d: fcntl F_DUPFD_CLOEXEC: %w", fd, err)
	}
	return above, nil
}

func parent() (int, error) {
	ppid := unix.Getppid()
	if ppid == 0 {
		return 0, exit.Errorf(exit.Usage, "-p is missing, and the parent process is in another PID namespace")
	}
	fd, err := unix.PidfdOpen(ppid, unix.PIDFD_NONBLOCK)
	if err == unix.ESRCH || unix.Getppid() != ppid {
		return 0, ErrOwnerGone
	}
	if err != nil {
		return 0, exit.Errorf(exit.OS, "pidfd_open of the parent process: %w", err)
	}
	return fd, nil
}

// Socket checks the descriptor given with -i: it must be a UNIX socket.
func Socket(fd int) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	switch {
	case err == unix.EBADF:
		return exit.Errorf(exit.Usage, "-i %d: not an open descriptor", fd)
	case err != nil || domain != unix.AF_UNIX:
		return exit.Errorf(exit.Usage, "-i %d: not a UNIX socket", fd)
	}
	unix.CloseOnExec(fd)
	return nil
}

// Receive waits on socket for one message with one descriptor, checks that it is a stream socket bound to an
// address, and makes it listen if its sender did not. It returns ErrOwnerGone if owner becomes readable first.
func Receive(socket, owner int) (listener int, err error) {
	fds, err := receive(socket, owner)
	if err != nil {
		return 0, err
	}
	if len(fds) != 1 {
		closeAll(fds)
		return 0, exit.Errorf(exit.Handoff, "-i %d: %d descriptors arrived, want 1", socket, len(fds))
	}
	if err := listen(fds[0]); err != nil {
		unix.Close(fds[0])
		return 0, exit.Errorf(exit.Handoff, "-i %d: %w", socket, err)
	}
	return fds[0], nil
}

func receive(socket, owner int) ([]int, error) {
	poll := []unix.PollFd{{Fd: int32(socket), Events: unix.POLLIN}, {Fd: int32(owner), Events: unix.POLLIN}}
	data := make([]byte, 64)
	control := make([]byte, unix.CmsgSpace(scmMaxFD*4))
	for {
		if _, err := unix.Poll(poll, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return nil, exit.Errorf(exit.OS, "poll: %w", err)
		}
		if poll[0].Revents == 0 {
			return nil, ErrOwnerGone
		}
		n, cn, flags, _, err := unix.Recvmsg(socket, data, control, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			if poll[1].Revents != 0 {
				return nil, ErrOwnerGone
			}
			continue
		case err != nil:
			return nil, exit.Errorf(exit.Handoff, "-i %d: recvmsg: %w", socket, err)
		}
		fds, err := rights(control[:cn])
		switch {
		case err != nil:
			return nil, exit.Errorf(exit.Handoff, "-i %d: %w", socket, err)
		case flags&unix.MSG_CTRUNC != 0:
			closeAll(fds)
			return nil, exit.Errorf(exit.Handoff, "-i %d: descriptors were lost: descriptor limit reached", socket)
		case len(fds) == 0 && n == 0 && exits(owner):
			return nil, ErrOwnerGone
		case len(fds) == 0 && n == 0:
			return nil, exit.Errorf(exit.Handoff, "-i %d: closed before the listening socket arrived", socket)
		}
		return fds, nil
	}
}

// exits tells whether the owner is gone, or goes right now: a process that dies closes its sockets first.
func exits(owner int) bool {
	const grace = 100 // milliseconds
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(owner), Events: unix.POLLIN}}, grace)
	return err == nil && n > 0
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// rights returns the descriptors in a control message.
func rights(control []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var all []int
	for i := range messages {
		if messages[i].Header.Level != unix.SOL_SOCKET || messages[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return nil, fmt.Errorf("control message: %w", err)
		}
		all = append(all, fds...)
	}
	return all, nil
}

// listen checks what the relay relies on and calls listen(2) where the sender only did bind(2). The owner of
// the socket's other copies chose the backlog if it listened, so it is left alone.
func listen(fd int) error {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case err == unix.ENOTSOCK:
		return errors.New("what arrived is not a socket")
	case err != nil:
		return fmt.Errorf("getsockopt SO_TYPE: %w", err)
	case typ != unix.SOCK_STREAM:
		return errors.New("what arrived is not a stream socket")
	}
	if listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil {
		return fmt.Errorf("getsockopt SO_ACCEPTCONN: %w", err)
	} else if listening == 1 {
		return nil
	}
	if _, err := unix.Getpeername(fd); err == nil {
		return errors.New("what arrived is a connected socket, not one to listen on")
	}
	if bound, err := isBound(fd); err != nil {
		return err
	} else if !bound {
		return errors.New("what arrived is not bound to an address")
	}
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return nil
}

func isBound(fd int) (bool, error) {
	addr, err := unix.Getsockname(fd)
	if err != nil {
		return false, fmt.Errorf("getsockname: %w", err)
	}
	switch a := addr.(type) {
	case *unix.SockaddrInet4:
		return a.Port != 0, nil
	case *unix.SockaddrInet6:
		return a.Port != 0, nil
	case *unix.SockaddrUnix:
		return a.Name != "", nil
	}
	return false, errors.New("what arrived is neither a TCP nor a UNIX socket")
}
