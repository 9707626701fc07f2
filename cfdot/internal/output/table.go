package output

import (
	"io"
	"strings"
	"unicode/utf8"
)

// measured is how many rows a table looks at before it settles how wide its columns are. What comes after them is printed as it
// comes, so that a table of all instances of a large platform needs no more memory than a short one.
const measured = 1000

const (
	gap = "  "
	// minColumn is how short a cell may be cut.
	minColumn = 12
)

// heading of a column.
type heading struct {
	name  string
	right bool
	whole bool
	mood  func(string) Mood
}

// grid lays out rows in columns.
type grid struct {
	out     io.Writer
	columns []heading
	headers bool
	color   bool
	// width to cut to; 0 cuts nothing.
	width int

	rows   [][]string
	widths []int
	hidden []bool
	// settled says that widths are decided and the names of the columns printed.
	settled bool
}

// add takes a row; it is printed now or when the widths are settled.
func (g *grid) add(row []string) error {
	if g.settled {
		return g.print(row)
	}
	g.rows = append(g.rows, row)
	if len(g.rows) < measured {
		return nil
	}
	return g.flush()
}

// close ends the table. One without rows has its names all the same.
func (g *grid) close() error { return g.flush() }

// flush prints what waits.
func (g *grid) flush() error {
	if !g.settled {
		g.settle()
		if g.headers {
			names := make([]string, len(g.columns))
			for i, column := range g.columns {
				names[i] = column.name
			}
			if err := g.line(names, func(int) string { return "" }); err != nil {
				return err
			}
		}
	}
	for _, row := range g.rows {
		if err := g.print(row); err != nil {
			return err
		}
	}
	g.rows = nil
	return nil
}

// settle measures the rows that are there. A table that is too wide loses its empty columns first, and then the longest column
// is shortened again and again until the table fits, but none below minColumn.
func (g *grid) settle() {
	g.settled = true
	g.widths, g.hidden = make([]int, len(g.columns)), make([]bool, len(g.columns))
	empty := make([]bool, len(g.columns))
	for i, column := range g.columns {
		g.widths[i], empty[i] = utf8.RuneCountInString(column.name), true
		for _, row := range g.rows {
			g.widths[i] = max(g.widths[i], utf8.RuneCountInString(row[i]))
			empty[i] = empty[i] && row[i] == ""
		}
	}
	if g.width == 0 {
		return
	}
	for i := range g.columns {
		if total, _ := g.total(); total > g.width && empty[i] && len(g.rows) > 0 {
			g.hidden[i] = true
		}
	}
	for {
		total, longest := g.total()
		if total <= g.width || longest < 0 || g.widths[longest] <= minColumn {
			return
		}
		g.widths[longest]--
	}
}

// total is how wide the table is, and which of its columns that may be cut is the widest, or -1.
func (g *grid) total() (total, longest int) {
	longest = -1
	for i, width := range g.widths {
		if g.hidden[i] {
			continue
		}
		if total > 0 {
			total += len(gap)
		}
		total += width
		if !g.columns[i].whole && (longest < 0 || width > g.widths[longest]) {
			longest = i
		}
	}
	return total, longest
}

func (g *grid) print(row []string) error {
	return g.line(row, func(i int) string {
		if mood := g.columns[i].mood; g.color && mood != nil {
			return mood(row[i]).code()
		}
		return ""
	})
}

// line prints one line. Colours are put around cells that are cut and padded already, since they have no width.
func (g *grid) line(cells []string, color func(int) string) error {
	var line strings.Builder
	pending := 0 // blanks that are left out at the end of the line
	for i, cell := range cells {
		if g.hidden[i] {
			continue
		}
		if g.width > 0 && !g.columns[i].whole {
			cell = middle(cell, max(g.widths[i], minColumn)) // a row that comes after widths were settled may be longer than all before
		}
		padding := max(g.widths[i]-utf8.RuneCountInString(cell), 0)
		if g.columns[i].right {
			pending, padding = pending+padding, 0
		}
		if cell != "" {
			line.WriteString(strings.Repeat(" ", pending))
			pending = 0
			if code := color(i); code != "" {
				cell = code + cell + resetCode
			}
			line.WriteString(cell)
		}
		pending += padding + len(gap)
	}
	line.WriteByte('\n')
	_, err := io.WriteString(g.out, line.String())
	return err
}

// middle cuts the middle out of a text that is too long, because guids differ at both ends.
func middle(text string, width int) string {
	const dots = "..."
	if utf8.RuneCountInString(text) <= width || width <= len(dots) {
		return text
	}
	runes := []rune(text)
	head := (width - len(dots) + 1) / 2
	tail := width - len(dots) - head
	return string(runes[:head]) + dots + string(runes[len(runes)-tail:])
}

// printable keeps a cell on one line and a terminal from being told what to do.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 { // of the second range too, some terminals take commands
			return ' '
		}
		return r
	}, text)
}

// Printable is a text on one line that cannot command a terminal.
func Printable(text string) string { return printable(text) }

// Mood of a cell, which a terminal shows as a colour.
type Mood int

// The moods.
const (
	Plain Mood = iota
	Good
	Warning
	Bad
	Faint
)

const resetCode = "\x1b[0m"

func (m Mood) code() string {
	switch m {
	case Good:
		return "\x1b[32m"
	case Warning:
		return "\x1b[33m"
	case Bad:
		return "\x1b[31m"
	case Faint:
		return "\x1b[2m"
	case Plain:
		return ""
	default:
		return ""
	}
}

// Paint colours a text that is not in a table, if color is set.
func Paint(color bool, m Mood, text string) string {
	if code := m.code(); color && code != "" {
		return code + text + resetCode
	}
	return text
}
