package output

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

type pet struct {
	Name string `json:"name"`
	Legs int    `json:"legs"`
	Note string `json:"note,omitempty"`
}

func petColumns() []Column[pet] {
	return []Column[pet]{
		{Name: "NAME", Cell: func(p pet) string { return p.Name }},
		{Name: "LEGS", Cell: func(p pet) string { return strings.Repeat("|", p.Legs) }},
		{Name: "NOTE", Cell: func(p pet) string { return p.Note }},
	}
}

func TestParseFormat(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		flag     string
		terminal bool
		want     Format
	}{
		"a terminal gets a table":       {"", true, Table},
		"a pipe gets lines":             {"", false, JSON},
		"lines on a terminal":           {"json", true, JSON},
		"lines by their other name":     {"jsonl", true, JSON},
		"a table in a pipe":             {"table", false, Table},
		"a table that cuts nothing":     {"wide", true, Wide},
		"a table in a pipe, cut or not": {"wide", false, Wide},
		"documents of several lines":    {"yaml", true, YAML},
		"names":                         {"name", true, Name},
		"columns of one's own":          {"custom=A:.a,B:b[0].c", true, "custom=A:.a,B:b[0].c"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseFormat(test.flag, test.terminal)
			require.NoError(t, err)
			require.Equal(t, test.want, got)
		})
	}
	for _, text := range []string{"xml", "custom", "custom=", "custom=A", "custom=A:", "custom=:a", "custom=A:a..b"} {
		_, err := ParseFormat(text, true)
		require.Error(t, err, text)
	}
}

func TestPrinterWritesLinesAtOnce(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := New(Options{Format: JSON, Out: &out}, petColumns()...)
	require.NoError(t, p.Print(pet{Name: "<cat> & é", Legs: 4}))
	before := out.String()
	require.True(t, strings.HasSuffix(before, "\n"), "a whole line, before the end")
	require.Contains(t, before, "<cat> & é", "as it was written")
	require.NoError(t, p.Print(pet{Name: "two\nlines"}))
	require.NoError(t, p.Close())
	require.Equal(t, 2, strings.Count(out.String(), "\n"))
}

func TestPrinterTable(t *testing.T) {
	t.Parallel()
	long := pet{Name: "1234567890abcdefghij1234567890", Legs: 4, Note: "a note"}
	short := pet{Name: "bird", Legs: 2}
	for name, test := range map[string]struct {
		options Options
		pets    []pet
		want    string
	}{
		"columns line up": {
			Options{Format: Table},
			[]pet{{"cat", 4, "black"}, short},
			"NAME  LEGS  NOTE\ncat   ||||  black\nbird  ||\n",
		},
		"nothing has its headers all the same": {Options{Format: Table}, nil, "NAME  LEGS  NOTE\n"},
		"no headers":                           {Options{Format: Table, NoHeaders: true}, []pet{short}, "bird  ||\n"},
		"nothing and no headers":               {Options{Format: Table, NoHeaders: true}, nil, ""},
		"not cut when there is no width": {
			Options{Format: Table},
			[]pet{long},
			"NAME                            LEGS  NOTE\n1234567890abcdefghij1234567890  ||||  a note\n",
		},
		"cut in the middle to the width of a terminal": {
			Options{Format: Table, Width: 34},
			[]pet{long},
			"NAME                  LEGS  NOTE\n123456789...34567890  ||||  a note\n",
		},
		"not cut below what can be read": {
			Options{Format: Table, Width: 5},
			[]pet{long},
			"NAME          LEGS  NOTE\n12345...7890  ||||  a note\n",
		},
		"wide cuts nothing": {
			Options{Format: Wide, Width: 10},
			[]pet{long},
			"NAME                            LEGS  NOTE\n1234567890abcdefghij1234567890  ||||  a note\n",
		},
		"what would command the terminal is blanked": {
			Options{Format: Table, NoHeaders: true},
			[]pet{{"a\x1b[2Jb\tc\nd\x7f", 0, ""}},
			"a [2Jb c d \n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			test.options.Out = &out
			p := New(test.options, petColumns()...)
			for _, one := range test.pets {
				require.NoError(t, p.Print(one))
				require.Empty(t, out.String(), "a table needs all of its rows")
			}
			require.NoError(t, p.Close())
			require.Equal(t, test.want, out.String())
		})
	}
}

// TestPrinterColumns shows numbers under each other, columns that only a wide table has, and colours around what is padded.
func TestPrinterColumns(t *testing.T) {
	t.Parallel()
	columns := []Column[pet]{
		{Name: "NAME", ID: true, Cell: func(p pet) string { return p.Name }},
		{Name: "LEGS", ID: true, Right: true, Cell: func(p pet) string { return strconv.Itoa(p.Legs) }, Mood: func(legs string) Mood {
			if legs == "3" {
				return Bad
			}
			return Plain
		}},
		{Name: "NOTE", Wide: true, Cell: func(p pet) string { return p.Note }},
	}
	for name, test := range map[string]struct {
		options Options
		want    string
	}{
		"numbers":     {Options{Format: Table}, "NAME  LEGS\ncat      3\nmany   100\n"},
		"wide":        {Options{Format: Wide}, "NAME  LEGS  NOTE\ncat      3  lame\nmany   100\n"},
		"colours":     {Options{Format: Table, Color: true}, "NAME  LEGS\ncat      \x1b[31m3\x1b[0m\nmany   100\n"},
		"names":       {Options{Format: Name}, "cat/3\nmany/100\n"},
		"custom":      {Options{Format: "custom=N:.name,WHY:.note"}, "N     WHY\ncat   lame\nmany  -\n"},
		"yaml":        {Options{Format: YAML}, "name: cat\nlegs: 3\nnote: lame\n---\nname: many\nlegs: 100\n"},
		"json":        {Options{Format: JSON}, "{\"name\":\"cat\",\"legs\":3,\"note\":\"lame\"}\n{\"name\":\"many\",\"legs\":100}\n"},
		"no headings": {Options{Format: "custom=N:.name", NoHeaders: true}, "cat\nmany\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			test.options.Out = &out
			p := New(test.options, columns...)
			require.NoError(t, errors.Join(p.Print(pet{"cat", 3, "lame"}), p.Print(pet{Name: "many", Legs: 100}), p.Close()))
			require.Equal(t, test.want, out.String())
		})
	}
}

// TestPrinterYAMLIsTrue keeps texts texts, whatever they look like.
func TestPrinterYAMLIsTrue(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := pet{Name: rapid.OneOf(rapid.SampledFrom([]string{"true", "1", "null", "~", "a: b", "- x", "1e3", "", "no", "2026-01-01"}), rapid.String()).Draw(t, "name"), Legs: rapid.Int().Draw(t, "legs")}
		want.Name = strings.ToValidUTF8(want.Name, "")
		var out bytes.Buffer
		if err := New(Options{Format: YAML, Out: &out}, petColumns()...).Print(want); err != nil {
			t.Fatal(err)
		}
		var got pet
		if err := yaml.Unmarshal(out.Bytes(), &got); err != nil || got != want {
			t.Fatalf("%q is not %+v but %+v: %v", out.String(), want, got, err)
		}
	})
}

// TestLongTablesAreNotHeld prints the rows after the first thousand as they come, in the columns of those.
func TestLongTablesAreNotHeld(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := New(Options{Format: Table, Out: &out, Width: 40}, petColumns()...)
	for range measured - 1 {
		require.NoError(t, p.Print(pet{Name: "cat", Note: "black"}))
	}
	require.Empty(t, out.String())
	require.NoError(t, p.Print(pet{Name: "cat", Note: "black"}))
	require.Equal(t, measured+1, strings.Count(out.String(), "\n"))
	out.Reset()
	require.NoError(t, p.Print(pet{Name: "1234567890", Legs: 1, Note: "x"}))
	require.Equal(t, "1234567890  |     x\n", out.String(), "what is longer than all before is not cut below what can be read")
}

// TestNarrowTablesLoseEmptyColumnsFirst, before anything is cut.
func TestNarrowTablesLoseEmptyColumnsFirst(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := New(Options{Format: Table, Out: &out, Width: 12}, petColumns()...)
	require.NoError(t, errors.Join(p.Print(pet{Name: "cat", Legs: 4}), p.Close()))
	require.Equal(t, "NAME  LEGS\ncat   ||||\n", out.String())
}

// TestMiddle keeps both ends and never exceeds the width, in characters and not in bytes.
func TestMiddle(t *testing.T) {
	t.Parallel()
	require.Equal(t, "äöü", middle("äöü", 3))
	require.Equal(t, "ä...ü", middle("äöüäöü", 5))
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		width := rapid.IntRange(4, 60).Draw(t, "width")
		got := []rune(middle(text, width))
		if len([]rune(text)) <= width && string(got) != text {
			t.Fatalf("%q was cut although it fits into %d", text, width)
		}
		if len(got) > width {
			t.Fatalf("%q is longer than %d", string(got), width)
		}
		if !strings.HasPrefix(text, string(got[:min(1, len(got))])) {
			t.Fatalf("%q has lost the beginning of %q", string(got), text)
		}
	})
}

// TestWriterTellsOfAReaderThatWentAway writes into a real pipe, as into head.
func TestWriterTellsOfAReaderThatWentAway(t *testing.T) {
	t.Parallel()
	for _, format := range []Format{JSON, Table} {
		reader, writer, err := os.Pipe()
		require.NoError(t, err)
		require.NoError(t, reader.Close())
		p := New(Options{Format: format, Out: Writer{Out: writer}}, petColumns()...)
		require.ErrorIs(t, errors.Join(p.Print(pet{Name: "cat"}), p.Close()), ErrClosed, string(format))
		require.NoError(t, writer.Close())
	}
	_, err := Writer{Out: failing{}}.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.ENOSPC, "a full disk is no reader that went away")
	require.NotErrorIs(t, err, ErrClosed)
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestAge(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000_000, 0)
	for age, want := range map[time.Duration]string{
		-time.Minute:                    "0s",
		0:                               "0s",
		59*time.Second + 999e6:          "59s",
		time.Minute:                     "1m0s",
		59*time.Minute + 59*time.Second: "59m59s",
		3*time.Hour + 12*time.Minute:    "3h12m",
		24 * time.Hour:                  "1d0h",
		50 * time.Hour:                  "2d2h",
	} {
		require.Equal(t, want, Age(now.Add(-age).UnixNano(), now), age.String())
	}
	require.Empty(t, Age(0, now), "no time has no age")
}

func TestUnits(t *testing.T) {
	t.Parallel()
	for mb, want := range map[int32]string{0: "0 MiB", 512: "512 MiB", 1024: "1 GiB", 1536: "1.5 GiB", 1300: "1300 MiB", 16384: "16 GiB"} {
		require.Equal(t, want, Mebibytes(mb))
	}
	require.Equal(t, "-", Percent(1, 0))
	require.Equal(t, "0%", Percent(0, 7))
	require.Equal(t, "33%", Percent(1, 3))
	require.Equal(t, "100%", Percent(1<<31-1, 1<<31-1), "without overflow")
}

// TestLinesAreDocuments reads back whatever was printed.
func TestLinesAreDocuments(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := pet{Name: rapid.String().Draw(t, "name"), Legs: rapid.Int().Draw(t, "legs")}
		var out bytes.Buffer
		p := New(Options{Format: JSON, Out: &out}, petColumns()...)
		if err := p.Print(want); err != nil {
			t.Fatal(err)
		}
		var got pet
		if err := json.Unmarshal(bytes.TrimSuffix(out.Bytes(), []byte("\n")), &got); err != nil || got != want || bytes.Count(out.Bytes(), []byte("\n")) != 1 {
			t.Fatalf("%q is not one line for %+v: %v", out.String(), want, err)
		}
	})
}
