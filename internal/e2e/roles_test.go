package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The test binary is also the program that the sandbox runs where no installed one shows enough: with a role in its
// environment it plays that role instead of running tests.
const roleVariable = "SYD_E2E_ROLE"

var roles = map[string]func(args []string) int{
	"handshake": handshakeRole,
	"reach":     reachRole,
}

// testBinary returns a copy of the test binary that an ordinary user can execute.
func testBinary(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(socketDir(t), "e2e.test")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// handshakeRole speaks SOCKS5 (RFC 1928) with the proxy at args[0] and prints what it answers.
func handshakeRole(args []string) int {
	greeting, reply, err := handshake(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, "handshake:", err)
		return 1
	}
	fmt.Printf("greeting % x, reply % x\n", greeting, reply)
	return 0
}

// handshake greets the proxy, offering no authentication, and asks it for 10.1.2.3:80, which tor refuses at once. It
// returns the answer to the greeting, and version and code of the reply.
func handshake(proxy string) (greeting, reply []byte, err error) {
	c, err := net.DialTimeout("tcp", proxy, 10*time.Second)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	greeting, reply = make([]byte, 2), make([]byte, 2)
	if _, err := c.Write([]byte{5, 1, 0}); err != nil {
		return nil, nil, err
	}
	if _, err := io.ReadFull(c, greeting); err != nil {
		return nil, nil, err
	}
	if _, err := c.Write([]byte{5, 1, 0, 1, 10, 1, 2, 3, 0, 80}); err != nil {
		return nil, nil, err
	}
	_, err = io.ReadFull(c, reply)
	return greeting, reply, err
}

const (
	// wantHandshake is what handshakeRole prints of tor: no authentication needed, general failure.
	wantHandshake = "greeting 05 00, reply 05 01\n"
	// curlProxyRefused is CURLE_PROXY of libcurl-errors(3); curl then tells the proxy's code in parentheses.
	curlProxyRefused = 97
)

// reachRole sends a byte to each "network,address" in args and prints whether it came back.
func reachRole(args []string) int {
	for _, target := range args {
		network, address, _ := strings.Cut(target, ",")
		if err := reach(network, address); err != nil {
			fmt.Println(target, "refused")
			fmt.Fprintf(os.Stderr, "%s: %v\n", target, err)
		} else {
			fmt.Println(target, "reached")
		}
	}
	return 0
}

func reach(network, address string) error {
	c, err := net.DialTimeout(network, address, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}
