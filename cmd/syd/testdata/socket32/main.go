// Socket32 makes a socket as 32-bit x86 programs do, by socketcall(2), and exits with the errno.
package main

import (
	"os"
	"strconv"
	"syscall"
)

func main() {
	family, _ := strconv.Atoi(os.Args[1])
	_, err := syscall.Socket(family, syscall.SOCK_STREAM, 0)
	if errno, ok := err.(syscall.Errno); ok {
		os.Exit(int(errno))
	}
}
