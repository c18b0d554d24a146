package main

import (
	"maps"
)

// site is a place where the kernel is entered with a number.
type site struct {
	function *function
	pc       uint64
	number   uint32
	known    bool // the number is the same constant on every way that leads here
}

// state is what is known to be constant at some point.
type state map[place]uint64

// sites lists where the functions of g enter the kernel: calls of Syscall6, and the instructions themselves elsewhere.
func (g *graph) sites() []site {
	a := g.image.arch
	var list []site
	for _, f := range g.functions() {
		if f.name == syscall6 {
			continue // its number is its caller's
		}
		before := constants(g.bodies[f])
		for n, i := range g.bodies[f] {
			at := a.number
			if i.flow == calls {
				if to := g.image.at(i.target); to == nil || to.name != syscall6 {
					continue
				}
				at = a.firstArgument
			} else if i.flow != entersTheKernel {
				continue
			}
			v, known := before[n][at]
			list = append(list, site{f, i.pc, uint32(v), known})
		}
	}
	return list
}

// constants returns what is known before each instruction of a body, on every way that leads to it. Where it is
// never reached, nil.
func constants(body []inst) []state {
	index := map[uint64]int{}
	for n, i := range body {
		index[i.pc] = n
	}
	before := make([]state, len(body))
	if len(body) == 0 {
		return before
	}
	before[0] = state{}
	todo := []int{0}
	flows := func(to int, s state) {
		if to >= len(body) {
			return
		}
		if before[to] == nil {
			before[to] = maps.Clone(s)
			todo = append(todo, to)
			return
		}
		changed := false
		maps.DeleteFunc(before[to], func(p place, v uint64) bool {
			now, known := s[p]
			gone := !known || now != v
			changed = changed || gone
			return gone
		})
		if changed {
			todo = append(todo, to)
		}
	}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		i := body[n]
		after := i.apply(before[n])
		if i.flow == jumps || i.flow == branches {
			if to, here := index[i.target]; here {
				flows(to, after)
			}
		}
		ends := i.flow == jumps || i.flow == returns || i.flow == stops || i.flow == jumpsSomewhere
		if !ends || i.conditional {
			flows(n+1, after)
		}
	}
	return before
}

// apply returns what is known after the instruction.
func (i inst) apply(s state) state {
	if i.forgets {
		return state{}
	}
	after := maps.Clone(s)
	for _, w := range i.writes {
		v, known := uint64(0), false
		switch {
		case w.value != nil:
			v, known = *w.value, true
		case w.from != nil:
			v, known = s[*w.from]
		}
		// A slot is a word: what overlaps it, or what is written over more of them, is gone.
		size := max(w.size, 4)
		maps.DeleteFunc(after, func(p place, _ uint64) bool {
			if p.slot != w.to.slot {
				return false
			}
			return p == w.to || p.slot && (w.size < 0 || p.at < w.to.at+size && p.at+4 > w.to.at)
		})
		if known {
			after[w.to] = v
		}
	}
	return after
}
