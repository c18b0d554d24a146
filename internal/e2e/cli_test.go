package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// The scripts in testdata say what each command line is answered with. Beside testscript's own commands they have:
//
//	give KIND...                   the next commands inherit descriptors 3, 4, ... of these kinds; see kinds
//	ends STATUS LINE PROGRAM ...   the program ends with STATUS, prints nothing, and on stderr "program: LINE" alone
//	prints STATUS PROGRAM ...      the program ends with STATUS; stdout and stderr check what it printed
func TestCommandLine(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			g := &gifts{}
			env.Values[giftsKey{}] = g
			env.Defer(g.close)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"give":   give,
			"ends":   ends,
			"prints": prints,
		},
	})
}

// gifts are the descriptors that a program under test inherits, and those that must stay open meanwhile.
type gifts struct {
	files []*os.File
	kept  []*os.File
}

type giftsKey struct{}

func (g *gifts) close() {
	for _, f := range append(g.files, g.kept...) {
		f.Close()
	}
	g.files, g.kept = nil, nil
}

func (g *gifts) add(fd int, name string) { g.files = append(g.files, os.NewFile(uintptr(fd), name)) }

// kinds says what `give` can give.
var kinds = map[string]func(g *gifts) error{
	// A PID descriptor of the tests' own process, which goes on.
	"pidfd": func(g *gifts) error {
		fd, err := unix.PidfdOpen(os.Getpid(), unix.PIDFD_NONBLOCK)
		g.add(fd, "pidfd")
		return err
	},
	"file": func(g *gifts) error {
		f, err := os.Open("/etc/passwd")
		g.files = append(g.files, f)
		return err
	},
	"tcp": func(g *gifts) error { return inet(&g.files, unix.SOCK_STREAM, false) },
	// UNIX sockets, by what has happened at the other end.
	"silent":      func(g *gifts) error { return pair(g) },
	"closed":      func(g *gifts) error { return pair(g, nothing) },
	"without":     func(g *gifts) error { return pair(g, send()) },
	"two":         func(g *gifts) error { return pair(g, send(stream, stream)) },
	"datagram":    func(g *gifts) error { return pair(g, send(datagram)) },
	"regularfile": func(g *gifts) error { return pair(g, send(regular)) },
	"connected":   func(g *gifts) error { return pair(g, send(connected)) },
}

// pair gives one end of a pair of UNIX sockets. The other stays open unless something is done with it.
func pair(g *gifts, do ...func(fd int) error) error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	g.add(fds[0], "socket")
	peer := os.NewFile(uintptr(fds[1]), "peer")
	if len(do) == 0 {
		g.kept = append(g.kept, peer)
		return nil
	}
	defer peer.Close()
	return do[0](fds[1])
}

func nothing(int) error { return nil }

// send makes the files and passes them on, all in one message.
func send(make ...func(*[]*os.File) error) func(int) error {
	return func(fd int) error {
		var files []*os.File
		var fds []int
		for _, m := range make {
			if err := m(&files); err != nil {
				return err
			}
		}
		for _, f := range files {
			defer f.Close()
			fds = append(fds, int(f.Fd()))
		}
		return unix.Sendmsg(fd, []byte{0}, unix.UnixRights(fds...), nil, 0)
	}
}

func stream(files *[]*os.File) error   { return inet(files, unix.SOCK_STREAM, true) }
func datagram(files *[]*os.File) error { return inet(files, unix.SOCK_DGRAM, true) }

func regular(files *[]*os.File) error {
	f, err := os.Open("/etc/passwd")
	*files = append(*files, f)
	return err
}

func connected(files *[]*os.File) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	f, err := c.(*net.TCPConn).File()
	*files = append(*files, f)
	return err
}

func inet(files *[]*os.File, kind int, bind bool) error {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	*files = append(*files, os.NewFile(uintptr(fd), "socket"))
	if !bind {
		return nil
	}
	return unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
}

func give(ts *testscript.TestScript, neg bool, args []string) {
	g := ts.Value(giftsKey{}).(*gifts)
	g.close()
	for _, kind := range args {
		make, ok := kinds[kind]
		if !ok || neg {
			ts.Fatalf("usage: give kind...; there is no kind %q", kind)
		}
		ts.Check(make(g))
	}
}

// play runs the program in args and returns its exit status and output.
func play(ts *testscript.TestScript, args []string) (got int, stdout, stderr string) {
	var out, err bytes.Buffer
	cmd := exec.Command(program(args[0]), args[1:]...)
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = append(cleanEnviron(), "SYD_TOR_DEBUG=1") // what is tested here comes before any confinement
	cmd.Stdout, cmd.Stderr = &out, &err
	cmd.ExtraFiles = ts.Value(giftsKey{}).(*gifts).files
	cmd.WaitDelay = patience
	if e := cmd.Run(); cmd.ProcessState == nil {
		ts.Fatalf("%v", e)
	}
	return status(cmd.ProcessState), out.String(), err.String()
}

func ends(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 || neg {
		ts.Fatalf("usage: ends status line program [argument...]")
	}
	want := fmt.Sprintf("%s: %s\n", args[2], args[1])
	got, stdout, stderr := play(ts, args[2:])
	if strconv.Itoa(got) != args[0] || stdout != "" || stderr != want {
		ts.Fatalf("status %d, stdout %q, stderr %q;\nwant status %s, no stdout, stderr %q", got, stdout, stderr, args[0], want)
	}
}

func prints(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: prints status program [argument...]")
	}
	got, stdout, stderr := play(ts, args[1:])
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("status %d, stdout %q, stderr %q; want status %s", got, stdout, stderr, args[0])
	}
	fmt.Fprint(ts.Stdout(), stdout)
	fmt.Fprint(ts.Stderr(), stderr)
}
