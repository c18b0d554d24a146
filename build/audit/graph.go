package main

import (
	"maps"
	"slices"
	"strings"
)

// graph is what can be reached from a root by calls, and by jumps out of a function.
type graph struct {
	image  *image
	bodies map[*function][]inst
	caller map[*function]*function // the one that it was first reached from; nil for a root
}

// reach walks from the roots. A stub ends a path.
func (r *report) reach(m *image, u use, roots ...string) *graph {
	g := &graph{m, map[*function][]inst{}, map[*function]*function{}}
	var todo []*function
	for _, root := range roots {
		f := m.byName[root]
		if f == nil {
			r.fault("%s: no such function, and the audit begins there", root)
			continue
		}
		g.caller[f] = nil
		todo = append(todo, f)
	}
	for len(todo) > 0 {
		f := todo[0]
		todo = todo[1:]
		body, err := m.body(f)
		if err != nil {
			r.fault("%s: %v", g.path(f), err)
		}
		g.bodies[f] = body
		enters := func(i inst) {
			to := m.at(i.target)
			switch {
			case to == nil:
				r.fault("%s: %s leads to %#x, where no function is", g.path(f), i.text, i.target)
				return
			case u.allowed(stubs, m.arch, to.name):
				return
			case !strings.HasPrefix(to.name, ours) && !u.allowed(leaves, m.arch, to.name):
				r.fault("%s → %s: a path out of our own code", g.path(f), to.name)
				return
			}
			if _, seen := g.caller[to]; !seen {
				g.caller[to] = f
				todo = append(todo, to)
			}
		}
		for _, i := range body {
			switch i.flow {
			case calls:
				enters(i)
			case jumps, branches:
				if m.at(i.target) != f {
					enters(i)
				}
			case callsSomewhere, jumpsSomewhere:
				if !u.allowed(indirect, m.arch, f.name) {
					r.fault("%s: %s goes to an address that is computed", g.path(f), i.text)
				}
			}
		}
		if err == nil && g.runsOff(body, u) {
			r.fault("%s: runs off its end", g.path(f))
		}
	}
	return g
}

// runsOff tells whether the last instruction of a body, apart from padding, goes on: only a stub does not return.
func (g *graph) runsOff(body []inst, u use) bool {
	for _, i := range slices.Backward(body) {
		switch {
		case i.padding:
		case i.flow == calls:
			to := g.image.at(i.target)
			return to == nil || !u.allowed(stubs, g.image.arch, to.name)
		case i.conditional:
			return true
		default:
			return i.flow != jumps && i.flow != returns && i.flow != stops && i.flow != jumpsSomewhere
		}
	}
	return true
}

// path tells how a function is reached.
func (g *graph) path(f *function) string {
	var names []string
	for ; f != nil; f = g.caller[f] {
		names = append(names, f.name)
	}
	slices.Reverse(names)
	return strings.Join(names, " → ")
}

// functions lists what was reached, sorted by address.
func (g *graph) functions() []*function {
	return slices.SortedFunc(maps.Keys(g.bodies), func(a, b *function) int { return int(int64(a.addr - b.addr)) })
}
