package launch

import (
	"errors"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// enterDomain puts the calling thread and all that it executes into a Landlock domain: no process outside can be
// traced, nor its memory or descriptors be taken, and no abstract UNIX socket that was made outside is reached.
// Files are what they were. It is a second lock: the user namespace does the same, where there is one.
//
// Signals stay what they were, too. Landlock could keep them inside, but a program that stops its job with
// kill(2) of process group 0, as editors do on ^Z, must reach the script that started syd.
//
// Requires: no_new_privs.
func enterDomain() error {
	// Scopes came with Linux 6.12. Before, only rulesets that restrict files make a domain, and they forbid mount(2)
	// and, at first, moving files between directories.
	fd, err := ll.LandlockCreateRuleset(&ll.RulesetAttr{Scoped: ll.ScopeAbstractUnixSocket}, 0)
	if err != nil {
		return err
	}
	return errors.Join(ll.LandlockRestrictSelf(fd, 0), unix.Close(fd))
}

// noScopes are the errors of a kernel that has no Landlock scopes, or where they are turned off; EPERM is a container's.
var noScopes = []error{unix.ENOSYS, unix.EOPNOTSUPP, unix.E2BIG, unix.EINVAL, unix.EPERM}
