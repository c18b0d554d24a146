package guest

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/cavaliergopher/cpio"

	"syd/testvm/event"
)

// User is the UID and GID of the guests' ordinary user.
const User = 1000

// texts are the files that programs expect on any system.
var texts = map[string]string{
	"etc/passwd":        "root:x:0:0:root:/root:/bin/false\nuser:x:1000:1000:user:/tmp:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n",
	"etc/group":         "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n",
	"etc/hosts":         "127.0.0.1 localhost\n::1 localhost\n",
	"etc/nsswitch.conf": "hosts: files\n",
}

// applets are the names under which busybox(1) is found. Its shell is not among them: it runs applets of its own instead
// of what PATH says.
var applets = []string{
	"cat", "chmod", "cp", "cut", "echo", "env", "false", "grep", "head", "id", "ip", "kill", "ln", "ls", "mkdir", "mv", "nc", "ps",
	"pwd", "readlink", "rm", "rmdir", "sed", "seq", "setpriv", "setsid", "sleep", "sort", "stty", "tail", "test", "timeout", "touch",
	"tr", "true", "tty", "uname", "unshare", "wc", "wget",
}

// writeInitramfs writes an uncompressed newc archive: unpacking would cost more under emulation than it saves. Device
// nodes are not needed, the kernel's built-in archive has /dev/console and PID 1 mounts devtmpfs. The bytes depend on
// the contents alone.
func writeInitramfs(w io.Writer, plan *event.Plan, files map[string]string) error {
	a := cpio.NewWriter(w)
	dirs := map[string]bool{".": true, "": true}
	var mkdir func(string) error
	mkdir = func(d string) error {
		if dirs[d] {
			return nil
		}
		if err := mkdir(path.Dir(d)); err != nil {
			return err
		}
		dirs[d] = true
		return a.WriteHeader(&cpio.Header{Name: d, Mode: cpio.TypeDir | 0o755, Links: 2})
	}
	add := func(name string, mode cpio.FileMode, b []byte) error {
		if err := mkdir(path.Dir(name)); err != nil {
			return err
		}
		if err := a.WriteHeader(&cpio.Header{Name: name, Mode: cpio.TypeReg | mode, Links: 1, Size: int64(len(b))}); err != nil {
			return err
		}
		_, err := a.Write(b)
		return err
	}
	b, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	if err := add(strings.TrimPrefix(event.PlanPath, "/"), 0o444, b); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if err := add(name, 0o444, []byte(texts[name])); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		b, err := os.ReadFile(files[name])
		if err != nil {
			return err
		}
		if err := add(name, 0o555, b); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	link := func(name, target string) error {
		h := &cpio.Header{Name: name, Mode: cpio.TypeSymlink | 0o777, Links: 1, Size: int64(len(target))}
		if err := a.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.WriteString(a, target)
		return err
	}
	if files["bin/bash"] != "" {
		if err := link("bin/sh", "bash"); err != nil {
			return err
		}
	}
	if files["bin/busybox"] != "" {
		for _, name := range applets {
			if err := link("bin/"+name, "busybox"); err != nil {
				return err
			}
		}
	}
	return a.Close()
}
