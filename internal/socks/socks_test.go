package socks

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

func TestThroughServer(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	defer page.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	server, err := Serve(l)
	if err != nil {
		t.Fatal(err)
	}
	for i, proxy := range []*url.URL{nil, {Scheme: "socks5h", Host: l.Addr().String()}} {
		response, err := Client(proxy).Get(page.URL)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil || string(body) != "hello" {
			t.Errorf("proxy %v: got %q, %v", proxy, body, err)
		}
		if n := server.Accepted(); n != int64(i) {
			t.Errorf("proxy %v: the server accepted %d connections, want %d", proxy, n, i)
		}
	}
}
