package command

// Row gives a key and an operator their meaning for a T.
type Row[T any] struct {
	Key   string
	Op    Op
	Value string // what the help writes after the operator
	Text  string // one line for the help

	// Run carries the command out. Its error names the value and what is wanted; the place is added by Table.Run.
	Run func(t *T, value string) error
}

// Table lists the commands that something understands. A key may have several rows, one for each operator.
type Table[T any] []Row[T]

// Run carries out c on t. Every error is an *Error that points at the part of the command that is at fault.
func (rows Table[T]) Run(t *T, c Command) error {
	known := ""
	for _, row := range rows {
		if row.Key != c.Key {
			continue
		}
		if row.Op != c.Op {
			known += row.Op.String()
			continue
		}
		if err := row.Run(t, c.Value); err != nil {
			return errorAt(c.valuePos(), "%s: %w", c.Key, err)
		}
		return nil
	}
	if known != "" {
		return errorAt(c.opPos(), "%s takes %s, not %s", c.Key, known, c.Op)
	}
	return errorAt(c.Pos, "unknown command %q", c.Key)
}
