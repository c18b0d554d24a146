// Package policy says which system calls the confined processes may make, with which arguments and why, and
// holds the seccomp programs that libseccomp compiled from that.
//
// The policy is data: the tables in relay.go and monitor.go, and one file per architecture with what differs
// there and why. build/policygen compiles them for every architecture and address family into programs/; the
// programs of the running architecture are embedded, and [Program.Relocate] writes the addresses and descriptors
// of this process into them. Tests run every finished program against an independent reading of the tables.
//
// What the package does not do: install anything. A filter guards memory by address, so it is worth as much as the
// guard on the memory behind those addresses, and the relay's allows splice(2) between any two descriptors,
// which is harmless only while no regular file is open.
package policy

//go:generate go run ../../build/policygen -numbers .
//go:generate go run ../../build/policygen .

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Action is what a filter answers: a SECCOMP_RET_* value, seccomp(2).
type Action uint32

const (
	Allow       = Action(unix.SECCOMP_RET_ALLOW)
	KillProcess = Action(unix.SECCOMP_RET_KILL_PROCESS)
	// KillThread ends the process as well if it has one thread, as the relay has: the kernel then reports
	// SIGSYS for both (kernel/seccomp.c, __seccomp_filter).
	KillThread = Action(unix.SECCOMP_RET_KILL_THREAD)
)

// Family is the address family of the upstream, which selects the relay's program.
type Family uint8

const (
	Inet  Family = iota // TCP over IPv4
	Inet6               // TCP over IPv6
	Unix                // a UNIX stream socket
)

// Families lists every family in the order of its constants.
var Families = [...]struct {
	Name           string // of the program in programs/
	MinLen, MaxLen int    // bounds of an address's length, connect(2)
}{
	Inet:  {"inet", unix.SizeofSockaddrInet4, unix.SizeofSockaddrInet4},
	Inet6: {"inet6", unix.SizeofSockaddrInet6, unix.SizeofSockaddrInet6},
	// At least one byte of name: with none, connect(2) would bind the relay's own end to a random name.
	Unix: {"unix", 3, unix.SizeofSockaddrUnix},
}

func (f Family) String() string { return Families[f].Name }

// set is a set of families; the empty set stands for all of them.
type set uint8

func only(fs ...Family) (s set) {
	for _, f := range fs {
		s |= 1 << f
	}
	return s
}

func (s set) has(f Family) bool { return s == 0 || s&(1<<f) != 0 }

// Symbol stands for a value that is known only when the program starts.
type Symbol uint8

const (
	constant  Symbol = iota // no symbol: the value is in the table
	ListenFD                // the listening socket
	EpollFD                 // the relay's epoll instance
	AddrPtr                 // the upstream's address, in the vault
	AddrLen                 // its length
	OnePtr                  // an int of 1, in the vault
	LingerPtr               // a struct linger {1, 0}, in the vault
	ZeroPtr                 // an int of 0, in the vault
	EventPtr                // the struct epoll_event that epoll_ctl reads
	EventsPtr               // the array that epoll_wait fills
	PipePtr                 // the two ints that pipe2 fills
	PollPtr                 // the one struct pollfd of the monitor
	TimePtr                 // how long it waits
	MaskPtr                 // the signals that it does not hear meanwhile
	StatusPtr               // how a relay ended
	LinePtr                 // the line that it writes
	endOfSymbols
)

var symbolNames = [endOfSymbols]string{
	ListenFD: "ListenFD", EpollFD: "EpollFD", AddrPtr: "AddrPtr", AddrLen: "AddrLen", OnePtr: "OnePtr",
	LingerPtr: "LingerPtr", ZeroPtr: "ZeroPtr", EventPtr: "EventPtr", EventsPtr: "EventsPtr", PipePtr: "PipePtr",
	PollPtr: "PollPtr", TimePtr: "TimePtr", MaskPtr: "MaskPtr", StatusPtr: "StatusPtr", LinePtr: "LinePtr",
}

func (s Symbol) String() string { return symbolNames[s] }

// Arg is the condition on one argument. Without a symbol and without values the argument is free.
type Arg struct {
	Name string   // as the manual page calls it
	Sym  Symbol   // the value is written in at start
	Any  []uint64 // or it is one of these
	Mask uint64   // the bits that are compared, in which alone the value may have ones; 0 stands for all
}

// Free tells whether any value passes.
func (a Arg) Free() bool { return a.Sym == constant && len(a.Any) == 0 }

func free(name string) Arg            { return Arg{Name: name} }
func null(name string) Arg            { return Arg{Name: name, Any: []uint64{0}} }
func at(name string, s Symbol) Arg    { return Arg{Name: name, Sym: s} }
func is(name string, v ...uint64) Arg { return Arg{Name: name, Any: v} }

// int32s compares the low 32 bits alone, for an argument that the kernel reads as an int: it is there that the
// value ends, and a negative one may arrive sign-extended or not.
func int32s(name string, v ...int32) Arg {
	a := Arg{Name: name, Mask: 0xffffffff}
	for _, v := range v {
		a.Any = append(a.Any, uint64(uint32(v)))
	}
	return a
}

// Row is one rule: a call whose arguments all meet their conditions is allowed.
type Row struct {
	Call string // the kernel's name of the system call
	Args []Arg  // in the order of the call
	Why  string // mandatory
	In   set    // the families it belongs to
	// Dead answers the call with KillThread instead, whatever its arguments are.
	Dead bool
	// Hot raises the call in the program: a filter is read from the top for each system call.
	Hot uint8
}

// Policy is what one program enforces. A call that no row matches is answered with KillProcess.
type Policy struct {
	Name string // a family's name, or "monitor"
	Arch *Arch
	Rows []Row // sorted by call; one match is enough, and none is implied by the others
}

// Action is the answer to a call that r matches.
func (r *Row) Action() Action {
	if r.Dead {
		return KillThread
	}
	return Allow
}

// Arch is one architecture: a row here, a file with its differences and its embedded programs.
type Arch struct {
	Name  string // GOARCH
	Audit uint32 // seccomp_data.arch, linux/audit.h
	Bits  int    // width of an argument that is compared
	Relay []Difference
}

// Difference replaces rows of the common table on one architecture.
type Difference struct {
	Drop string // the call whose rows go; empty: none
	Add  []Row  // the rows that come instead
	Why  string // mandatory
}

// Arches lists every architecture that programs are compiled for.
var Arches = []*Arch{&amd64, &i386, &arm64, &arm, &riscv64}

// ArchOf returns the architecture with that GOARCH.
func ArchOf(goarch string) (*Arch, error) {
	for _, a := range Arches {
		if a.Name == goarch {
			return a, nil
		}
	}
	return nil, fmt.Errorf("policy: no system call table for architecture %s", goarch)
}

// RelayPolicy returns the policy of a relay on a for upstreams of family f.
func RelayPolicy(a *Arch, f Family) *Policy {
	rows := apply(relay, a.Relay)
	rows = slices.DeleteFunc(rows, func(r Row) bool { return !r.In.has(f) })
	return &Policy{Name: f.String(), Arch: a, Rows: rows}
}

// MonitorPolicy returns the policy of the monitor on a: the same rows everywhere.
func MonitorPolicy(a *Arch) *Policy { return &Policy{Name: "monitor", Arch: a, Rows: monitor} }

// Policies returns every policy of a: the relay's for each family, then the monitor's.
func Policies(a *Arch) []*Policy {
	var ps []*Policy
	for f := range Families {
		ps = append(ps, RelayPolicy(a, Family(f)))
	}
	return append(ps, MonitorPolicy(a))
}

func apply(common []Row, ds []Difference) []Row {
	rows := slices.Clone(common)
	for _, d := range ds {
		rows = slices.DeleteFunc(rows, func(r Row) bool { return r.Call == d.Drop })
		rows = append(rows, d.Add...)
	}
	slices.SortStableFunc(rows, func(x, y Row) int { return strings.Compare(x.Call, y.Call) })
	return rows
}

// Number returns the number of a call on a, and whether a has it.
func Number(a *Arch, call string) (int, bool) {
	col := slices.Index(Arches, a)
	i, ok := slices.BinarySearchFunc(numbers, call, func(n number, c string) int { return strings.Compare(n.call, c) })
	if !ok || col < 0 || numbers[i].nr[col] < 0 {
		return 0, false
	}
	return numbers[i].nr[col], true
}

// Symbols returns every symbol.
func Symbols() []Symbol {
	var all []Symbol
	for s := constant + 1; s < endOfSymbols; s++ {
		all = append(all, s)
	}
	return all
}

// Calls returns the name of every call in any table, sorted, each once.
func Calls() []string {
	var calls []string
	add := func(rows []Row) {
		for _, r := range rows {
			calls = append(calls, r.Call)
		}
	}
	add(relay)
	add(monitor)
	for _, a := range Arches {
		for _, d := range a.Relay {
			add(d.Add)
		}
	}
	slices.Sort(calls)
	return slices.Compact(calls)
}
