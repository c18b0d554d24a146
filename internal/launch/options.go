package launch

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"syd/internal/command"
	"syd/internal/exit"
)

// Options is syd's command line, as it was given.
type Options struct {
	Help, Version bool
	Sources       []Source // -m and -P, in their order
	Env           []string // -E, VAR=VALUE each
	Program       []string // the program and its arguments; never empty unless Help or Version
}

// Source is one -m or -P.
type Source struct {
	Flag rune // 'm' or 'P'
	Text string
}

// sources collects two options into one list: a later command overrides an earlier one, whatever option it came by.
type sources struct {
	list *[]Source
	flag rune
	kind string
}

func (s sources) String() string { return "" }
func (s sources) Type() string   { return s.kind }
func (s sources) Set(text string) error {
	*s.list = append(*s.list, Source{s.flag, text})
	return nil
}

func flags(o *Options) *pflag.FlagSet {
	f := pflag.NewFlagSet("syd", pflag.ContinueOnError)
	f.SetInterspersed(false) // what follows the program's name is the program's
	f.SortFlags = false
	f.SetOutput(io.Discard) // main prints the error, once
	f.BoolVarP(&o.Help, "help", "h", false, "print this help")
	f.BoolVarP(&o.Version, "version", "V", false, "print the version")
	f.VarP(sources{&o.Sources, 'm', "command"}, "magic", "m", "run one command (may be repeated)")
	f.VarP(sources{&o.Sources, 'P', "file"}, "file", "P", "run the commands in a file, one on each line, # for comments (may be repeated)")
	f.StringArrayVarP(&o.Env, "env", "E", nil, "set a variable of the program's environment, `VAR=VALUE` (may be repeated)")
	return f
}

// ParseArgs parses syd's arguments, without its name. Its errors have code Usage and name option and value.
func ParseArgs(args []string) (Options, error) {
	var o Options
	f := flags(&o)
	if err := f.Parse(args); err != nil {
		return o, exit.Errorf(exit.Usage, "%w; see syd -h", err)
	}
	if o.Help || o.Version {
		return o, nil
	}
	for _, v := range o.Env {
		if i := strings.IndexByte(v, '='); i <= 0 {
			return o, exit.Errorf(exit.Usage, "-E %q: want VAR=VALUE", v)
		}
	}
	o.Program = f.Args()
	if len(o.Program) == 0 {
		return o, exit.Errorf(exit.Usage, "no program to run; see syd -h")
	}
	return o, nil
}

// Settings runs the commands of all sources on the defaults. Its errors have code Usage and name the source, the
// line and the column.
func (o Options) Settings() (Settings, error) {
	s := Defaults()
	nth := 0
	for _, source := range o.Sources {
		var commands []command.Command
		var err error
		if source.Flag == 'm' {
			nth++
			commands = make([]command.Command, 1)
			commands[0], err = command.Parse(source.Text, command.Pos{Source: "-m", Line: nth, Col: 1})
		} else {
			commands, err = readFile(source.Text)
		}
		if err != nil {
			return s, exit.Errorf(exit.Usage, "%w", err)
		}
		for _, c := range commands {
			if err := Commands.Run(&s, c); err != nil {
				return s, exit.Errorf(exit.Usage, "%w", err)
			}
			s.Others = s.Others || c.Key != proxyKey
		}
	}
	return s, nil
}

func readFile(name string) ([]command.Command, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("-P: %w", err)
	}
	defer f.Close()
	commands, err := command.Read(name, f)
	if _, isPath := err.(*os.PathError); isPath { // such as EISDIR
		return nil, fmt.Errorf("-P: %w", err)
	}
	return commands, err
}

const helpHead = `usage: syd [-hV] [-m command]... [-P file]... [-E VAR=VALUE]... [--] program [argument]...

With sandbox/proxy:on syd runs a program in a network of its own, from which syd-tor(1) is the only way out.
Without it the program is run as it is, with the whole network.
`

const helpTail = `
No descriptor but 0, 1 and 2 reaches the program, with sandbox/proxy:on or without. With it:
The program sees no network device but loopback. It keeps its user, its files, its terminal and UNIX sockets that
have a path. An ordinary user's supplementary groups, and other users' files, show as nobody's; what the groups may
open stays open. It has no capabilities and can gain none (no_new_privs). None of its three descriptors may be a
network socket. It cannot trace processes outside, type into the terminal by TIOCSTI, or use io_uring(7) and AF_VSOCK.
Signals are passed on to it; INT, QUIT, TSTP, TTIN, TTOU and WINCH only while syd is not in the foreground of a
terminal, which sends them to both.
If syd-tor ends early the program goes on without any network.
`

// WriteHelp prints options, commands and exit codes.
func WriteHelp(w io.Writer) error {
	var b strings.Builder
	b.WriteString(helpHead + "\nOptions:\n")
	b.WriteString(flags(new(Options)).FlagUsages())
	b.WriteString("\nCommands (default):\n")
	for _, row := range Commands {
		fmt.Fprintf(&b, "  %-23s %s\n", row.Key+row.Op.String()+row.Value, row.Text)
	}
	b.WriteString("\nExit codes, where the program's own is not passed on:\n")
	for _, row := range exit.Table {
		fmt.Fprintf(&b, "  %3d  %-11s  %s\n", row.Code, row.Name, row.Text)
	}
	b.WriteString(helpTail)
	_, err := io.WriteString(w, b.String())
	return err
}
