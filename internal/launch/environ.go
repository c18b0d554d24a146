package launch

import (
	"errors"
	"io/fs"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"syd/internal/exit"
)

// proxyVariables tell programs about a proxy. curl(1) wants http_proxy in lower case and Go's net/http does not
// know ALL_PROXY, so all are set, both ways. NO_PROXY is not: 127.0.0.1 may well mean the host's, behind the proxy.
var proxyVariables = []string{
	"ALL_PROXY", "all_proxy",
	"HTTP_PROXY", "http_proxy",
	"HTTPS_PROXY", "https_proxy",
	"FTP_PROXY", "ftp_proxy",
}

// environment returns the program's: base, overridden by set (VAR=VALUE each), and the proxy's variables where
// neither has them, unless proxy is the zero value. With socks5h the proxy looks names up: nothing inside can.
func environment(base, set []string, proxy netip.AddrPort) []string {
	env := slices.Clone(base)
	for _, v := range set {
		name := v[:strings.IndexByte(v, '=')+1]
		env = slices.DeleteFunc(env, func(old string) bool { return strings.HasPrefix(old, name) })
		env = append(env, v)
	}
	if !proxy.IsValid() {
		return env
	}
	for _, name := range proxyVariables {
		if _, has := lookup(env, name); !has {
			env = append(env, name+"=socks5h://"+proxy.String())
		}
	}
	return env
}

func lookup(env []string, name string) (value string, ok bool) {
	for _, v := range env {
		if value, ok = strings.CutPrefix(v, name+"="); ok {
			return value, true
		}
	}
	return "", false
}

// defaultPath is execvp(3)'s where PATH is missing (confstr(3), _CS_PATH).
const defaultPath = "/bin:/usr/bin"

// findProgram looks name up as execvp(3) does, in the PATH of env. Its error has code NotFound, or CannotExec if
// all that was found cannot be executed.
func findProgram(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		_, err := exec.LookPath(name)
		return name, programError(name, err)
	}
	path, ok := lookup(env, "PATH")
	if !ok {
		path = defaultPath
	}
	err := error(exec.ErrNotFound)
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "." // by POSIX
		}
		file := dir + "/" + name
		_, e := exec.LookPath(file)
		if e == nil {
			return file, nil
		}
		if errors.Is(e, fs.ErrPermission) {
			err = e
		}
	}
	return "", programError(name, err)
}

func programError(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist):
		return exit.Errorf(exit.NotFound, "%s: not found", name)
	}
	var e *exec.Error
	if errors.As(err, &e) {
		err = e.Err
	}
	return exit.Errorf(exit.CannotExec, "%s: %w", name, err)
}
