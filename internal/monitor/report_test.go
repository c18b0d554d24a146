package monitor

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"syd/internal/config"
	"syd/internal/exit"
	"syd/internal/relay"
	"syd/internal/vault"
)

// TestHostilePage fills what a relay shares with the monitor with every kind of nonsense: the monitor must go on, in
// bounded time, with output that is bounded too. An honest page is the control.
func TestHostilePage(t *testing.T) {
	upstream, err := config.ParseAddr("127.0.0.1:9050")
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.New(upstream.Sockaddr())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(listener)
	region, err := relay.NewRegion(relay.Plan{Listener: listener, Upstream: upstream, Vault: v, Descriptors: 64, Records: true})
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	page := unsafe.Slice((*byte)(unsafe.Pointer(region.Shared())), unsafe.Sizeof(relay.Shared{}))
	maps := region.Maps()
	ring := maps[len(maps)-1]
	if len(ring) < relay.RingSize {
		t.Fatalf("the last mapping has %d bytes: not the ring", len(ring))
	}

	const pid = 7
	out, err := unix.MemfdCreate("stderr", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(out)
	m := &Monitor{config: &config.Config{Debug: true}, out: int32(out), relays: []*child{{pid: pid, region: region, news: region.Reader()}}}
	// look returns all that the monitor says, and then why the relay ended.
	look := func() (log, why string, code exit.Code) {
		t.Helper()
		if err := unix.Ftruncate(out, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Seek(out, 0, unix.SEEK_SET); err != nil {
			t.Fatal(err)
		}
		m.tell()
		m.printCounters()
		text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", out))
		if err != nil {
			t.Fatal(err)
		}
		kit.line.n = 0
		code = m.explain(m.relays[0], unix.WaitStatus(3<<8))
		return string(text), string(kit.line.text[:kit.line.n]), code
	}
	shared := region.Shared()
	shared.Stage, shared.Fault, shared.FaultErrno = uint32(relay.Faulted), uint32(relay.FaultAccept), uint32(unix.EBADF)
	if _, why, code := look(); code != exit.OS || why != "relay 7: accept4: bad file descriptor" {
		t.Errorf("control: %d, %s", code, why)
	}

	// An owner that is there, and one that is gone: what a pidfd tells by polling, a pipe does too.
	var owner [2]int
	if err := unix.Pipe2(owner[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(owner[0])
	defer unix.Close(owner[1])
	m.owner, shared.Stage = int32(owner[0]), uint32(relay.OwnerGone)
	if _, why, code := look(); code != exit.Software || why != "relay 7 ended, and its owner did not" {
		t.Errorf("an owner that is there: %d, %s", code, why)
	}
	if _, err := unix.Write(owner[1], []byte{0}); err != nil {
		t.Fatal(err)
	}

	random := rand.NewChaCha8([32]byte{1})
	for round := range 9 {
		switch round % 3 {
		case 0: // all at random
			random.Read(page)
			random.Read(ring)
		case 1: // all ones: odd sequence, last kind, highest errno
			for i := range page {
				page[i] = 0xff
			}
			for i := range ring {
				ring[i] = 0xff
			}
		case 2: // the counter of records went backwards
			clear(page)
			clear(ring)
		}
		shared.Stage = uint32(round % 7)
		log, why, code := look()
		if (code == exit.OK) != (relay.Stage(shared.Stage) == relay.OwnerGone) || (code == exit.OK) != (why == "") {
			t.Fatalf("round %d: code %d, %q in stage %d", round, code, why, shared.Stage)
		}
		if len(why) > 200 {
			t.Fatalf("round %d: %d bytes of error", round, len(why))
		}
		if lines := strings.Count(log, "\n"); lines > relay.RingSize+2 {
			t.Fatalf("round %d: %d lines", round, lines)
		}
		for line := range strings.Lines(log) {
			if !strings.HasPrefix(line, "syd-tor: ") || strings.ContainsFunc(line, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }) {
				t.Fatalf("round %d: %q", round, line)
			}
		}
	}
}

// TestLine holds the monitor's own formatting against package fmt.
func TestLine(t *testing.T) {
	l := &kit.line
	said := func() string { return string(l.text[:l.n]) }
	for shift := range 64 {
		for _, n := range []uint64{1 << shift, 1<<shift - 1, 1<<shift + 9, ^uint64(0) >> shift} {
			l.n = 0
			if l.num(n); said() != fmt.Sprint(n) {
				t.Errorf("%d is written %s", n, said())
			}
		}
	}
	for _, e := range []unix.Errno{unix.EPERM, unix.ECONNREFUSED, unix.EHWPOISON, unix.EHWPOISON + 1, 9999} {
		l.n = 0
		if l.errno(uint32(e)); said() != e.Error() {
			t.Errorf("errno %d is written %s, want %s", int(e), said(), e.Error())
		}
	}
	l.begin()
	for range lineSize {
		l.str("12345678")
	}
	if l.n != lineSize-1 || !strings.HasPrefix(said(), "syd-tor: 12345678") {
		t.Errorf("%d bytes in a line of %d: %.20s", l.n, lineSize, said())
	}
}

// TestLineOnSlowStderr: a full stderr that nobody reads costs the monitor a second once, whether it blocks or not, and
// the lines that come meanwhile; the next one comes whole again.
func TestLineOnSlowStderr(t *testing.T) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	size, err := unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, unix.Getpagesize())
	if err != nil {
		t.Fatal(err)
	}
	write := func() {
		kit.line.begin()
		for range lineSize {
			kit.line.str("x")
		}
		kit.line.end(int32(p[1]))
	}
	// Room for half a line: the kernel takes what is shorter than PIPE_BUF whole or not at all, pipe(7).
	full := make([]byte, size-lineSize/2)
	if _, err := unix.Write(p[1], full); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for range 5 {
		write()
	}
	if d := time.Since(began); d < time.Second || d > 2*time.Second && os.Getenv("SYD_TEST_EMULATED") == "" {
		t.Errorf("5 lines that nobody read took %v, want one second", d)
	}
	got, err := unix.Read(p[0], make([]byte, 2*size))
	if err != nil || got != len(full) {
		t.Fatalf("%d bytes arrived, %v: the lines should have been given up whole", got, err)
	}
	write()
	if got, err = unix.Read(p[0], make([]byte, 2*size)); err != nil || got != lineSize {
		t.Fatalf("%d bytes of a line of %d arrived: %v", got, lineSize, err)
	}
}

// TestPause waits for a descriptor, which the owner's pidfd stands for, and for time alone.
func TestPause(t *testing.T) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	if r := pause(int32(p[0]), 0, 1000); r != 0 {
		t.Errorf("nothing to read: %d", r)
	}
	unix.Close(p[1])
	if r := pause(int32(p[0]), longest, 0); r != 1 {
		t.Errorf("end of file: %d", r)
	}
	if r := pause(-1, 0, 1000); r != 0 {
		t.Errorf("no descriptor: %d", r)
	}
}

// TestUnblocked: two writers share a pipe, and one of them waits for room as it did before.
func TestUnblocked(t *testing.T) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	own := unblocked(p[1])
	defer unix.Close(own)
	if own == p[1] {
		t.Fatal("no descriptor of its own")
	}
	for fd, want := range map[int]int{own: unix.O_NONBLOCK, p[1]: 0} {
		if got, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || got&unix.O_NONBLOCK != want {
			t.Errorf("flags %#x, %v", got, err)
		}
	}
	if n, err := unix.Write(own, []byte("line")); n != 4 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := unix.Read(p[0], make([]byte, 9)); n != 4 || err != nil {
		t.Fatal(n, err)
	}
	file, err := unix.MemfdCreate("file", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(file)
	if got := unblocked(file); got != file {
		t.Error("a file was opened anew, at its beginning")
	}
}
