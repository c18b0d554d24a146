package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

// terminal is an interactive shell on a terminal of its own.
type terminal struct {
	t     *testing.T
	tty   *os.File
	read  chan string // closed when nothing more comes
	shown string
}

func newTerminal(t *testing.T) *terminal {
	c := exec.CommandContext(t.Context(), "bash", "--norc", "--noprofile", "-i")
	c.Env = append(os.Environ(), "PS1=$ ", "PATH="+bin+":"+os.Getenv("PATH"))
	tty, err := pty.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{t: t, tty: tty, read: make(chan string, 64)}
	// A terminal has no read deadline.
	go func() {
		defer close(x.read)
		buf := make([]byte, 4096)
		for {
			n, err := tty.Read(buf)
			if err != nil {
				return
			}
			x.read <- string(buf[:n])
		}
	}()
	// Killing the shell hangs the terminal up, which ends its jobs and then the reader.
	t.Cleanup(func() { c.Process.Kill(); c.Wait(); tty.Close() })
	return x
}

func (x *terminal) write(text string) {
	x.t.Helper()
	if _, err := x.tty.WriteString(text); err != nil {
		x.t.Fatal(err)
	}
}

// expect reads until text is shown, and forgets what was shown before its end.
func (x *terminal) expect(text string) {
	x.t.Helper()
	late := time.After(20 * time.Second)
	for {
		if _, rest, found := strings.Cut(x.shown, text); found {
			x.shown = rest
			return
		}
		select {
		case more, ok := <-x.read:
			if !ok {
				x.t.Fatalf("%q did not appear before the end; shown: %q", text, x.shown)
			}
			x.shown += more
		case <-late:
			x.t.Fatalf("%q did not appear; shown: %q", text, x.shown)
		}
	}
}

// TestInterrupt: ^C reaches the program once, and syd survives it to tell the program's status.
func TestInterrupt(t *testing.T) {
	needNamespaces(t)
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte(`n=0
trap 'n=$((n+1))' INT
echo up-and-running
while [ $n = 0 ]; do sleep .1; done
sleep .3
echo interrupted=$n
exit 5
`), 0o644); err != nil {
		t.Fatal(err)
	}
	x := newTerminal(t)
	x.write("syd -m sandbox/proxy:on sh " + script + "; echo status=$?\n")
	x.expect("up-and-running")
	x.write("\x03")
	x.expect("interrupted=1")
	x.expect("status=5")
}

// TestStop: ^Z gives the terminal back to the shell, and fg continues the program where it was.
func TestStop(t *testing.T) {
	needNamespaces(t)
	for _, stop := range []struct{ name, program string }{
		// It starts no process of its own: one that is stopped between vfork(2) and execve(2) holds its parent up, with
		// syd or without.
		{"default", `bash -c 'echo up-and-$((1+1)); while read x; do echo $x; done'`},
		// As editors do: restore the terminal, then stop.
		{"own", `bash -c 'trap "kill -STOP \$\$" TSTP; echo up-and-$((1+1)); while read x; do echo $x; done'`},
	} {
		t.Run(stop.name, func(t *testing.T) {
			x := newTerminal(t)
			x.write("syd -m sandbox/proxy:on " + stop.program + "\n")
			x.expect("up-and-2")
			x.write("\x1a")
			x.expect("Stopped")
			x.expect("$ ") // typed before it, a line could be lost
			x.write("echo back-in-$((2+2))\n")
			x.expect("back-in-4")
			x.write("fg\n")
			x.expect("sandbox/proxy:on") // the shell shows what it continues
			x.write("he''llo\n")
			x.expect("he''llo\r\nhe''llo\r\n") // the terminal's echo, then the program's
			x.write("\x04")
			x.write("echo end-$((3+3))\n")
			x.expect("end-6")
		})
	}
}

// TestStopAtStart: ^Z gives the terminal back to the shell before the program runs, too.
func TestStopAtStart(t *testing.T) {
	needNamespaces(t)
	const typed = "\x1a"
	for _, test := range []struct{ name, tor, typed, between string }{
		{"continued before syd-tor is ready", "echo tor-$((1+1)) >&2; sleep 3; printf . >&4; exec sleep 60", typed, ""},
		{"continued when syd-tor is ready", "echo tor-$((1+1)) >&2; sleep 1; printf . >&4; exec sleep 60", typed, "sleep 2; "},
		{"as syd-tor gets ready", findStage + "echo tor-$((1+1)) >&2; kill -TSTP $stage; printf . >&4; exec sleep 60", "", ""},
		// Again and again, because execve(2) of a process that has threads forgets a stop which not all of them have reached.
		{"while it is released", findStage + "echo tor-$((1+1)) >&2; printf . >&4; " +
			"while kill -TSTP $stage && ! grep -q State:.T /proc/$stage/status; do :; done; exec sleep 60", "", "sleep .5; "},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := newTerminal(t)
			x.write("PATH=" + withTor(t, test.tor) + ":$PATH\n")
			x.write("syd -m sandbox/proxy:on bash -c 'sleep .2; echo ran-$((2+2)); exit 5'; echo status=$?\n")
			x.expect("tor-2")
			x.write(test.typed)
			x.expect("Stopped")
			x.expect("$ ") // typed before it, a line could be lost
			x.write(test.between + "fg; echo status=$?\n")
			x.expect("ran-4")
			x.expect("status=5")
		})
	}
}
