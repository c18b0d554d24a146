package guest

import (
	"bytes"
	"strings"
	"testing"

	"syd/testvm/event"
)

// TestCollect: the end marker counts only if it is this plan's, the last event, and nothing was lost before it.
func TestCollect(t *testing.T) {
	plan := &event.Plan{Nonce: "n", Programs: []event.Program{{Name: "p"}}}
	start, exit, end := event.Event{Kind: event.Start, Program: "p"}, event.Event{Kind: event.Exit, Program: "p"}, event.Event{Kind: event.End, Nonce: "n", Count: 1}
	for _, c := range []struct {
		name   string
		events []event.Event
		end    bool
		want   string // part of the error
	}{
		{"whole", []event.Event{start, exit, end}, true, ""},
		{"no end", []event.Event{start, exit}, false, ""},
		{"another plan's end", []event.Event{start, exit, {Kind: event.End, Nonce: "m", Count: 1}}, false, "not this plan's"},
		{"an end too early", []event.Event{start, {Kind: event.End, Nonce: "n"}}, false, "not this plan's"},
		{"an event behind the end", []event.Event{start, end, exit}, true, "after the end marker"},
		{"another plan's program", []event.Event{{Kind: event.Start, Program: "q"}, end}, true, "which the plan lacks"},
		{"PID 1 gives up", []event.Event{{Kind: event.Fatal, Data: []byte("mount")}}, false, "init: mount"},
	} {
		var b bytes.Buffer
		w := event.Writer{W: &b}
		for _, e := range c.events {
			if err := w.Send(e); err != nil {
				t.Fatal(err)
			}
		}
		rep := &Report{Runs: map[string]*Run{"p": new(Run)}}
		got, err := rep.collect(&b, plan)
		if got != c.end || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: end %v, %v, want %v, %q", c.name, got, err, c.end, c.want)
		}
	}
}
