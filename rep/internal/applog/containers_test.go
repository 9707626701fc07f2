package applog

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor"
)

func of(guid, process string) executor.Container {
	return executor.Container{GUID: guid, Tags: map[string]string{ByProcess: process, ByInstance: guid}}
}

func guids(containers []executor.Container) []string {
	var out []string
	for _, c := range containers {
		out = append(out, c.GUID)
	}
	return out
}

func TestFinderFindsWhatLivesAndWhatHasJustEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		living := []executor.Container{of("a", "p"), of("b", "q"), of("c", "p")}
		f := &Finder{List: func() []executor.Container { return living }, Keep: 15 * time.Minute, Most: 3}
		require.Equal(t, []string{"a", "c"}, guids(f.Find(ByProcess, "p")))
		require.Equal(t, []string{"b"}, guids(f.Find(ByInstance, "b")))
		require.Empty(t, f.Find(ByTask, "p"))

		f.Retire(living[0])
		require.Equal(t, []string{"a", "c"}, guids(f.Find(ByProcess, "p")), "not twice while its deletion is under way")
		f.Retire(living[0]) // the deletion failed and is tried again
		living = living[1:]
		require.Equal(t, []string{"a", "c"}, guids(f.Find(ByProcess, "p")), "the log of an instance that has just crashed")

		time.Sleep(15 * time.Minute) //nolint:forbidigo // the clock of the bubble
		require.Equal(t, []string{"c"}, guids(f.Find(ByProcess, "p")), "for as long as its log is kept")
		f.Retire(of("d", "p"))
		require.Len(t, f.gone, 1, "what is too old is forgotten")
	})
}

func TestFinderRemembersOnlySoMany(t *testing.T) {
	t.Parallel()
	f := &Finder{List: func() []executor.Container { return nil }, Keep: time.Hour, Most: 3}
	for i := range 10 {
		f.Retire(of(fmt.Sprint(i), "p"))
	}
	require.Equal(t, []string{"7", "8", "9"}, guids(f.Find(ByProcess, "p")))
}
