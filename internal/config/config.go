// Package config turns the arguments and environment of syd-tor(1) into one immutable Config.
//
// What it returns is well-formed; that descriptors are open and of the right kind is package handoff's to tell.
// Every error names the option and the value at fault and carries exit.Usage.
package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"syd/internal/exit"
)

// DefaultExternal is where traffic goes when neither -o nor -u is given (syd-tor(1)): Tor's SocksPort.
const DefaultExternal = "127.0.0.1:9050"

// MaxWorkers bounds -w: each worker is a process with an epoll instance, and more than this gains nothing.
const MaxWorkers = 64

// Check says how --check prints its table.
type Check string

const (
	NoCheck   Check = ""
	CheckText Check = "text"
	CheckJSON Check = "json"
)

// Config is what one run of syd-tor was asked to do.
type Config struct {
	Help, Version bool
	Check         Check
	Debug         bool     // run without confinement and tell each connection's life
	Rules         bool     // print the seccomp rules at start
	Stats         bool     // print the counters at exit
	OwnerFD       int      // pidfd of the owner; -1: the parent process
	SocketFD      int      // UNIX socket that the listening socket arrives on
	Workers       int      // relays on the one listener
	Without       []string // confinement steps left off, by name
	Upstream      Upstream
}

// Help is the text of -h.
const Help = `usage: syd-tor [-dh] [-p pid-fd] -i socket-fd [-o addr:port] [-u unix-sock] [-w workers]

Receives a listening socket and forwards each of its connections to one external address.

  -d, --debug             run without confinement, tell each connection's life on stderr
  -h, --help              print this help
  -p, --pid-fd fd         PID descriptor of the owner, whose exit ends syd-tor (default: the parent process)
  -i, --socket-fd fd      UNIX socket to receive the listening socket from, by SCM_RIGHTS; a byte comes back: it serves
  -o, --ext-addr a:p      external IPv4 or IPv6 address and port (default 127.0.0.1:9050; IPv6 as [::1]:9050)
  -u, --ext-unix path     external UNIX stream socket, "@name" for an abstract one; wins over -o
  -w, --workers n         relays that share the listener: 1 to 64, or "auto" for one per CPU (default 1)
      --check[=json]      print which confinement steps hold on this kernel; status 0 if all do
      --without step,...  leave confinement steps off, by the names that --check prints, or all
      --stats             print the counters at exit; SIGUSR1 prints them at any time
      --version           print the version

Environment:
  SYD_TOR_DEBUG           if set, the same as -d
  SYD_TOR_RULES           if set, print the seccomp rules on stderr at start
`

// Parse reads the arguments without the program's name, and the environment through lookup (os.LookupEnv).
func Parse(args []string, lookup func(string) (string, bool)) (*Config, error) {
	c := &Config{}
	var owner, socket, external, path, workers, check string
	fs := pflag.NewFlagSet("syd-tor", pflag.ContinueOnError)
	fs.BoolVarP(&c.Debug, "debug", "d", false, "")
	fs.BoolVarP(&c.Help, "help", "h", false, "")
	fs.StringVarP(&owner, "pid-fd", "p", "", "")
	fs.StringVarP(&socket, "socket-fd", "i", "", "")
	fs.StringVarP(&external, "ext-addr", "o", DefaultExternal, "")
	fs.StringVarP(&path, "ext-unix", "u", "", "")
	fs.StringVarP(&workers, "workers", "w", "1", "")
	fs.StringVar(&check, "check", "", "")
	fs.Lookup("check").NoOptDefVal = string(CheckText)
	fs.StringSliceVar(&c.Without, "without", nil, "")
	fs.BoolVar(&c.Stats, "stats", false, "")
	fs.BoolVar(&c.Version, "version", false, "")
	if err := fs.Parse(args); err != nil {
		return nil, exit.Errorf(exit.Usage, "%s", oneLine(err.Error()))
	}
	if c.Help || c.Version {
		return c, nil
	}
	if fs.NArg() > 0 {
		return nil, exit.Errorf(exit.Usage, "operand %q: syd-tor takes none", fs.Arg(0))
	}
	_, debug := lookup("SYD_TOR_DEBUG")
	c.Debug = c.Debug || debug
	_, c.Rules = lookup("SYD_TOR_RULES")

	var err error
	if fs.Changed("check") {
		c.Check = Check(check)
		if !slices.Contains([]Check{CheckText, CheckJSON}, c.Check) {
			return nil, exit.Errorf(exit.Usage, "--check %q: neither text nor json", check)
		}
	}
	if c.OwnerFD, err = descriptor("-p", owner, fs.Changed("pid-fd")); err != nil {
		return nil, err
	}
	if c.SocketFD, err = descriptor("-i", socket, fs.Changed("socket-fd")); err != nil {
		return nil, err
	}
	if c.SocketFD < 0 && c.Check == NoCheck {
		return nil, exit.Errorf(exit.Usage, "-i is missing: the socket to receive the listening socket from")
	}
	if c.SocketFD >= 0 && c.SocketFD == c.OwnerFD {
		return nil, exit.Errorf(exit.Usage, "-i %d: the same descriptor as -p", c.SocketFD)
	}
	if c.Workers, err = parseWorkers(workers); err != nil {
		return nil, err
	}
	if fs.Changed("ext-unix") {
		c.Upstream, err = ParseUnix(path)
		return c, option(err, "-u", path)
	}
	c.Upstream, err = ParseAddr(external)
	return c, option(err, "-o", external)
}

// option names the option and value that err is about.
func option(err error, name, value string) error {
	if err == nil {
		return nil
	}
	return exit.Errorf(exit.Usage, "%s %q: %w", name, value, err)
}

func descriptor(name, value string, given bool) (int, error) {
	if !given {
		return -1, nil
	}
	fd, err := strconv.ParseUint(value, 10, 31)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, option(errors.New("too large for a descriptor"), name, value)
	case err != nil:
		return 0, option(errors.New("not a descriptor number"), name, value)
	}
	return int(fd), nil
}

func parseWorkers(value string) (int, error) {
	if value == "auto" {
		var cpus unix.CPUSet
		if err := unix.SchedGetaffinity(0, &cpus); err != nil {
			return 0, exit.Errorf(exit.OS, "-w auto: sched_getaffinity: %w", err)
		}
		return min(cpus.Count(), MaxWorkers), nil
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > MaxWorkers {
		return 0, option(fmt.Errorf("neither a number from 1 to %d nor auto", MaxWorkers), "-w", value)
	}
	return n, nil
}

// oneLine keeps a message with a newline in a value on one line.
func oneLine(s string) string {
	return strings.NewReplacer("\n", `\n`, "\r", `\r`).Replace(s)
}
