package command

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

var at = Pos{"-m", 1, 1}

func TestParse(t *testing.T) {
	for _, test := range []struct{ text, key, op, value string }{
		{"sandbox/proxy:on", "sandbox/proxy", ":", "on"},
		{"proxy/addr:::1", "proxy/addr", ":", "::1"},
		{"proxy/ext/unix:/run/a b#c", "proxy/ext/unix", ":", "/run/a b#c"},
		{"proxy/ext/unix:", "proxy/ext/unix", ":", ""},
		// What later parts of the sandbox will say.
		{"allow/read,stat+/usr/***", "allow/read,stat", "+", "/usr/***"},
		{"allowlist/network/connect-inet:127.0.0.0/8@9050", "allowlist/network/connect", "-", "inet:127.0.0.0/8@9050"},
		{"core/sandbox/read?", "core/sandbox/read", "?", ""},
		{"cmd/exec!ls\x1f-l", "cmd/exec", "!", "ls\x1f-l"},
		{"core/trace/magic_lock:on", "core/trace/magic_lock", ":", "on"},
		{"allow/write+\xff\xfe", "allow/write", "+", "\xff\xfe"},
	} {
		c, err := Parse(test.text, at)
		if err != nil {
			t.Errorf("%q: %v", test.text, err)
			continue
		}
		if c.Key != test.key || c.Op.String() != test.op || c.Value != test.value || c.Pos != at {
			t.Errorf("%q: got %q %q %q at %v", test.text, c.Key, c.Op, c.Value, c.Pos)
		}
	}
}

func TestParseError(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", "-m:1:1: empty command"},
		{"sandbox/proxy", `-m:1:14: "sandbox/proxy" ends without one of :?+-!`},
		{"sandbox/Proxy:on", `-m:1:9: 'P' in a key`},
		{"sandbox//proxy:on", `-m:1:9: '/' in a key`},
		{"sandbox/:on", `-m:1:9: ':' where a word of the key should be`},
		{":on", `-m:1:1: ':' where a word of the key should be`},
		{"/sandbox:on", `-m:1:1: '/' in a key`},
		{"sandbox/proxy =on", `-m:1:14: ' ' in a key`},
		{"sandbox/9:on", `-m:1:9: '9' in a key`},
		{"core/sandbox/read?x", `-m:1:19: value "x" after a query`},
		{"proxy/ext/unix:/a\x00b", `-m:1:18: '\x00' in a command`},
		{"proxy/ext/unix:/a\nb", `-m:1:18: '\n' in a command`},
	} {
		_, err := Parse(test.text, at)
		if err == nil || err.Error() != test.want {
			t.Errorf("%q: got error %v, want %s", test.text, err, test.want)
		}
	}
}

func TestRead(t *testing.T) {
	const file = "# a comment\n\n  sandbox/proxy:on  \n\t# another\nproxy/ext/unix:/run/tor #1\nproxy/port:9051"
	got, err := Read("f", strings.NewReader(file))
	want := []Command{
		{"sandbox/proxy", Set, "on", Pos{"f", 3, 3}},
		{"proxy/ext/unix", Set, "/run/tor #1", Pos{"f", 5, 1}},
		{"proxy/port", Set, "9051", Pos{"f", 6, 1}},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestReadError(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"sandbox/proxy:on\n\n  proxy port:1\n", "f:3:8: ' ' in a key"},
		{"sandbox/proxy:on\r\n", "f:1:17: line ends in a carriage return"},
		{"sandbox/proxy:on\x00", `f:1:17: '\x00' in a command`},
		{strings.Repeat("#", maxFile) + "\n", "f: longer than 1048576 bytes"},
	} {
		_, err := Read("f", strings.NewReader(test.text))
		if err == nil || err.Error() != test.want {
			t.Errorf("got error %v, want %s", err, test.want)
		}
	}
	if _, err := Read("f", iotest.ErrReader(io.ErrUnexpectedEOF)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v for a failed read", err)
	}
}

func TestTable(t *testing.T) {
	errBad := errors.New("bad")
	table := Table[string]{
		{Key: "a/b", Op: Set, Run: func(s *string, v string) error { *s = "set " + v; return nil }},
		{Key: "a/b", Op: Append, Run: func(s *string, v string) error { *s += v; return nil }},
		{Key: "a/c", Op: Set, Run: func(*string, string) error { return errBad }},
	}
	for _, test := range []struct{ command, want, err string }{
		{"a/b:x", "set x", ""},
		{"a/b+x", "startx", ""},
		{"a/b-x", "start", "-m:1:4: a/b takes :+, not -"},
		{"a/d:x", "start", `-m:1:1: unknown command "a/d"`},
		{"a/c:x", "start", "-m:1:5: a/c: bad"},
	} {
		c, err := Parse(test.command, at)
		if err != nil {
			t.Fatal(err)
		}
		got, message := "start", ""
		if err := table.Run(&got, c); err != nil {
			message = err.Error()
		}
		if got != test.want || message != test.err {
			t.Errorf("%s: got %q, error %q, want %q, error %q", test.command, got, message, test.want, test.err)
		}
	}
	c, _ := Parse("a/c:x", at)
	if err := table.Run(new(string), c); !errors.Is(err, errBad) {
		t.Errorf("%v does not wrap its cause", err)
	}
}

// FuzzRead holds the parser to three properties: a command printed is the text that it was read from, it parses to
// itself, and an error points into the file.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		"", "\n", "#", "sandbox/proxy:on", " \tproxy/port:9050 \n#x\nproxy/env:off", "a?", "a?b", "a/b+c\r\n",
		"allow/read,stat+/x\ncmd/exec!a\x1fb", "a//b:c", "a:\x00", "\xff:x", "A:b", "a", "/", "a/:b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Split(text, "\n")
		commands, err := Read("f", strings.NewReader(text))
		var e *Error
		if errors.As(err, &e) {
			if e.Pos.Line < 1 || e.Pos.Line > len(lines) || e.Pos.Col < 1 || e.Pos.Col > len(lines[e.Pos.Line-1])+1 {
				t.Fatalf("%v points out of the file", e)
			}
		}
		for _, c := range commands {
			if rest := lines[c.Pos.Line-1][c.Pos.Col-1:]; strings.TrimRight(rest, " \t") != c.String() {
				t.Fatalf("%q was read from %q", c, rest)
			}
			again, err := Parse(c.String(), c.Pos)
			if err != nil || again != c {
				t.Fatalf("%q parses again to %q, %v", c, again, err)
			}
		}
	})
}
