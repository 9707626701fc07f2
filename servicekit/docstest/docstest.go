// Package docstest owns the checks that keep the operators' pages of the product true: docs/metrics.md against what
// a process registers, and docs/configuration.md against the struct that its configuration file fills. Both pages are
// tables under one heading for each process; what several processes have in common has a heading of its own. The
// package does not own what the pages say beyond that; each process calls the checks in its tests.
package docstest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// row is one line of a table: its cells without blanks around them.
type row []string

func (r row) cell(i int) string {
	if i < len(r) {
		return r[i]
	}
	return ""
}

// page is a file of docs by heading.
type page struct {
	name   string
	tables map[string][]row
}

// readPage reads docs/<name> of the repository that the test runs in.
func readPage(tb testing.TB, name string) page {
	tb.Helper()
	folder, err := os.Getwd()
	require.NoError(tb, err)
	for {
		file := filepath.Join(folder, "docs", name)
		content, err := os.ReadFile(file)
		if err == nil {
			return parsePage(name, string(content))
		}
		require.NotEqual(tb, "/", folder, "no folder above this one has docs/%s", name)
		folder = filepath.Dir(folder)
	}
}

// parsePage gathers the rows of the tables under each heading, without their head lines.
func parsePage(name, text string) page {
	p := page{name: name, tables: map[string][]row{}}
	heading, head := "", true
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "#"):
			heading, head = strings.TrimSpace(strings.TrimLeft(line, "#")), true
		case !strings.HasPrefix(line, "|"):
			head = true
		case strings.HasPrefix(line, "|--") || strings.HasPrefix(line, "| --"):
			head = false
		case !head:
			p.tables[heading] = append(p.tables[heading], cells(line))
		}
	}
	return p
}

// cells splits a line of a table. A pipe in a cell is written \|.
func cells(line string) row {
	const escaped = "\x00"
	line = strings.ReplaceAll(strings.Trim(line, "|"), `\|`, escaped)
	var r row
	for cell := range strings.SplitSeq(line, "|") {
		r = append(r, strings.TrimSpace(strings.ReplaceAll(cell, escaped, "|")))
	}
	return r
}

var code = regexp.MustCompile("`([^`]+)`")

// codes returns what is set as code in a cell.
func codes(cell string) []string {
	var all []string
	for _, m := range code.FindAllStringSubmatch(cell, -1) {
		all = append(all, m[1])
	}
	return all
}
