package main

import (
	"fmt"
	"slices"
	"strings"

	"syd/internal/policy"
)

// report is what an audit found.
type report struct {
	faults  []string
	summary string
}

func (r *report) fault(format string, args ...any) {
	r.faults = append(r.faults, fmt.Sprintf(format, args...))
}

// use marks rows as used, so that those that nothing uses can be told.
type use map[*allowance]bool

// allowed tells whether a row names the function on the architecture.
func (u use) allowed(rows []allowance, a *arch, function string) bool {
	for i := range rows {
		if rows[i].on(a.name) && rows[i].names(function) {
			u[&rows[i]] = true
			return true
		}
	}
	return false
}

// audit holds an executable against the tables.
func audit(file string) (*report, error) {
	m, err := load(file)
	if err != nil {
		return nil, err
	}
	r, u := &report{}, use{}
	holders := r.guards(m)
	var parts []string
	for i := range programs {
		p := &programs[i]
		whole := r.reach(m, u, slices.Concat(p.entries, p.handlers)...)
		after := new(report).reach(m, u, slices.Concat(p.confined, p.handlers)...) // its faults are whole's as well, if it is a part of it
		for _, name := range p.confined {
			if f := m.byName[name]; f == nil || whole.bodies[f] == nil {
				r.fault("%s cannot be reached from %s", name, p.entries[0])
			}
		}
		made := r.afterConfinement(p, after)
		r.beforeConfinement(p, whole, after, u)
		parts = append(parts, fmt.Sprintf("%d functions of the %s, %d of them confined with %d system calls", len(whole.bodies), p.name, len(after.bodies), made))
	}
	for _, rows := range [][]allowance{stubs, leaves, indirect, fromData} {
		for i := range rows {
			if rows[i].on(m.arch.name) && !u[&rows[i]] {
				r.fault("the row for %s is used by nothing: remove it", rows[i].functions)
			}
		}
	}
	slices.Sort(r.faults)
	r.faults = slices.Compact(r.faults)
	r.summary = fmt.Sprintf("%s: %s; %d of %d functions enter the kernel or read a counter", m.arch.name, strings.Join(parts, ", "), holders, len(m.functions))
	return r, nil
}

// guards compares the functions that hold a guarded instruction with the table, and returns how many there are.
func (r *report) guards(m *image) int {
	type use struct{ function, kind string }
	found := map[use]bool{}
	holders := map[string]bool{}
	for _, f := range m.functions {
		for _, g := range m.arch.guarded(m, f) {
			holders[f.name] = true
			found[use{f.name, g.kind}] = true
		}
	}
	listed := map[use]bool{}
	for _, g := range guards {
		if !g.on(m.arch.name) {
			continue
		}
		for name := range m.byName {
			if !g.names(name) {
				continue
			}
			for _, k := range g.kinds {
				listed[use{name, k}] = true
			}
		}
		for _, name := range g.list() {
			if !holders[name] {
				r.fault("%s holds none of %v: remove it from the table", name, g.kinds)
			}
		}
	}
	for f := range found {
		if !listed[f] {
			r.fault("%s holds %s, and the table does not say so", f.function, f.kind)
		}
	}
	return len(holders)
}

// afterConfinement holds that the policy and the system calls of the confined code are the same, call by call. It
// returns how many they are.
func (r *report) afterConfinement(p *program, g *graph) int {
	a, err := policy.ArchOf(g.image.arch.name)
	if err != nil {
		r.fault("%v", err)
		return 0
	}
	rows := map[uint32]string{}
	for _, pol := range p.policies(a) {
		for _, row := range pol.Rows {
			if n, ok := policy.Number(a, row.Call); ok && !row.Dead {
				rows[uint32(n)] = row.Call
			}
		}
	}
	made := map[uint32]bool{}
	for _, s := range g.sites() {
		switch {
		case !s.known:
			r.fault("%s: a system call at %#x whose number is not known, in confined code", g.path(s.function), s.pc)
		case rows[s.number] == "":
			r.fault("%s: system call %d has no row in the policy", g.path(s.function), s.number)
		}
		if s.known {
			made[s.number] = true
		}
	}
	for _, f := range p.apart {
		n := f.numbers[a.Name]
		if rows[n] != f.call || made[n] {
			r.fault("the row for %s, made elsewhere, is wrong or used by nothing: remove it", f.call)
		}
		delete(rows, n)
	}
	for n, call := range rows {
		if !made[n] {
			r.fault("the policy allows %s, which the %s never calls", call, p.name)
		}
	}
	return len(made)
}

// beforeConfinement holds the system calls of the rest of the code against the tables. The calls of a function that both
// parts use are the policy's.
func (r *report) beforeConfinement(p *program, whole, after *graph, u use) {
	goarch := whole.image.arch
	made := map[string]bool{}
	for _, s := range whole.sites() {
		if after.bodies[s.function] != nil {
			continue
		}
		if !s.known {
			if !u.allowed(fromData, goarch, s.function.name) {
				r.fault("%s: a system call at %#x whose number is not known", whole.path(s.function), s.pc)
			}
			continue
		}
		known := false
		for _, b := range p.before {
			if n, ok := b.numbers[goarch.name]; ok && n == s.number {
				known, made[b.call] = true, true
			}
		}
		if !known {
			r.fault("%s: system call %d is not among those that come before confinement", whole.path(s.function), s.number)
		}
	}
	for _, b := range p.before {
		if !made[b.call] {
			r.fault("the row for %s before confinement is used by nothing: remove it", b.call)
		}
	}
}
