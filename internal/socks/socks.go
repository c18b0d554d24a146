// Package socks is what the demonstration and the tests need of SOCKS5 (RFC 1928): a server to stand where Tor
// would, and a client that goes through one. Nothing that ships in syd or syd-tor uses it.
package socks

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"

	socks5 "github.com/armon/go-socks5"
)

// Server is a SOCKS5 server without authentication that connects to wherever it is asked to.
type Server struct {
	accepted atomic.Int64
}

// Serve starts a server on l, which ends when l is closed.
func Serve(l net.Listener) (*Server, error) {
	// It would log each connection that a client ends early.
	inner, err := socks5.New(&socks5.Config{Logger: log.New(io.Discard, "", 0)})
	if err != nil {
		return nil, err
	}
	s := new(Server)
	go inner.Serve(counting{l, s})
	return s, nil
}

// Accepted returns how many connections the server has accepted.
func (s *Server) Accepted() int64 { return s.accepted.Load() }

type counting struct {
	net.Listener
	server *Server
}

func (c counting) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.server.accepted.Add(1)
	}
	return conn, err
}

// Client returns an HTTP client that makes each request on a new connection, through the SOCKS proxy at a URL such
// as ALL_PROXY holds, or directly if it is nil. It does not look at the environment, by which net/http would spare
// loopback addresses the proxy.
func Client(proxy *url.URL) *http.Client {
	t := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	if proxy != nil {
		t.Proxy = http.ProxyURL(proxy)
	}
	return &http.Client{Transport: t}
}
