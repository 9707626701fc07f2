package docstest

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

// TestMapOfThePackages holds docs/architecture.md to the folders that there are.
func TestMapOfThePackages(t *testing.T) {
	t.Parallel()
	described := map[string]bool{}
	for _, r := range readPage(t, "architecture.md").tables["Map of the packages"] {
		for _, name := range codes(r.cell(0)) {
			described[name] = true
			require.NotEmpty(t, r.cell(1), name)
		}
	}
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	found := map[string]bool{}
	require.NoError(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil && os.IsNotExist(err):
			return nil // a folder of a test that has just ended
		case err != nil:
			return err
		case e.IsDir() && (strings.HasPrefix(e.Name(), ".") || e.Name() == "testdata" || e.Name() == "bin") && path != root:
			return filepath.SkipDir
		case !e.IsDir() && filepath.Ext(path) == ".go":
			name, err := filepath.Rel(root, filepath.Dir(path))
			found[filepath.ToSlash(name)] = true
			return err
		}
		return nil
	}))
	if d := cmp.Diff(slices.Sorted(maps.Keys(found)), slices.Sorted(maps.Keys(described))); d != "" {
		t.Errorf("docs/architecture.md, map of the packages (-in the tree +described):\n%s", d)
	}
}
