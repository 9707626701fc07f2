package output

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseFormat(test.flag, test.terminal)
			require.NoError(t, err)
			require.Equal(t, test.want, got)
		})
	}
	_, err := ParseFormat("xml", true)
	require.ErrorContains(t, err, `"xml" is not an output format`)
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
			"NAME  LEGS  NOTE\ncat   ||||  black\nbird  ||    \n",
		},
		"nothing has its headers all the same": {Options{Format: Table}, nil, "NAME  LEGS  NOTE\n"},
		"no headers":                           {Options{Format: Table, NoHeaders: true}, []pet{short}, "bird  ||  \n"},
		"nothing and no headers":               {Options{Format: Table, NoHeaders: true}, nil, ""},
		"not cut when there is no width": {
			Options{Format: Table},
			[]pet{long},
			"NAME                            LEGS  NOTE\n1234567890abcdefghij1234567890  ||||  a note\n",
		},
		"cut in the middle to the width of a terminal": {
			Options{Format: Table, Width: 34},
			[]pet{long},
			"NAME                LEGS  NOTE\n12345678...4567890  ||||  a note\n",
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
			"a [2Jb c d     \n",
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
	for mb, want := range map[int32]string{0: "0 MiB", 512: "512 MiB", 1024: "1 GiB", 1536: "1536 MiB", 16384: "16 GiB"} {
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
