package monitor

import (
	"fmt"
	"strings"

	"syd/internal/relay"
)

// tell prints what happened to connections since the last time.
func (m *Monitor) tell() {
	if !m.config.Debug {
		return
	}
	for _, r := range m.relays {
		next, lost := r.region.Records(r.tail, func(rec relay.Record) {
			fmt.Fprintf(m.log, "syd-tor: relay %d connection %d: %s\n", r.pid, rec.Conn, describe(rec))
		})
		r.tail = next
		if lost > 0 {
			fmt.Fprintf(m.log, "syd-tor: relay %d: %d records lost: connections came faster than they could be told\n", r.pid, lost)
		}
	}
}

func describe(r relay.Record) string {
	bytes := fmt.Sprintf("%d bytes up, %d bytes down", r.Up, r.Down)
	switch r.Kind {
	case relay.Opened:
		return "opened"
	case relay.Connected:
		return "connected"
	case relay.Closed:
		return "closed, " + bytes
	case relay.Aborted:
		return fmt.Sprintf("reset, %s: %v", bytes, r.Err())
	}
	return fmt.Sprintf("unknown record %d", r.Kind)
}

// printCounters prints one line of name=value for all relays together.
func (m *Monitor) printCounters() {
	var sum relay.Counters
	for _, r := range m.relays {
		for i, n := range r.region.Shared().Snapshot() {
			sum[i] += n
		}
	}
	var b strings.Builder
	for i, name := range relay.CounterNames {
		fmt.Fprintf(&b, " %s=%d", name, sum[i])
	}
	fmt.Fprintf(m.log, "syd-tor: counters:%s\n", b.String())
}
