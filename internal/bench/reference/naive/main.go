// Naive is the forwarder that a Go programmer writes first: a goroutine per direction and io.Copy, which splices
// between TCP sockets by itself. The bench keeps it as a reference.
//
// It half-closes as it should. It does not confine itself, carry resets across or bound anything.
//
// usage: naive LISTEN-ADDR UPSTREAM (addr:port, or /path of a UNIX stream socket)
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: naive LISTEN-ADDR UPSTREAM")
		os.Exit(64)
	}
	network := "tcp"
	if strings.HasPrefix(os.Args[2], "/") {
		network = "unix"
	}
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "naive:", err)
		os.Exit(71)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			continue // out of descriptors: the naive answer is to try again at once
		}
		go forward(c, network, os.Args[2])
	}
}

// halfCloser is what *net.TCPConn and *net.UnixConn have in common beyond net.Conn.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

func forward(client net.Conn, network, addr string) {
	defer client.Close()
	up, err := net.Dial(network, addr)
	if err != nil {
		return
	}
	defer up.Close()
	done := make(chan struct{})
	go func() {
		shovel(up.(halfCloser), client.(halfCloser))
		close(done)
	}()
	shovel(client.(halfCloser), up.(halfCloser))
	<-done
}

func shovel(dst, src halfCloser) {
	_, _ = io.Copy(dst, src) // a reset ends the direction as EOF does
	_ = dst.CloseWrite()
}
