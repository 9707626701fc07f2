// Package output prints what commands found: documents for programs, as records arrive, and tables for people. Which of them is
// asked for by flag; a terminal gets a table. It knows nothing of what it prints.
package output

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"diego.internal/cfdot/internal/fieldpath"
)

// Format of the output. A custom one is followed by its columns.
type Format string

// The formats.
const (
	// JSON is a document a line.
	JSON  Format = "json"
	YAML  Format = "yaml"
	Table Format = "table"
	// Wide is a table that cuts nothing and has more columns.
	Wide Format = "wide"
	// Name is what a record is called, alone on its line.
	Name Format = "name"

	customPrefix = "custom="
)

// Formats are what ParseFormat takes, for messages.
const Formats = "table, wide, json, jsonl, yaml, name or custom=COLUMN:PATH,..."

// ForPeople says whether the format is a table of the columns that a command chose.
func (f Format) ForPeople() bool { return f == Table || f == Wide }

// ParseFormat reads the flag; empty means a table on a terminal and lines of JSON elsewhere.
func ParseFormat(name string, terminal bool) (Format, error) {
	switch {
	case name == "" && terminal:
		return Table, nil
	case name == "", name == "json", name == "jsonl":
		return JSON, nil
	case name == "yaml", name == "table", name == "wide", name == "name":
		return Format(name), nil
	case strings.HasPrefix(name, customPrefix):
		_, err := customColumns(Format(name))
		return Format(name), err
	default:
		return "", fmt.Errorf("%q is not an output format: %s", name, Formats)
	}
}

// customColumn is a column that the user chose.
type customColumn struct {
	name string
	path fieldpath.Path
}

func customColumns(f Format) ([]customColumn, error) {
	list, isCustom := strings.CutPrefix(string(f), customPrefix)
	if !isCustom {
		return nil, nil
	}
	var out []customColumn
	for part := range strings.SplitSeq(list, ",") {
		name, text, both := strings.Cut(part, ":")
		if !both || name == "" || text == "" {
			return nil, fmt.Errorf("%q: a column is COLUMN:PATH, as in PROCESS:.process_guid", part)
		}
		path, err := fieldpath.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", name, err)
		}
		out = append(out, customColumn{name: name, path: path})
	}
	return out, nil
}

// Column of a table of T.
type Column[T any] struct {
	Name string
	Cell func(T) string
	// Right puts numbers under each other.
	Right bool
	// Wide columns are only in wide tables.
	Wide bool
	// Whole columns are never cut: what they say is worth a second line.
	Whole bool
	// ID columns together are the name of a record; if there are none, the first column is.
	ID bool
	// Mood gives a cell its colour; nil gives none.
	Mood func(cell string) Mood
}

// Printer prints records of one kind. Close ends it; a table of few rows appears then.
type Printer[T any] struct {
	format  Format
	out     io.Writer
	encoder *json.Encoder
	columns []Column[T]
	ids     []Column[T]
	custom  []customColumn
	grid    *grid
	printed bool
}

// Options of a printer.
type Options struct {
	Format Format
	Out    io.Writer
	// Width of the terminal in characters; 0 cuts nothing.
	Width     int
	NoHeaders bool
	// Color says whether the reader shows colours.
	Color bool
}

// New makes a printer with the columns of its table.
func New[T any](o Options, columns ...Column[T]) *Printer[T] {
	encoder := json.NewEncoder(o.Out)
	encoder.SetEscapeHTML(false)
	p := &Printer[T]{format: o.Format, out: o.Out, encoder: encoder}
	p.custom, _ = customColumns(o.Format) // it was checked when the flag was read
	p.grid = &grid{out: o.Out, headers: !o.NoHeaders, color: o.Color}
	if o.Format == Table {
		p.grid.width = o.Width
	}
	for _, column := range columns {
		if column.ID {
			p.ids = append(p.ids, column)
		}
		if !column.Wide || o.Format == Wide {
			p.columns = append(p.columns, column)
			p.grid.columns = append(p.grid.columns, heading{name: column.Name, right: column.Right, whole: column.Whole, mood: column.Mood})
		}
	}
	if len(p.ids) == 0 {
		p.ids = columns[:min(1, len(columns))]
	}
	if len(p.custom) > 0 {
		p.grid.columns = nil
		for _, column := range p.custom {
			p.grid.columns = append(p.grid.columns, heading{name: column.name})
		}
	}
	return p
}

// Print prints one record. All but tables are written at once.
func (p *Printer[T]) Print(record T) error {
	switch {
	case p.format == JSON:
		return p.encoder.Encode(record)
	case p.format == YAML:
		return p.printYAML(record)
	case p.format == Name && len(p.ids) > 0:
		var parts []string
		for _, column := range p.ids {
			parts = append(parts, printable(column.Cell(record)))
		}
		_, err := fmt.Fprintln(p.out, strings.Join(parts, "/"))
		return err
	case len(p.custom) > 0:
		return p.printCustom(record)
	}
	row := make([]string, 0, len(p.columns))
	for _, column := range p.columns {
		row = append(row, printable(column.Cell(record)))
	}
	return p.grid.add(row)
}

func (p *Printer[T]) printCustom(record T) error {
	document, err := fieldpath.Of(record)
	if err != nil {
		return err
	}
	row := make([]string, 0, len(p.custom))
	for _, column := range p.custom {
		text, found := document.Get(column.path)
		if !found {
			text = "-"
		}
		row = append(row, printable(text))
	}
	return p.grid.add(row)
}

// Close prints what of a table is left. It may be called once.
func (p *Printer[T]) Close() error {
	if len(p.custom) > 0 || p.format.ForPeople() && len(p.columns) > 0 {
		return p.grid.close()
	}
	return nil
}

// Flush prints the rows that wait for others; those that come later get the widths that are known then.
func (p *Printer[T]) Flush() error {
	if len(p.custom) > 0 || p.format.ForPeople() && len(p.columns) > 0 {
		return p.grid.flush()
	}
	return nil
}

// ErrClosed says that nobody reads the output any more, as when it was piped into head.
var ErrClosed = errors.New("the output was closed")

// Writer passes on what is written and tells ErrClosed when the reader has gone away. Every writing to standard output goes
// through one, so that no command has to think of it.
type Writer struct{ Out io.Writer }

// Write implements io.Writer.
func (w Writer) Write(text []byte) (int, error) {
	n, err := w.Out.Write(text)
	if errors.Is(err, syscall.EPIPE) {
		err = ErrClosed
	}
	return n, err
}
