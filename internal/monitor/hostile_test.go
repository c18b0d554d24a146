package monitor

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"syd/internal/config"
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
	var log bytes.Buffer
	m := &Monitor{config: &config.Config{Debug: true}, log: &log, relays: []*child{{pid: pid, region: region}}}
	look := func() error {
		log.Reset()
		m.tell()
		m.printCounters()
		return m.explain(end{pid, unix.WaitStatus(3 << 8)})
	}
	shared := region.Shared()
	shared.Stage, shared.Fault, shared.FaultErrno = uint32(relay.Faulted), uint32(relay.FaultAccept), uint32(unix.EBADF)
	if err := look(); err == nil || err.Error() != "relay 7: accept4: bad file descriptor" {
		t.Errorf("control: %v", err)
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
			m.relays[0].tail = uint32(round) << 20
			clear(page)
			clear(ring)
		}
		shared.Stage = uint32(round % 7)
		err := look()
		if err == nil && relay.Stage(shared.Stage) != relay.OwnerGone {
			t.Fatalf("round %d: an end without an error in stage %d", round, shared.Stage)
		}
		if err != nil && len(err.Error()) > 200 {
			t.Fatalf("round %d: %d bytes of error", round, len(err.Error()))
		}
		if lines := strings.Count(log.String(), "\n"); lines > relay.RingSize+2 {
			t.Fatalf("round %d: %d lines", round, lines)
		}
		for line := range strings.Lines(log.String()) {
			if !strings.HasPrefix(line, "syd-tor: ") || strings.ContainsFunc(line, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }) {
				t.Fatalf("round %d: %q", round, line)
			}
		}
	}
}
