package bench

import (
	"fmt"
	"time"
)

// RestRow is what a forwarder costs without traffic.
type RestRow struct {
	Peer     string
	Start    Summary  // ms from execve to the first byte echoed through it, the client waiting or trying every 200 µs
	Rest     Holding  // started, one connection served and closed
	Wakeups  uint64   // context switches at rest
	EachWake []uint64 // of that, by the processes of Rest.Each
	Watched  float64  // in so many seconds
	Asked    int      // idle connections
	Held     int
	Why      string  `json:",omitempty"` // fewer were held
	Before   Holding // the fresh process that was asked
	Idle     Holding // with the connections held
	IdleWake uint64
	IdleFor  float64
	After    Holding // the connections closed again
	Failed   string  `json:",omitempty"`
}

// restPlan is how much of it a mode does.
type restPlan struct {
	starts  int
	watch   time.Duration // all peers at once
	held    int
	heldFor time.Duration
	give    time.Duration // up opening connections
}

const forkHeld = 200 // idle connections asked of forwarders that fork for each

func (c Config) restPlan() restPlan {
	if c.Full {
		return restPlan{starts: 9, watch: 61 * time.Second, held: 10000, heldFor: 5 * time.Second, give: 20 * time.Second}
	}
	return restPlan{starts: 3, watch: 3 * time.Second, held: 2000, heldFor: time.Second, give: 4 * time.Second}
}

// restTime is what rest takes, for planning.
func restTime(c Config) time.Duration {
	if !c.Rest {
		return 0
	}
	p := c.restPlan()
	return p.watch + time.Duration(len(c.Peers))*(time.Duration(p.starts+2)*startCost+p.heldFor+p.heldFor/2+300*time.Millisecond)
}

// rest measures start, memory and wake-ups of every peer without traffic, on all cores.
func (b *bench) rest() error {
	d, err := b.erect(Setup{})
	if err != nil {
		return err
	}
	defer d.close()
	plan := b.restPlan()
	rows := make([]*RestRow, len(b.Peers))
	var standing []*instance
	b.Log("at rest: starting each peer %d times, then watching all for %v", plan.starts, plan.watch)
	for k := range b.Peers {
		p := &b.Peers[k]
		rows[k] = &RestRow{Peer: p.Name}
		var took []float64
		for n := range plan.starts {
			i, err := d.starter.start(p)
			if err != nil {
				rows[k].Failed = oneLine(err)
				break
			}
			took = append(took, float64(i.Started)/float64(time.Millisecond))
			if n == plan.starts-1 {
				standing = append(standing, i)
			} else if err := i.stop(); err != nil {
				return err
			}
		}
		rows[k].Start = Summarize(took)
	}
	row := func(name string) *RestRow {
		for _, r := range rows {
			if r.Peer == name {
				return r
			}
		}
		return nil
	}
	time.Sleep(200 * time.Millisecond) // what follows a start dies away
	for _, i := range standing {
		if row(i.peer.Name).Rest, err = i.group.Look(); err != nil {
			return err
		}
	}
	began := time.Now()
	time.Sleep(plan.watch)
	watched := time.Since(began).Seconds()
	for _, i := range standing {
		now, err := i.group.Look()
		if err != nil {
			return err
		}
		r := row(i.peer.Name)
		r.Wakeups, r.Watched = now.Switches-r.Rest.Switches, watched
		for n := range min(len(now.Each), len(r.Rest.Each)) {
			r.EachWake = append(r.EachWake, now.Each[n].Switches-r.Rest.Each[n].Switches)
		}
		if err := i.stop(); err != nil {
			return err
		}
	}
	for k, r := range rows {
		if r.Failed == "" {
			if err := b.holdIdle(d, &b.Peers[k], r, plan); err != nil {
				return err
			}
		}
		b.res.Rest = append(b.res.Rest, *r)
	}
	return nil
}

// fitting is how many connections a forwarder with two descriptors for each can hold.
func (b *bench) fitting(asked int) (n int, why string) {
	limit := int(b.res.Machine.Descriptors)
	if fit := (limit - 64) / 2; fit < asked {
		return fit, fmt.Sprintf("hard limit of %d descriptors per process", limit)
	}
	return asked, ""
}

// holdIdle opens idle connections through a fresh instance and looks at it.
func (b *bench) holdIdle(d *stand, p *Peer, r *RestRow, plan restPlan) error {
	r.Asked = plan.held
	want, why := b.fitting(plan.held)
	r.Why = why
	if p.Forks {
		want, r.Why = forkHeld, "a process for each: not asked for more"
	}
	b.Log("at rest: %s with %d idle connections", p.Name, want)
	i, err := d.starter.start(p)
	if err != nil {
		r.Failed = oneLine(err)
		return nil
	}
	if r.Before, err = i.group.Look(); err != nil {
		return err
	}
	s, err := d.load.do(Op{Kind: Hold, Addr: i.addr, Conns: want, Window: plan.give})
	if err != nil {
		return err
	}
	if r.Held = int(s.Done); s.Err != "" {
		r.Why = s.Err
	}
	time.Sleep(plan.heldFor / 2) // timers and deferred work of the opening
	if r.Idle, err = i.group.Look(); err != nil {
		return err
	}
	before, err := i.group.Switches()
	if err != nil {
		return err
	}
	began := time.Now()
	time.Sleep(plan.heldFor)
	after, err := i.group.Switches()
	if err != nil {
		return err
	}
	r.IdleWake, r.IdleFor = after-before, time.Since(began).Seconds()
	if _, err := d.load.do(Op{Kind: Release}); err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond)
	if r.After, err = i.group.Look(); err != nil {
		return err
	}
	return i.stop()
}
