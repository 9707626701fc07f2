package network

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// machineSettings is a tree of settings as the kernel shows it, with two uplinks.
type machineSettings struct {
	folder string
	tables map[string]bool
}

var uplinkNames = []string{"ipv4/conf/eth0/forwarding", "ipv4/conf/eth1/forwarding"} //nolint:gochecknoglobals // constant

func newMachineSettings(t *testing.T) *machineSettings {
	t.Helper()
	m := &machineSettings{folder: t.TempDir(), tables: map[string]bool{}}
	for at, name := range uplinkNames {
		path := filepath.Join(m.folder, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte{byte('0' + at), '\n'}, 0o600)) // the second one forwards by itself
	}
	return m
}

func (m *machineSettings) cell(table string) lender {
	m.tables[table] = true
	return lender{folder: filepath.Join(m.folder, "shared"), table: table, root: m.folder, tables: func() (map[string]bool, error) { return m.tables, nil }}
}

func (m *machineSettings) values(t *testing.T) string {
	t.Helper()
	var values []string
	for _, name := range uplinkNames {
		content, err := os.ReadFile(filepath.Join(m.folder, name))
		require.NoError(t, err)
		values = append(values, strings.TrimSpace(string(content)))
	}
	return strings.Join(values, " ")
}

func TestLoans(t *testing.T) {
	t.Parallel()
	m := newMachineSettings(t)
	one, two := m.cell("one"), m.cell("two")
	require.NoError(t, one.borrow(uplinkNames))
	require.NoError(t, two.borrow(uplinkNames))
	require.NoError(t, two.borrow(uplinkNames), "a restart borrows again")
	require.Equal(t, "1 1", m.values(t))
	require.NoError(t, one.giveBack())
	require.Equal(t, "1 1", m.values(t), "the other one needs it")
	require.NoError(t, two.giveBack())
	require.Equal(t, "0 1", m.values(t), "each has the value that it had before")
	require.NoFileExists(t, one.file())
	require.NoError(t, two.giveBack())
}

// TestLoanOfADeadCell is a cell that was killed and whose table somebody removed: it needs nothing any more.
func TestLoanOfADeadCell(t *testing.T) {
	t.Parallel()
	m := newMachineSettings(t)
	dead, alive := m.cell("dead"), m.cell("alive")
	require.NoError(t, dead.borrow(uplinkNames))
	require.NoError(t, alive.borrow(uplinkNames))
	delete(m.tables, "dead")
	require.NoError(t, alive.giveBack())
	require.Equal(t, "0 1", m.values(t))
}

// TestLoanCutOff is a cell that is killed between the note and the setting, or after it.
func TestLoanCutOff(t *testing.T) {
	t.Parallel()
	m := newMachineSettings(t)
	require.NoError(t, os.Chmod(filepath.Join(m.folder, uplinkNames[1]), 0o400))
	cell := m.cell("one")
	// The third setting does not exist: the call fails before it has set anything, or noted what it has not read.
	require.Error(t, cell.borrow(append(uplinkNames, "ipv4/conf/gone/forwarding")))
	require.Equal(t, "0 1", m.values(t))
	// Noted and set, and nothing more is heard of the cell until its next start.
	require.NoError(t, cell.borrow(uplinkNames))
	again := m.cell("one")
	require.NoError(t, again.borrow(uplinkNames))
	require.NoError(t, again.giveBack())
	require.Equal(t, "0 1", m.values(t))
	// Noted, not set.
	require.NoError(t, cell.locked(func(b borrowed) error {
		b[filepath.Join(m.folder, uplinkNames[0])] = &loan{Before: "0", Users: []string{"one"}}
		return cell.save(b)
	}))
	require.NoError(t, again.borrow(uplinkNames))
	require.NoError(t, again.giveBack())
	require.Equal(t, "0 1", m.values(t))
}
