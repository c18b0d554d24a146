// Package command parses the command language of syd(1): one command on the command line with -m, or one on each
// line of a file with -P.
//
//	command = key op [value]
//	key     = word { "/" word }          word = letter { letter | digit | "_" | "," }, lower case
//	op      = ":" set | "?" query | "+" append | "-" remove | "!" execute
//
// It guarantees that each error names the source, the line and the column, and that a value reaches its command
// byte for byte. It does not know any command: the table that gives keys their meaning belongs to the caller, so
// that each part of the sandbox adds its rows without touching the parser.
package command

import (
	"fmt"
	"io"
	"strings"
)

// Op is what a command does with its key.
type Op byte

// The operators of the language. A value follows all of them but Query.
const (
	Set     Op = ':'
	Query   Op = '?'
	Append  Op = '+'
	Remove  Op = '-'
	Execute Op = '!'
)

const operators = string(Set) + string(Query) + string(Append) + string(Remove) + string(Execute)

func (o Op) String() string { return string(o) }

// maxFile bounds what Read takes from a file that never ends: a set of rules is some tens of KiB.
const maxFile = 1 << 20

// Pos is a place in a source. Line and Col count from 1, Col in bytes.
type Pos struct {
	Source    string // a file name, or "-m"
	Line, Col int    // for "-m", Line says which of the -m options it is
}

func (p Pos) String() string { return fmt.Sprintf("%s:%d:%d", p.Source, p.Line, p.Col) }

func (p Pos) plus(columns int) Pos {
	p.Col += columns
	return p
}

// Error is a mistake in a command, and where it is.
type Error struct {
	Pos Pos
	Err error
}

func (e *Error) Error() string { return e.Pos.String() + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

func errorAt(p Pos, format string, args ...any) error {
	return &Error{p, fmt.Errorf(format, args...)}
}

// Command is one parsed command: well formed, not yet known to mean anything.
type Command struct {
	Key   string
	Op    Op
	Value string
	Pos   Pos // of the key's first byte
}

// opPos and valuePos are known from the lengths: nothing stands between key, operator and value.
func (c Command) opPos() Pos    { return c.Pos.plus(len(c.Key)) }
func (c Command) valuePos() Pos { return c.Pos.plus(len(c.Key) + 1) }

// String returns the command as Parse takes it.
func (c Command) String() string { return c.Key + c.Op.String() + c.Value }

// Parse parses text, whose first byte is at pos. Blanks are part of the text: only Read strips them.
func Parse(text string, pos Pos) (Command, error) {
	if text == "" {
		return Command{}, errorAt(pos, "empty command")
	}
	// Neither can be part of a path or an argument, so they would only surprise whoever gets the value.
	if i := strings.IndexAny(text, "\x00\n"); i >= 0 {
		return Command{}, errorAt(pos.plus(i), "%q in a command", text[i])
	}
	n := keyLength(text)
	switch {
	case n == len(text):
		return Command{}, errorAt(pos.plus(n), "%q ends without one of %s", text, operators)
	case strings.IndexByte(operators, text[n]) < 0:
		return Command{}, errorAt(pos.plus(n), "%q in a key", text[n])
	case n == 0 || text[n-1] == '/':
		return Command{}, errorAt(pos.plus(n), "%q where a word of the key should be", text[n])
	}
	c := Command{Key: text[:n], Op: Op(text[n]), Value: text[n+1:], Pos: pos}
	if c.Op == Query && c.Value != "" {
		return Command{}, errorAt(c.valuePos(), "value %q after a query", c.Value)
	}
	return c, nil
}

// keyLength returns how many bytes of text are of a key: it ends before the first that cannot be.
func keyLength(text string) int {
	first := true
	for i := range len(text) {
		b := text[i]
		switch {
		case b >= 'a' && b <= 'z':
			first = false
		case !first && (b >= '0' && b <= '9' || b == '_' || b == ','):
		case !first && b == '/':
			first = true
		default:
			return i
		}
	}
	return len(text)
}

// Read parses a file of commands, one on each line. It skips empty lines and those whose first byte but blanks
// is '#'; a '#' later in a line belongs to the value. Blanks around a command are stripped. It stops at the first
// error. Read errors and a file of more than 1 MiB are errors without a place in it.
func Read(name string, r io.Reader) ([]Command, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s: longer than %d bytes", name, maxFile)
	}
	var commands []Command
	number := 0
	for line := range strings.SplitSeq(string(text), "\n") {
		number++
		start := strings.TrimLeft(line, " \t")
		if start == "" || start[0] == '#' {
			continue
		}
		pos := Pos{name, number, 1 + len(line) - len(start)}
		// Otherwise it would become part of a path, and nobody could see it there.
		if strings.HasSuffix(line, "\r") {
			return nil, errorAt(Pos{name, number, len(line)}, "line ends in a carriage return")
		}
		c, err := Parse(strings.TrimRight(start, " \t"), pos)
		if err != nil {
			return nil, err
		}
		commands = append(commands, c)
	}
	return commands, nil
}
