//go:build fakekernel

package relay

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// settled goes on until nothing can happen any more and checks what is left: no client waits while a relay has
// room, no connection is open, no descriptor or pipe is missing, and the owner's exit ends each relay.
func (k *world) settled() error {
	if err := k.run(func() bool { return false }); err != nil {
		return err
	}
	for _, p := range k.processes {
		// Far ends still hold connections and pipes.
		if len(k.backlog) > 0 && !p.exited && (!p.paused || p.makeRoom()) {
			return fmt.Errorf("clients wait and a relay has room: %s", k.state())
		}
	}
	k.released = true
	if err := k.run(func() bool { return false }); err != nil {
		return err
	}
	if len(k.backlog) > 0 {
		return fmt.Errorf("clients wait for ever: %s", k.state())
	}
	for _, p := range k.processes {
		if p.exited {
			continue
		}
		c := &p.counters
		open := 0
		for _, f := range p.fds {
			if f != nil {
				open++
			}
		}
		spare := 0
		if p.spare != none {
			spare = 1
		}
		switch {
		case c[Open] != 0:
			return fmt.Errorf("stuck: %s", k.state())
		case c[Accepted] != c[Finished]+c[Refused]+c[Reset]:
			return fmt.Errorf("accepted %d, finished %d, refused %d, reset %d", c[Accepted], c[Finished], c[Refused], c[Reset])
		case c[Pipes] != c[PipesIdle]:
			return fmt.Errorf("%d pipes, %d idle", c[Pipes], c[PipesIdle])
		case open != firstFD+spare+2*int(c[Pipes]) || int(p.left) != p.limit-open:
			return fmt.Errorf("%d descriptors open, %d left of %d: %s", open, p.left, p.limit, k.state())
		}
		p.ownerEnd = true
		k.watch(p, p.fds[OwnerFD])
	}
	if err := k.run(func() bool { return false }); err != nil {
		return err
	}
	for _, p := range k.processes {
		if !p.exited || Stage(p.shared.Stage) != OwnerGone && Stage(p.shared.Stage) != Faulted {
			return fmt.Errorf("at the owner's exit: exited %v, stage %d", p.exited, p.shared.Stage)
		}
	}
	return nil
}

func (k *world) close() {
	for _, p := range k.processes {
		p.stop()
		p.region.Close()
	}
}

// script returns a maker of sockets whose far ends do anything.
func (k *world) script(trouble, stalls float64) {
	sizes := []int{0, 1, 20, 300, 5000, 300_000, 3 << 20}
	numbers := [2]int{}
	k.make = func(up bool) *socket {
		s := &socket{up: up, resetAt: -1, urgentAt: -1, state: connected, proof: k.processes[0].clientProof}
		s.name = fmt.Sprintf("client%d", numbers[0])
		if up {
			s.name, s.state, s.proof = fmt.Sprintf("up%d", numbers[1]), fresh, k.processes[0].upstreamProof
			s.late = k.chance(.2)
			s.refuses = k.chance(trouble)
			numbers[1]++
		} else {
			s.stays = k.chance([]float64{.2, .8}[k.IntN(2)])
			numbers[0]++
		}
		s.stalls = k.chance(stalls)
		s.total = k.IntN(sizes[k.IntN(len(sizes))] + 1)
		s.room = 1 + k.IntN(sizes[1+k.IntN(len(sizes)-1)])
		switch {
		case k.chance(trouble):
			s.resetAt = k.IntN(s.total + 1)
		case k.chance(trouble / 3):
			s.urgentAt = k.IntN(s.total + 1)
		}
		return s
	}
}

// randomWorld draws all there is to draw.
func randomWorld(t testing.TB, r *rand.Rand) *world {
	limit := []int{16, 17, 18, 20, 24, 31, 60}[r.IntN(7)]
	external := tcp
	if r.IntN(2) == 0 {
		external = local
	}
	k := newWorld(t, r, 1+r.IntN(3), limit, external)
	k.clients = 1 + r.IntN(30)
	k.rate = []float64{0, .01, .05, .3}[r.IntN(4)]
	k.chaos = r.IntN(4000)
	k.slow = k.chance(.3)
	k.script([]float64{0, .1, .3}[r.IntN(3)], []float64{0, .1, .8}[r.IntN(3)])
	return k
}

// The search for new worlds: -fake.seed 3000 -fake.worlds 100000 takes minutes. What go test -fuzz adds to nosplit
// functions takes them over the linker's limit of stack, so there is no fuzz target.
var (
	firstSeed = flag.Uint64("fake.seed", 0, "seed of the first world")
	worlds    = flag.Uint64("fake.worlds", 3000, "number of worlds")
)

// TestFakeKernel runs a range of seeds, which is fixed unless another is asked for.
func TestFakeKernel(t *testing.T) {
	count := *worlds
	if testing.Short() {
		count = min(count, 300)
	}
	for seed := *firstSeed; seed < *firstSeed+count; seed++ {
		k := randomWorld(t, rand.New(rand.NewPCG(seed, 0)))
		if err := k.settled(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		k.close()
	}
}

// TestFullRelays has relays whose pipes take the last descriptors, because far ends do not read, while clients come
// one by one: each gets to a relay that has room.
func TestFullRelays(t *testing.T) {
	for seed := range uint64(1500) {
		k := newWorld(t, rand.New(rand.NewPCG(seed, 1)), 2, 16, tcp)
		k.clients, k.slow = 4+k.IntN(9), true
		k.script(0, .9)
		if err := k.settled(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		k.close()
	}
}

// TestEachCallFails runs one world again and again, and lets each of its calls fail in turn, with each errno that
// the call may have.
func TestEachCallFails(t *testing.T) {
	run := func(failAt int, with unix.Errno) (*world, error) {
		r := rand.New(rand.NewPCG(1, 2))
		k := newWorld(t, r, 2, 20, tcp)
		k.clients, k.failAt, k.with = 6, failAt, with
		k.script(.1, 0)
		err := k.settled()
		k.close()
		return k, err
	}
	k, err := run(-1, 0)
	if err != nil {
		t.Fatal(err)
	}
	calls, failed := k.calls, 0
	errnos := []unix.Errno{unix.EINTR, unix.EAGAIN, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS, unix.ENOSPC, unix.EPERM,
		unix.EIO, unix.ECONNABORTED, unix.ECONNREFUSED, unix.EADDRNOTAVAIL, unix.EBUSY, unix.ENOPROTOOPT}
	for at := range calls {
		for _, e := range errnos {
			k, err := run(at, e)
			if err != nil {
				t.Fatalf("call %d with %v: %v", at, e, err)
			}
			if k.failed {
				failed++
			}
		}
	}
	if failed < calls {
		t.Errorf("%d faults in %d calls", failed, calls)
	}
}

// besideBulk has a transfer that never lets the relay sleep, and a connect that finds the backlog full so many times. It
// runs until that client is gone.
func besideBulk(t *testing.T, full int) *world {
	k := newWorld(t, rand.New(rand.NewPCG(1, 1)), 1, 60, tcp)
	t.Cleanup(k.close)
	k.clients = 2
	k.make = func(up bool) *socket {
		s := &socket{up: up, resetAt: -1, urgentAt: -1, state: connected, proof: true, room: 1 << 30}
		switch {
		case up:
			s.state, s.busy = fresh, min(len(k.sockets)/2, 1)*full
		case len(k.sockets) == 0:
			s.total = math.MaxInt
		}
		return s
	}
	if err := k.run(func() bool { return len(k.sockets) == 4 && k.sockets[2].gone && k.sockets[3].gone }); err != nil {
		t.Fatal(err)
	}
	// The most that 32 bits count is over before a busy relay gives up: there the end of its patience is timed.
	if bulk := k.sockets[0]; bulk.read == bulk.total && (full == 1 || strconv.IntSize == 64) {
		t.Errorf("all %d bytes were transferred by then", bulk.total)
	}
	return k
}

// TestBulkAndRetry: the connect is tried again while the transfer goes on.
func TestBulkAndRetry(t *testing.T) {
	if c := &besideBulk(t, 1).processes[0].counters; c[Retries] != 1 || c[Refused] != 0 {
		t.Errorf("%d retries, %d refused", c[Retries], c[Refused])
	}
}

// TestBulkAndNoRetry: a client whose backlog stays full is given up, though no wait ever lasts as long as a clock needs.
func TestBulkAndNoRetry(t *testing.T) {
	if c := &besideBulk(t, 1<<30).processes[0].counters; c[Refused] != 1 || c[Wakeups] < busyWaits*retryTicks {
		t.Errorf("%d refused after %d waits", c[Refused], c[Wakeups])
	}
}
