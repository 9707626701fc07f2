package schema

import (
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

func TestSplit(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text string
		want []string
	}{
		"nothing":                            {text: " \n-- a comment; of no use\n", want: nil},
		"one statement without its end":      {text: "select 1", want: []string{"select 1"}},
		"two statements":                     {text: "select 1;\nselect 2;\n", want: []string{"select 1", "select 2"}},
		"a semicolon in a quote":             {text: "select ';''';select 2", want: []string{"select ';'''", "select 2"}},
		"a semicolon in a name":              {text: `select ";";select 2`, want: []string{`select ";"`, "select 2"}},
		"a semicolon in a comment":           {text: "select 1 -- one;\n;select 2", want: []string{"select 1 -- one;", "select 2"}},
		"a function with a body":             {text: "do $$ begin a; b; end $$; select 2", want: []string{"do $$ begin a; b; end $$", "select 2"}},
		"a body in a quote with a tag":       {text: "do $f$ $$;$$ $f$; select 2", want: []string{"do $f$ $$;$$ $f$", "select 2"}},
		"parameters are no quotes":           {text: "select $1; select $2", want: []string{"select $1", "select $2"}},
		"a comment before a statement stays": {text: "-- why\nselect 1;", want: []string{"-- why\nselect 1"}},
		"a quote that does not end":          {text: "select ';", want: []string{"select ';"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, split(tc.text)); diff != "" {
				t.Errorf("split(%q) (-want +got):\n%s", tc.text, diff)
			}
		})
	}
}

func TestStepsFrom(t *testing.T) {
	t.Parallel()
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	tests := map[string]struct {
		files   fstest.MapFS
		problem string
	}{
		"a base and a step with a way back": {files: fstest.MapFS{"001_a.sql": file("select 1"), "002_b.sql": file("select 1;\n" + downMark + "\nselect 2")}},
		"an additive step":                  {files: fstest.MapFS{"001_a.sql": file("select 1"), "002_b.sql": file("select 1;\n" + additiveMark + "\n")}},
		"a gap":                             {files: fstest.MapFS{"001_a.sql": file("select 1"), "003_b.sql": file("x")}, problem: "the next number is 002"},
		"two of one number":                 {files: fstest.MapFS{"001_a.sql": file("x"), "001_b.sql": file("x")}, problem: "the next number is 002"},
		"a step without a way back":         {files: fstest.MapFS{"001_a.sql": file("x"), "002_b.sql": file("x")}, problem: "a way down or the mark"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			steps, err := stepsFrom(tc.files)
			if tc.problem != "" {
				require.ErrorContains(t, err, tc.problem)
				return
			}
			require.NoError(t, err)
			require.Len(t, steps, len(tc.files))
		})
	}
}

func TestStepsOfTheProgram(t *testing.T) {
	t.Parallel()
	steps, err := Steps()
	require.NoError(t, err)
	require.Equal(t, Built(), steps[len(steps)-1].Version)
}
