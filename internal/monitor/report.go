package monitor

import (
	"fmt"
	"io"
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

// printCounters prints one line of name=value for all relays together, and where there are several, before it
// one for each.
func (m *Monitor) printCounters() {
	var sum relay.Counters
	var b strings.Builder
	for _, r := range m.relays {
		c := r.region.Shared().Snapshot()
		for i, n := range c {
			sum[i] += n
		}
		if len(m.relays) > 1 {
			fmt.Fprintf(&b, "syd-tor: relay %d:%s\n", r.pid, format(c))
		}
	}
	fmt.Fprintf(&b, "syd-tor: counters:%s\n", format(sum))
	io.WriteString(m.log, b.String())
}

func format(c relay.Counters) string {
	var b strings.Builder
	for i, name := range relay.CounterNames {
		fmt.Fprintf(&b, " %s=%d", name, c[i])
	}
	return b.String()
}
