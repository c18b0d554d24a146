package launch

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// stageCaps are what the stage needs inside: the loopback device, a port below 1024, and dropping the rest. They
// are ambient, because an ordinary user's are lost by execve(2) otherwise (capabilities(7)).
var stageCaps = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE, unix.CAP_SETPCAP}

// namespaces is one way to have a network of its own.
type namespaces struct {
	name string
	attr syscall.SysProcAttr
}

// waysIn returns the ways to try, the best first. Identity is kept in all of them:
//   - An ordinary user may map nobody but himself (user_namespaces(7)). Other users, and his supplementary groups, then
//     show as nobody; what the groups may open stays open, since the kernel goes on comparing its own numbers.
//   - Who may map everybody does so, each to itself: files keep their owners for root.
//   - root does without a user namespace where there is none to be had. It protects the processes outside from
//     being traced, which is why it is tried first; the missing capabilities do that then.
func waysIn() ([]namespaces, error) {
	caps, err := effective()
	if err != nil {
		return nil, err
	}
	user := namespaces{"user and network namespace", syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		AmbientCaps: stageCaps,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}},
	}}
	if caps.has(unix.CAP_SETUID) && caps.has(unix.CAP_SETGID) {
		if user.attr.UidMappings, err = everybody("/proc/self/uid_map"); err != nil {
			return nil, err
		}
		if user.attr.GidMappings, err = everybody("/proc/self/gid_map"); err != nil {
			return nil, err
		}
		user.attr.GidMappingsEnableSetgroups = true
	}
	ways := []namespaces{user}
	if caps.has(unix.CAP_SYS_ADMIN) {
		ways = append(ways, namespaces{"network namespace", syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWNET,
			AmbientCaps: stageCaps,
		}})
	}
	return ways, nil
}

// everybody returns the map of each identity that this namespace knows to itself.
func everybody(file string) ([]syscall.SysProcIDMap, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var ids []syscall.SysProcIDMap
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var first, outside, n uint32
		if _, err := fmt.Sscan(lines.Text(), &first, &outside, &n); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", file, lines.Text(), err)
		}
		// Go keeps the numbers in an int: on 32-bit machines identities from 1<<31 on show as nobody.
		if uint64(first) > math.MaxInt {
			continue
		}
		size := int(min(uint64(n), math.MaxInt-uint64(first)))
		ids = append(ids, syscall.SysProcIDMap{ContainerID: int(first), HostID: int(first), Size: size})
	}
	return ids, nil
}

// obstacles are the settings that forbid namespaces, so that an error can say which one it was.
var obstacles = []struct{ file, value, meaning string }{
	{"/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces is 0"},
	{"/proc/sys/user/max_net_namespaces", "0", "user.max_net_namespaces is 0"},
	{"/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone is 0"},
	{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns is 1"},
}

// why returns the obstacles found on this machine, in brackets, or "".
func why() string {
	var found []string
	for _, o := range obstacles {
		if text, err := os.ReadFile(o.file); err == nil && strings.TrimSpace(string(text)) == o.value {
			found = append(found, o.meaning)
		}
	}
	if found == nil {
		return ""
	}
	return " (" + strings.Join(found, ", ") + ")"
}
