package command

import (
	"fmt"
	"strings"

	"diego.internal/cfdot/internal/output"
)

// page is a description for people: titles, facts under each other and tables.
type page struct {
	*app
	err error
}

func (p *page) write(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.Stdout, format, args...)
	}
}

// title begins a section.
func (p *page) title(format string, args ...any) { p.write("\n"+format+"\n", args...) }

// fact is a name and a value; one without a value is left out.
type fact struct{ name, value string }

// facts prints names and values under each other.
func (p *page) facts(facts ...fact) {
	width := 0
	for _, f := range facts {
		if f.value != "" {
			width = max(width, len(f.name))
		}
	}
	for _, f := range facts {
		if f.value != "" {
			p.write("%-*s  %s\n", width+1, f.name+":", output.Printable(f.value))
		}
	}
}

// note prints what the reader should know about what is missing.
func (p *page) note(format string, args ...any) {
	p.write("%s\n", output.Paint(p.color(), output.Faint, output.Printable(fmt.Sprintf(format, args...))))
}

// table prints records, indented by nothing, or says that there are none.
func table[T any](p *page, columns []output.Column[T], records []T) {
	if len(records) == 0 {
		p.write("none\n")
		return
	}
	if p.err == nil {
		p.err = printAll(printer(p.app, columns...), each(records))
	}
}

// joined joins what is not empty.
func joined(separator string, parts ...string) string {
	var out []string
	for _, part := range parts {
		if part != "" {
			out = append(out, part)
		}
	}
	return strings.Join(out, separator)
}
