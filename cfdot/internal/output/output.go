// Package output prints what commands found: a JSON document per line for programs, as records arrive, and a table for people.
// Which of the two is asked for by flag; a terminal gets a table. It knows nothing of what it prints.
package output

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// Format of the output.
type Format string

// The formats.
const (
	JSON  Format = "json"
	Table Format = "table"
	// Wide is a table that cuts nothing.
	Wide Format = "wide"
)

// ParseFormat reads the flag; empty means a table on a terminal and lines of JSON elsewhere.
func ParseFormat(name string, terminal bool) (Format, error) {
	switch name {
	case "":
		if terminal {
			return Table, nil
		}
		return JSON, nil
	case "json", "jsonl":
		return JSON, nil
	case "table":
		return Table, nil
	case "wide":
		return Wide, nil
	default:
		return "", fmt.Errorf("%q is not an output format: json, table or wide", name)
	}
}

// Column of a table of T.
type Column[T any] struct {
	Name string
	Cell func(T) string
}

// Printer prints records of one kind. Close ends it; a table appears then.
type Printer[T any] struct {
	format  Format
	out     io.Writer
	encoder *json.Encoder
	columns []Column[T]
	rows    [][]string
	width   int
	headers bool
}

// Options of a printer.
type Options struct {
	Format Format
	Out    io.Writer
	// Width of the terminal in characters; 0 cuts nothing.
	Width     int
	NoHeaders bool
}

// New makes a printer with the columns of its table.
func New[T any](o Options, columns ...Column[T]) *Printer[T] {
	encoder := json.NewEncoder(o.Out)
	encoder.SetEscapeHTML(false)
	return &Printer[T]{format: o.Format, out: o.Out, encoder: encoder, columns: columns, width: o.Width, headers: !o.NoHeaders}
}

// Print prints one record. JSON is written at once.
func (p *Printer[T]) Print(record T) error {
	if p.format == JSON {
		return p.encoder.Encode(record)
	}
	row := make([]string, 0, len(p.columns))
	for _, column := range p.columns {
		row = append(row, printable(column.Cell(record)))
	}
	p.rows = append(p.rows, row)
	return nil
}

// Close prints the table. It may be called once.
func (p *Printer[T]) Close() error {
	if p.format == JSON || len(p.columns) == 0 {
		return nil
	}
	if p.format == Table && p.width > 0 {
		p.cut()
	}
	writer := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	if p.headers {
		names := make([]string, 0, len(p.columns))
		for _, column := range p.columns {
			names = append(names, column.Name)
		}
		if _, err := fmt.Fprintln(writer, strings.Join(names, "\t")); err != nil {
			return err
		}
	}
	for _, row := range p.rows {
		if _, err := fmt.Fprintln(writer, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return writer.Flush()
}

// cut shortens the longest column again and again until the table fits, but none below minColumn.
func (p *Printer[T]) cut() {
	const gap, minColumn = 2, 12
	widths := make([]int, len(p.columns))
	for i, column := range p.columns {
		widths[i] = len(column.Name)
		for _, row := range p.rows {
			widths[i] = max(widths[i], len([]rune(row[i])))
		}
	}
	for {
		total, longest := 0, 0
		for i, width := range widths {
			total += width + gap
			if width > widths[longest] {
				longest = i
			}
		}
		if total <= p.width || widths[longest] <= minColumn {
			break
		}
		widths[longest]--
	}
	for _, row := range p.rows {
		for i := range row {
			row[i] = middle(row[i], widths[i])
		}
	}
}

// middle cuts the middle out of a text that is too long, because guids differ at both ends.
func middle(text string, width int) string {
	runes := []rune(text)
	const dots = "..."
	if len(runes) <= width || width <= len(dots) {
		return text
	}
	head := (width - len(dots) + 1) / 2
	tail := width - len(dots) - head
	return string(runes[:head]) + dots + string(runes[len(runes)-tail:])
}

// printable keeps a cell on one line and a terminal from being told what to do.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
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

// Age is the time since a moment in nanoseconds since 1970, as people say it; empty for 0.
func Age(since int64, now time.Time) string {
	if since == 0 {
		return ""
	}
	age := max(now.Sub(time.Unix(0, since)), 0)
	switch {
	case age < time.Minute:
		return fmt.Sprintf("%ds", int(age.Seconds()))
	case age < time.Hour:
		return fmt.Sprintf("%dm%ds", int(age.Minutes()), int(age.Seconds())%60)
	case age < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", int(age.Hours()), int(age.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%dh", int(age.Hours())/24, int(age.Hours())%24)
	}
}

// Mebibytes as people say them.
func Mebibytes(mb int32) string {
	if mb >= 1024 && mb%1024 == 0 {
		return fmt.Sprintf("%d GiB", mb/1024)
	}
	return fmt.Sprintf("%d MiB", mb)
}

// Bytes as people say them, in powers of 1024.
func Bytes(n uint64) string {
	const step = 1024
	if n < step {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/step, 0
	for value >= step && unit < 3 {
		value, unit = value/step, unit+1
	}
	return fmt.Sprintf("%.1f %s", value, [...]string{"KiB", "MiB", "GiB", "TiB"}[unit])
}

// Percent of a total; a total of nothing is a dash.
func Percent(used, total int32) string {
	if total <= 0 {
		return "-"
	}
	return fmt.Sprintf("%d%%", int64(used)*100/int64(total))
}
